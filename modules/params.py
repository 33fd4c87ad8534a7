"""What the user asked for: frozen data, made once a request and never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.options import nested, option, read, values_of

MAX_SEED = 2**32 - 1
MAX_PROMPT = 20_000
RESIZE_MODES = ("Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)")
"""In A1111's order, whose API gives them by number."""
CONTENTS = ("fill", "original", "latent noise", "latent nothing")
"""What stands under a mask when sampling begins, in A1111's order."""
SAME = ""
"""In a second pass: as in the first."""


@dataclass(frozen=True)
class Mask:
    """Which part of the start picture is painted anew: what is white in ``image``, or what is opaque in it."""

    image: str = option("", "Mask", help="a stored picture by its SHA-256")
    blur: int = option(4, "Mask blur", lo=0, hi=64, step=1, key="Mask blur", help="deviation in pixels")
    invert: bool = option(False, "Inpaint not masked", help="paint what is black instead")
    content: str = option("original", "Masked content", choices=CONTENTS, key="Masked content")
    only_masked: bool = option(False, "Only masked", help="work on the region around the mask, in full resolution")
    padding: int = option(32, "Padding", lo=0, hi=256, step=4, key="Masked area padding", help="pixels around the mask")
    conditioning: float = option(
        1.0,
        "Conditional mask weight",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="Conditional mask weight",
        help="how much an inpainting model's view of the picture is masked",
    )


@dataclass(frozen=True)
class Init:
    """The picture that a generation starts from."""

    image: str = option("", "Image", help="a stored picture by its SHA-256")
    denoising_strength: float = option(
        0.75,
        "Denoising strength",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="Denoising strength",
        help="0 leaves the picture as it is, 1 forgets it",
    )
    resize_mode: str = option("Just resize", "Resize mode", choices=RESIZE_MODES)
    exact_steps: bool = option(False, "Exact steps", help="do as many steps as asked, not the strength's part of them")
    noise_multiplier: float = option(
        1.0, "Noise multiplier", lo=0.0, hi=1.5, step=0.001, key="Noise multiplier", help="of the noise at the start"
    )
    extra_noise: float = option(0.0, "Extra noise", lo=0.0, hi=1.0, step=0.01, key="Extra noise")
    colour_correction: bool = option(False, "Colour correction", help="keep the colours of the start picture")
    background: str = option("#ffffff", "Background", help="under what is transparent, as #rrggbb")
    mask: Mask | None = nested("Mask", prefix="mask_")


@dataclass(frozen=True)
class Hires:
    """A second pass over the enlarged picture. Names that are empty are those of the first pass."""

    scale: float = option(2.0, "Upscale by", lo=1.0, hi=4.0, step=0.05, key="Hires upscale")
    width: int = option(0, "Hires width", lo=0, hi=4096, step=8, help="0: by the scale")
    height: int = option(0, "Hires height", lo=0, hi=4096, step=8, help="0: by the scale")
    upscaler: str = option("Latent", "Upscaler", key="Hires upscaler", choices="hires_upscalers")
    steps: int = option(0, "Hires steps", lo=0, hi=150, step=1, key="Hires steps", help="0: as in the first pass")
    denoising_strength: float = option(
        0.7, "Denoising strength", lo=0.0, hi=1.0, step=0.01, key="Denoising strength", help="of the second pass"
    )
    sampler: str = option(SAME, "Hires sampler", key="Hires sampler", choices="hires_samplers")
    scheduler: str = option(SAME, "Hires schedule type", key="Hires schedule type", choices="hires_schedulers")
    prompt: str = option(SAME, "Hires prompt", key="Hires prompt", multiline=True)
    negative_prompt: str = option(SAME, "Hires negative prompt", key="Hires negative prompt", multiline=True)
    cfg_scale: float = option(
        0.0, "Hires CFG scale", lo=0.0, hi=30.0, step=0.5, key="Hires CFG scale", help="0: as in the first pass"
    )
    checkpoint: str = option(SAME, "Hires checkpoint", key="Hires checkpoint", choices="hires_checkpoints")


@dataclass(frozen=True)
class Refiner:
    """Another checkpoint that takes over during sampling."""

    checkpoint: str = option("", "Refiner", key="Refiner", choices="checkpoints")
    switch_at: float = option(
        0.8, "Switch at", lo=0.01, hi=1.0, step=0.01, key="Refiner switch at", help="part of the noise that is gone"
    )


@dataclass(frozen=True)
class GenerationParams:
    """One generation request, sizes in pixels. A seed of -1 gives way to a random one when the job is submitted."""

    prompt: str = option("", "Prompt", multiline=True)
    negative_prompt: str = option("", "Negative prompt", multiline=True)
    checkpoint: str = option("", "Checkpoint", key="Model", choices="checkpoints", help="empty: the default model")
    sampler: str = option("Euler a", "Sampler", key="Sampler", choices="samplers")
    scheduler: str = option("Automatic", "Schedule type", key="Schedule type", choices="schedulers")
    steps: int = option(20, "Steps", lo=1, hi=150, step=1, key="Steps")
    cfg_scale: float = option(
        7.0, "CFG scale", lo=1.0, hi=30.0, step=0.5, key="CFG scale", help="how strongly the prompt is followed"
    )
    width: int = option(512, "Width", lo=64, hi=2048, step=8)
    height: int = option(512, "Height", lo=64, hi=2048, step=8)
    seed: int = option(-1, "Seed", lo=-1, hi=MAX_SEED, key="Seed", help="-1: random")
    batch_size: int = option(1, "Batch size", lo=1, hi=16, step=1, help="images computed together")
    batch_count: int = option(1, "Batch count", lo=1, hi=100, step=1, help="batches one after another")
    subseed: int = option(-1, "Variation seed", lo=-1, hi=MAX_SEED, key="Variation seed")
    subseed_strength: float = option(
        0.0, "Variation strength", lo=0.0, hi=1.0, step=0.01, key="Variation seed strength"
    )
    eta: float | None = option(None, "Eta", lo=0.0, hi=1.0, step=0.01, key="Eta", help="empty: the sampler's own")
    ensd: int = option(0, "ENSD", lo=-MAX_SEED, hi=MAX_SEED, key="ENSD", help="eta noise seed delta")
    clip_skip: int = option(1, "Clip skip", lo=1, hi=12, step=1, key="Clip skip")
    rng: str = option(
        "NV", "RNG", choices=("NV", "CPU"), key="RNG", help="whose random numbers: a CUDA card's or torch's"
    )
    profile: str = option("a1111", "Profile", choices=("a1111", "exact"))
    init: Init | None = nested("Start picture")
    hires: Hires | None = nested("Hires fix", prefix="hires_")
    refiner: Refiner | None = nested("Refiner", prefix="refiner_")

    def to_json(self) -> dict[str, Any]:
        return values_of(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GenerationParams:
        """From JSON, a form or the command line; raises `UserError` with the field's name."""
        return read(cls, values)

    def changed(self, **changes: Any) -> GenerationParams:
        return dataclasses.replace(self, **changes)
