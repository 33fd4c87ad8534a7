"""What a family of models is, and the configuration of one file. No torch: the server's cards are made of this too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from modules.diffusion.parameterization import Betas
from modules.nn.configs import CLIP, TextConfig, UNetConfig, VAEConfig

UNET, VAE = "model.diffusion_model.", "first_stage_model."
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"
Shapes = Mapping[str, tuple[int, ...]]
Places = Mapping[str, tuple[str, str]]
"""Where each tensor of a file belongs: (part, name within the part). Foreign tensors are left out."""
INPAINTING, PIX2PIX = "inpainting", "pix2pix"
"""What a UNet is for that sees more than latents: a mask and the picture behind it; a picture to be changed."""
TRAINING = ("loss", "model_ema.")
"""Beginnings of what an autoencoder's trainer leaves in its file: its judges, and averages of the weights."""
_BUFFERS = (".position_ids", ".logit_scale", ".attn_mask")
"""Ends of what text encoders' files hold beside the weights."""


_TEXTS = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "cond_stage_model.roberta.",
    "conditioner.",
    "embedder.",
    "depth_model.",
)


@dataclass(frozen=True)
class BareUNet:
    """What tells the family of a file that has a UNet and none of the usual text encoders."""

    context: int
    """Width of the texts that it takes."""
    vector: int
    """Width of its vector; 0: it takes none."""
    linear: bool


def bare_unet(shapes: Shapes) -> BareUNet | None:
    """None where a text encoder says more, or where there is no UNet."""
    if FIRST_CONV not in shapes or any(key.startswith(_TEXTS) for key in shapes):
        return None
    key = next((key for key in shapes if key.startswith(UNET) and key.endswith(".attn2.to_k.weight")), "")
    projection = shapes.get(f"{key.partition('transformer_blocks.')[0]}proj_in.weight", ())
    vector = shapes.get(f"{UNET}label_emb.0.0.weight", (0, 0))
    return BareUNet(shapes[key][-1], vector[-1], len(projection) == 2) if key else None


def variant(channels: int, latent: int) -> str | None:
    """What a UNet is for, from its input channels and those of latents: empty where it sees latents alone; None for
    another number of channels.

    >>> variant(4, 4), variant(9, 4), variant(32, 16), variant(7, 4)
    ('', 'inpainting', 'pix2pix', None)
    """
    return {latent: "", 2 * latent: PIX2PIX, 2 * latent + 1: INPAINTING}.get(channels)


@dataclass(frozen=True)
class EncoderSpec:
    """A text encoder of a family: where it lies in a file, and which of its states condition the UNet."""

    part: str
    """Its name in this program: "text", and "text_2" for the second."""
    prefixes: tuple[str, ...]
    """Before the names of its tensors; the first that a file uses counts."""
    layout: str = CLIP
    skip: int = 0
    """The layer whose states are taken, counted from the end; 0: the one that clip skip says."""
    final_norm: bool = True
    pooled: bool = False
    """Its pooled state is part of the family's vector."""
    may_skip: bool = False
    """It follows clip skip too where ``sdxl_clip_l_skip`` asks for it."""
    pads_with_zero: bool = False
    """Ids behind the first end token are 0, and texts are tokenized as open_clip does it."""

    depth: int = 0
    """Layers of the whole network, of which some files leave out the last that are never used; 0: all are there."""

    def layer(self, clip_skip: int, layers: int, *, asked: bool = False) -> int:
        """Which of ``layers`` layers counts, from the end. ``asked``: the request has ``sdxl_clip_l_skip``."""
        if not self.skip or (asked and self.may_skip):
            return clip_skip
        return max(self.skip - max(self.depth - layers, 0), 1)

    def prefix(self, keys: Collection[str]) -> str:
        """The one of `prefixes` that a file uses."""
        tokens = "embeddings.token_embedding.weight" if self.layout == CLIP else "token_embedding.weight"
        return next((prefix for prefix in self.prefixes if prefix + tokens in keys), self.prefixes[0])


