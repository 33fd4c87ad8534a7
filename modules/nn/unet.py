"""The denoising UNet of latent diffusion models, with the layer names of ldm checkpoints.

Rombach et al. (2022), "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752, over the
residual UNet of Dhariwal & Nichol (2021), arXiv:2105.05233. One class serves every size of the SD1, SD2 and SDXL
families, inpainting and pruned ones too: `modules.checkpoints.families` reads the configuration off the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn import fused
from modules.nn.attention import KeyValue, attention, join_heads, sliced_attention, split_heads
from modules.nn.configs import NO_MIDDLE, ONE_BLOCK, UNetConfig


class CrossAttention(nn.Module):
    """Attention of image tokens to themselves, or to the text when keys and values are given."""

    sliced = False
    """Whether it is computed for some of the tokens at a time."""
    attend = staticmethod(attention)
    """``(q, k, v) -> out``, each (b, heads, tokens, head_dim). `modules.extension.patcher` puts others in its place."""

    def __init__(self, channels: int, context_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Identity())

    def key_value(self, context: Tensor) -> KeyValue:
        return split_heads(self.to_k(context), self.heads), split_heads(self.to_v(context), self.heads)

    def forward(self, x: Tensor, key_value: KeyValue | None = None) -> Tensor:
        q = split_heads(self.to_q(x), self.heads)
        k, v = key_value or self.key_value(x)
        attend = sliced_attention if self.sliced and self.attend is attention else self.attend
        out: Tensor = self.to_out(join_heads(attend(q, k, v)))
        return out


TextKeys = Mapping[nn.Module, KeyValue]
"""Keys and values of the text for each cross-attention layer: constant over the steps of a batch."""


class GEGLU(nn.Module):
    """Shazeer (2020), "GLU Variants Improve Transformer", arXiv:2002.05202."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(channels, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, channels * 4), nn.Identity(), nn.Linear(channels * 4, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def fused(self, x: Tensor) -> Tensor:
        """The same with gate and GELU in one pass."""
        first, _, last = self.net
        assert isinstance(first, GEGLU)
        out: Tensor = last(fused.geglu(first.proj(x)))
        return out


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, context_dim: int, heads: int):
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads)
        self.ff = FeedForward(channels)
        self.attn2 = CrossAttention(channels, context_dim, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:  # (b, tokens, channels)
        key_value = text[self.attn2]
        x = _for_each_text(x + self.attn1(self.norm1(x)), len(key_value[0]))
        x = x + self.attn2(self.norm2(x), key_value)
        return x + self.ff(self.norm3(x))  # type: ignore[no-any-return]

    def fused(self, x: Tensor, text: TextKeys) -> Tensor:
        """The same with each sum and the norm behind it in one pass."""
        key_value = text[self.attn2]
        rows = len(key_value[0])
        x, y = fused.add_layer_norm(self.norm2, x, self.attn1(self.norm1(x)))
        x, y = _for_each_text(x, rows), _for_each_text(y, rows)
        x, y = fused.add_layer_norm(self.norm3, x, self.attn2(y, key_value))
        return x + self.ff.fused(y)


Lend = Callable[..., AbstractContextManager[None]]
"""``lend(*layers)`` is a context in which these layers have their weights where and as they are computed with."""


def _at_hand(*_: nn.Module) -> AbstractContextManager[None]:
    return nullcontext()


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map (b, c, h, w)."""

    _lend: Lend = staticmethod(_at_hand)

    def __init__(self, channels: int, depth: int, config: UNetConfig):
        super().__init__()
        self.linear = config.linear_proj
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = self._projection(channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.context_dim, config.heads(channels)) for _ in range(depth)
        )
        self.proj_out = self._projection(channels)

    def _projection(self, channels: int) -> nn.Module:
        return nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

    def own(self) -> tuple[nn.Module, ...]:
        """The layers beside the blocks."""
        return self.norm, self.proj_in, self.proj_out

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:
        b, c, h, w = x.shape
        y: Tensor = self.norm(x)
        if not self.linear:
            y = self.proj_in(y)
        y = y.permute(0, 2, 3, 1).reshape(b, h * w, c)  # (b, tokens, channels): a view in channels_last
        if self.linear:
            y = self.proj_in(y)
        for block in self.transformer_blocks:
            with self._lend(block):
                y = block(y, text)
        if self.linear:
            y = self.proj_out(y)
        y = y.reshape(len(y), h, w, c).permute(0, 3, 1, 2)
        if not self.linear:
            y = self.proj_out(y)
        return _for_each_text(x, len(y)) + y

    def fused(self, x: Tensor, text: TextKeys) -> Tensor:
        """The same over views of channels_last: no layout changes, and 1x1 convolutions are matrix products."""
        y = fused.pointwise(self.proj_in, fused.tokens(fused.group_norm(self.norm, x, silu=False)))
        for block in self.transformer_blocks:
            assert isinstance(block, TransformerBlock)
            with self._lend(block):
                y = block.fused(y, text)
        y = fused.feature_map(fused.pointwise(self.proj_out, y), x)
        return _for_each_text(x, len(y)) + y


def _for_each_text(x: Tensor, rows: int) -> Tensor:
    """What all texts have in common, once for each of them: (n, ...) -> (rows, ...), rows a multiple of n."""
    return x if len(x) == rows else x.repeat(rows // len(x), *[1] * (x.dim() - 1))


class ResBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, emb_channels: int, groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Identity(),  # the place of dropout: keeps the checkpoint's numbering
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        out: Tensor = self.skip_connection(x) + self.out_layers(h)
        return out

    def fused(self, x: Tensor, activated: Tensor) -> Tensor:
        """The same from the activated embedding (b, emb_channels): norms, SiLU, biases and sums in one pass each."""
        norm_in, _, conv_in = self.in_layers
        norm_out, _, _, conv_out = self.out_layers
        h = fused.conv(conv_in, fused.group_norm(norm_in, x, silu=True))  # type: ignore[arg-type]
        shift = self.emb_layers[1](activated)
        h = fused.group_norm(norm_out, h, silu=True, shift=shift, conv_bias=conv_in.bias)  # type: ignore[arg-type]
        h = fused.conv(conv_out, h)  # type: ignore[arg-type]
        if isinstance(self.skip_connection, nn.Conv2d):
            x = fused.feature_map(fused.pointwise(self.skip_connection, fused.tokens(x)), x)
        return fused.add_bias(x, h, conv_out.bias)  # type: ignore[arg-type]


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """To ``size`` (h, w): that of the skip, which for sides not divisible by 8 latents is not twice x's."""
        out: Tensor = self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))
        return out


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of ``t`` (b,), cosines first -> (b, dim) float32. Ho et al. (2020), arXiv:2006.11239, app. B."""
    half = dim // 2
    freqs = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    args = t.float()[:, None] * freqs[None]  # float32: bfloat16 keeps only 507 of the 1000 timesteps apart
    return torch.cat([args.cos(), args.sin()], dim=-1)


class Taps(Protocol):
    """What is done between the blocks of a `UNet`; feature maps are (b, channels, h, w)."""

    def after(self, place: str, number: int, h: Tensor) -> Tensor:
        """The output of block ``number`` of the "input", the "middle" or the "output"."""
        ...

    def join(self, number: int, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What output block ``number`` joins: the feature map that comes up, and the skip beside it."""
        ...


