"""What the user asked for: frozen data, made once a request and never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.options import option, read, values_of

MAX_SEED = 2**32 - 1
MAX_PROMPT = 20_000
BY, TO = "Scale by", "Scale to"


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

    def to_json(self) -> dict[str, Any]:
        return values_of(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GenerationParams:
        """From JSON, a form or the command line; raises `UserError` with the field's name."""
        return read(cls, values)

    def changed(self, **changes: Any) -> GenerationParams:
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class ExtrasParams:
    """What is to be done with each picture. Sizes in pixels."""

    upscaler: str = option("None", "Upscaler", choices="upscalers", help="None leaves the size as it is")
    resize: str = option(BY, "Resize", choices=(BY, TO))
    by: float = option(2.0, "Factor", lo=0.25, hi=8.0, step=0.05)
    width: int = option(1024, "Width", lo=64, hi=8192, step=8)
    height: int = option(1024, "Height", lo=64, hi=8192, step=8)
    crop: bool = option(True, "Crop to fit", help="otherwise the picture covers the size and keeps its shape")
    upscaler_2: str = option("None", "Second upscaler", choices="upscalers")
    upscaler_2_visibility: float = option(
        0.0, "Visibility of the second", lo=0.0, hi=1.0, step=0.01, help="0: the first alone"
    )
    gfpgan_visibility: float = option(0.0, "GFPGAN visibility", lo=0.0, hi=1.0, step=0.01)
    codeformer_visibility: float = option(0.0, "CodeFormer visibility", lo=0.0, hi=1.0, step=0.01)
    codeformer_weight: float = option(
        0.0, "CodeFormer weight", lo=0.0, hi=1.0, step=0.01, help="0: the most is changed, 1: the least"
    )
    tile_size: int = option(192, "Tile size", lo=0, hi=1024, step=16, help="what a network sees at once; 0: all")
    tile_overlap: int = option(8, "Tile overlap", lo=0, hi=48, step=1, help="small values may leave seams")

    def to_json(self) -> dict[str, Any]:
        return values_of(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ExtrasParams:
        return read(cls, values)