@dataclass(frozen=True)
class LatentFormat:
    """How latents stand for pictures: ``latent = (mean - shift) * scale``, so that their deviation is about 1."""

    scale: float = 0.18215
    shift: float = 0.0
    channels: int = 4
    factor: int = 8
    """Pixels a side of one latent pixel."""

    rgb: tuple[tuple[float, float, float], ...] = ()
    """The linear map to colours in [-1, 1] that A1111 has for previews, a row for each channel."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the latents of a picture."""
        return height // self.factor, width // self.factor


RGB = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
"""Of the autoencoder of SD 1.x and 2.x."""


@dataclass(frozen=True)
class Family:
    """What models of one architecture have in common."""

    name: str
    """As ``make-tiny-checkpoint`` and configurations say it."""
    label: str
    matches: Callable[[Shapes], bool] = field(repr=False)
    """Whether a file is of this family, asked in the order of `FAMILIES`."""
    encoders: tuple[EncoderSpec, ...] = ()
    vector: tuple[str, ...] = ()
    """The numbers that stand behind the pooled text in the UNet's vector, in order: "height", "width", "top", "left"
    (of the crop) and "score" (aesthetic); empty: it takes no vector."""
    latent: LatentFormat = LatentFormat(rgb=RGB)
    native_size: int = 512
    v_size: int = 0
    """Native size of its models that predict v, where that is another one."""
    schedule: str = "scaled_linear"
    sdxl_schedules: bool = False
    """Align Your Steps has other levels for it."""
    tells_prediction: bool = True
    """Otherwise only the UNet's answers show whether it predicts noise or v."""
    supported: bool = True

    def side(self, prediction: str) -> int:
        """Native size in pixels of a model that predicts "eps" or "v"."""
        return self.v_size if prediction == "v" and self.v_size else self.native_size

    def places(self, keys: Collection[str]) -> Places:
        """Where the tensors of a whole checkpoint belong."""
        prefixes = {UNET: "unet", VAE: "vae", **{spec.prefix(keys): spec.part for spec in self.encoders}}
        places = {}
        for key in keys:
            for prefix, part in prefixes.items():
                own = key.removeprefix(prefix)
                training = part == "vae" and own.startswith(TRAINING)
                if key.startswith(prefix) and not key.endswith(_BUFFERS) and not training:
                    places[key] = (part, own)
        return places


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a checkpoint's networks and to sample with them."""

    family: Family
    unet: UNetConfig
    vae: VAEConfig
    texts: tuple[TextConfig, ...]
    """One for each of the family's encoders."""
    latent: LatentFormat = LatentFormat()
    native_size: int = 512
    prediction: str = "eps"
    schedule: str = "scaled_linear"
    zero_terminal_snr: bool = False
    own_vae: bool = True
    """False for a "noVAE" file, which works with an autoencoder in a file of its own; ``vae`` is then its shape."""

    only_seen: bool = False
    """Nobody says what it predicts: ``prediction`` is a guess until the UNet was asked."""

    said_beside: bool = False
    """Its card or its yaml says what it predicts, otherwise than the file, which is all that another machine has."""

    def predicting(self, kind: str) -> ModelConfig:
        """With another prediction, "eps" or "v"; "auto" leaves it as it is."""
        return self if kind in ("auto", self.prediction) else replace(self, prediction=kind)

    betas: Betas | None = None
    """The noise schedule that its yaml says, if it is another than ``schedule``."""
    from_yaml: bool = False
    """Its yaml says more than what it predicts, otherwise than the file: an image depends on that file too."""

    @property
    def variant(self) -> str:
        return variant(self.unet.in_channels, self.unet.out_channels) or ""

    @property
    def text_width(self) -> int:
        """Of its token embeddings; of several encoders side by side."""
        return sum(text.width for text in self.texts)