class UNetEncoder(nn.Module):
    """The way down and the middle of a `UNet`, with what all evaluations have in common."""

    _lend: Lend = staticmethod(_at_hand)

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self._layers: fused.Layers | None = None
        self.changes = 0
        """How often its weights changed while it was in use: what was computed from them before no longer holds."""
        self.extended = False
        """Whether something works between or within its layers, or on their attributes: then every layer is called, for
        each row by itself, and no recorded step stands for it."""
        base = config.model_channels
        emb = base * 4
        self.time_embed = nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))
        if config.vector_dim:
            vector = nn.Sequential(nn.Linear(config.vector_dim, emb), nn.SiLU(), nn.Linear(emb, emb))
            self.label_emb = nn.Sequential(vector)

        levels, blocks, down = config.channel_mult, config.num_res_blocks, iter(config.depths_down)
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(config.in_channels, base, 3, padding=1)])])
        skips, ch = [base], base
        for level, mult in enumerate(levels):
            for _ in range(blocks):
                self.input_blocks.append(nn.ModuleList(self._stage(ch, base * mult, next(down))))
                ch = base * mult
                skips.append(ch)
            if level < len(levels) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(ch)]))
                skips.append(ch)
        self.skip_channels = tuple(skips)
        """Channels of the output of each input block; the middle's are the last one's."""

        middle = self._stage(ch, ch, max(config.middle_depth, 0)) if config.middle_depth != NO_MIDDLE else []
        if config.middle_depth > ONE_BLOCK:
            middle.append(ResBlock(ch, ch, emb, config.norm_groups))
        self.middle_block = nn.ModuleList(middle)

    def _stage(self, channels: int, out: int, depth: int) -> list[nn.Module]:
        block: list[nn.Module] = [ResBlock(channels, out, self.config.model_channels * 4, self.config.norm_groups)]
        return block + ([SpatialTransformer(out, depth, self.config)] if depth else [])

    def embed(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Timesteps (b,), which may be fractional, and SDXL's vector (b, vector_dim) -> (b, 4 * model_channels)."""
        dtype = next(self.time_embed.parameters()).dtype
        with self._lend(self.time_embed):
            emb: Tensor = self.time_embed(timestep_embedding(t, self.config.model_channels).to(dtype))
        return emb if y is None else emb + self.label(y)

    def label(self, y: Tensor) -> Tensor:
        """A vector (b, vector_dim) as it is added to the embedding of time: (b, 4 * model_channels)."""
        with self._lend(self.label_emb):
            out: Tensor = self.label_emb(y.to(next(self.label_emb.parameters()).dtype))
        return out

    def text_keys(self, context: Tensor) -> TextKeys:
        """Text states (b, tokens, context_dim) -> keys and values of every cross-attention layer."""
        found: dict[nn.Module, KeyValue] = {}
        for block in self._transformer_blocks():
            with self._lend(block.attn2.to_k, block.attn2.to_v):
                found[block.attn2] = block.attn2.key_value(context)
        return found

    def lend_by(self, lend: Lend | None) -> None:
        """Have layers that are about to run get their weights from ``lend``; None: they are at hand."""
        for module in self.modules():
            if isinstance(module, (UNetEncoder, SpatialTransformer)):
                module._lend = lend or _at_hand

    @property
    def borrows(self) -> bool:
        """Whether weights come and go while it runs."""
        return self._lend is not _at_hand

    def _transformer_blocks(self) -> Iterator[TransformerBlock]:
        return (module for module in self.modules() if isinstance(module, TransformerBlock))

    def slice_attention(self, sliced: bool) -> bool:
        """Whether attention is computed in slices from now on: less memory, and sums that may be rounded otherwise.
        Says whether that is a change.
        """
        layers = [layer for layer in self.modules() if isinstance(layer, CrossAttention) and layer.sliced != sliced]
        for layer in layers:
            layer.sliced = sliced
        return bool(layers)

    def layers(self, *, anew: bool = False) -> fused.Layers:
        """Its modules, watched; ``anew`` where some may have been replaced."""
        if self._layers is None or anew:
            self._layers = fused.Layers(self)
        return self._layers

    def through(
        self, block: nn.Module, h: Tensor, emb: Tensor, text: TextKeys, fuse: bool, size: Sequence[int] = ()
    ) -> Tensor:
        """The output of a block. ``fuse``: by kernels that do several things at once, with ``emb`` activated; ``size``
        (h, w) is what a block enlarges to."""
        for layer in block.children():
            # A transformer borrows for each of its blocks.
            with self._lend(*(layer.own() if isinstance(layer, SpatialTransformer) else (layer,))):
                if isinstance(layer, ResBlock):
                    h = layer.fused(h, emb[: len(h)]) if fuse else layer(h, emb[: len(h)])
                elif isinstance(layer, SpatialTransformer):
                    h = layer.fused(h, text) if fuse else layer(h, text)
                elif isinstance(layer, Upsample):
                    h = layer(h, size)
                else:
                    h = layer(h)
        return h


class UNet(UNetEncoder):
    """Predicts noise (or v) in latents: ``(x, t, context) -> (b, out_channels, h, w)``.

    ``forward`` is the plain way. A sampler calls the three parts instead: `embed` for all its steps and `text_keys`
    for its texts once per batch, then `run` at every step.
    """

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        self.taps: Taps | None = None
        base, groups = config.model_channels, config.norm_groups
        skips, up = list(self.skip_channels), iter(config.depths_up)
        ch = skips[-1]
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                block = self._stage(ch + skips.pop(), base * mult, next(up))
                ch = base * mult
                if level and i == config.num_res_blocks:
                    block.append(Upsample(ch))
                self.output_blocks.append(nn.ModuleList(block))
        self.out = nn.Sequential(nn.GroupNorm(groups, ch), nn.SiLU(), nn.Conv2d(ch, config.out_channels, 3, padding=1))

    def run(self, x: Tensor, emb: Tensor, text: TextKeys, copies: int = 1) -> Tensor:
        """One evaluation at latents ``x`` (b, in_channels, h, w) with what `embed` and `text_keys` gave.

        With ``copies`` each of the latents meets that many texts: ``emb`` and ``text`` have copies * b rows, the
        embedding of each latent being the same in every copy, and so has the answer. Everything before the first
        cross-attention is then computed once for all of them.
        """
        rows, fuse = copies * len(x), fused.suits(x) and self.layers().untouched()
        emb = F.silu(emb) if fuse else emb

        def through(block: nn.Module, h: Tensor, size: Sequence[int] = ()) -> Tensor:
            return self.through(block, h, emb, text, fuse, size)

        skips, h, taps = [], x, self.taps
        for i, block in enumerate(self.input_blocks):
            h = through(block, h)
            h = taps.after("input", i, h) if taps else h
            skips.append(h)
        h = through(self.middle_block, h)
        h = taps.after("middle", 0, h) if taps else h
        for i, block in enumerate(self.output_blocks):
            skip = skips.pop()
            h, skip = taps.join(i, h, skip) if taps else (h, skip)
            most = max(len(h), len(skip))
            h = torch.cat([_for_each_text(h, most), _for_each_text(skip, most)], dim=1)
            h = through(block, h, skips[-1].shape[-2:] if skips else ())
            h = taps.after("output", i, h) if taps else h
        with self._lend(self.out):
            if fuse:
                norm, _, last = self.out
                h = last(fused.group_norm(norm, h, silu=True))  # type: ignore[arg-type]
            else:
                h = self.out(h)
        return _for_each_text(h, rows)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, y: Tensor | None = None) -> Tensor:
        return self.run(x, self.embed(t, y), self.text_keys(context))
