"""Sizes of networks, one dataclass each. No torch: the server reads them off a file's header too."""

from __future__ import annotations

from dataclasses import dataclass

ONE_BLOCK, NO_MIDDLE = -1, -2
"""Values of `UNetConfig.middle_depth` that are no depth: one residual block without attention, and nothing at all."""


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet. ``transformer_depth`` has one entry per level, 0 where a level has no attention."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    middle_depth: int = 1
    """Transformer blocks in the middle; `ONE_BLOCK` or `NO_MIDDLE` in pruned models."""
    num_heads: int = 8
    head_channels: int = 0
    """Channels a head; above 0 it replaces ``num_heads`` (SD2 and SDXL: 64)."""
    context_dim: int = 768
    linear_proj: bool = False
    """``proj_in`` and ``proj_out`` are linear layers (SD2, SDXL) rather than 1x1 convolutions (SD1)."""
    vector_dim: int = 0
    """Width of SDXL's size-and-pooled-text vector; 0 where the model takes none."""
    norm_groups: int = 32
    input_depth: tuple[int, ...] = ()
    output_depth: tuple[int, ...] = ()
    """Transformer depth of every residual block on the way down and up, in the network's order, for pruned models whose
    blocks differ within a level (SSD-1B); empty: as ``transformer_depth`` says."""

    def heads(self, channels: int) -> int:
        return channels // self.head_channels if self.head_channels else self.num_heads

    @property
    def depths_down(self) -> tuple[int, ...]:
        """Transformer depth of each of the levels x ``num_res_blocks`` residual blocks on the way down."""
        return self.input_depth or tuple(d for d in self.transformer_depth for _ in range(self.num_res_blocks))

    @property
    def depths_up(self) -> tuple[int, ...]:
        """Of each of the levels x (``num_res_blocks`` + 1) blocks on the way up, from the coarsest level."""
        per_level = self.num_res_blocks + 1
        return self.output_depth or tuple(d for d in reversed(self.transformer_depth) for _ in range(per_level))


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of an autoencoder; ``channel_mult`` has one entry per level, each but the last halves the sides."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    norm_groups: int = 32

    @property
    def factor(self) -> int:
        """Pixels a side that one latent pixel stands for."""
        return int(2 ** (len(self.channel_mult) - 1))


CLIP, OPEN_CLIP = "clip", "open_clip"
"""Whose layer names and shapes a text transformer has: those of transformers, or those of open_clip."""


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text transformer; the defaults are CLIP ViT-L/14's. Head count and activation are in no tensor."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 49408
    positions: int = 77
    activation: str = "quick_gelu"
    """Or "gelu", which OpenCLIP's models have."""
    layout: str = CLIP
    projection: int = 0
    """Width of the pooled text; 0: the network has no projection and gives none."""
