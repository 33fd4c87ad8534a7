"""One file states the shipped model exactly: sizes, data, seeds and the length of every stage."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from modules.nn.configs import TextConfig, UNetConfig, VAEConfig
from modules.training.render.scenes import Mix

SHIPPED = Path(__file__).with_name("reprise_mini.toml")


@dataclass(frozen=True)
class Data:
    """``pictures`` are rendered once at ``side`` and kept; the first ``encoded`` of them become latents."""

    seed: int = 1
    pictures: int = 40_000
    encoded: int = 40_000
    side: int = 256
    captions: int = 6
    """Of each picture; they are put into tokens once."""
    unknown: float = 0.15
    """Share of captions that are interrupted by runs of words that no caption uses."""
    mix: Mix = field(default_factory=Mix)


@dataclass(frozen=True)
class Run:
    """How one stage learns. ``steps`` optimizer steps of ``batch`` samples in each process."""

    steps: int = 1000
    minutes: float = 0.0
    """Where it is not 0, the clock ends the run and not ``steps``; a resumed run has so long for what is left of it."""
    batch: int = 16
    rate: float = 1e-3
    warmup: int = 100
    final: float = 0.05
    """The learning rate falls along a cosine to this fraction of ``rate``, ..."""
    decay: float = 1.0
    """... over this last part of the run."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    compile_seconds: float = 0.0
    """How long compiling the network may take; 0 leaves it as it is."""
    ema: float = 0.999
    seed: int = 0
    save_minutes: float = 4.0


@dataclass(frozen=True)
class AutoencoderRun:
    run: Run = field(default_factory=Run)
    kl: float = 3e-5
    encoder_rate: float = 1.0
    """The encoder's learning rate, as a part of the decoder's."""
    decoder_only: bool = False


@dataclass(frozen=True)
class DiffusionRun:
    run: Run = field(default_factory=Run)
    schedule: str = "scaled_linear"
    prediction: str = "v"
    min_snr: float = 5.0
    """Gamma of the loss weighting; 0 is the simple loss."""
    caption_dropout: float = 0.07
    """Share of samples without a caption, ..."""
    unknown_only: float = 0.03
    """... and of those whose caption is nothing but unknown words."""


@dataclass(frozen=True)
class Start:
    """An earlier version's file in the training folder, from whose weights the stages go on; empty: fresh weights."""

    file: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Config:
    """All of it, as `load` reads it from TOML."""

    name: str
    version: str = "1"
    start: Start = field(default_factory=Start)
    data: Data = field(default_factory=Data)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    autoencoder: AutoencoderRun = field(default_factory=AutoencoderRun)
    sharpen: AutoencoderRun = field(default_factory=AutoencoderRun)
    captions: Run = field(default_factory=Run)
    diffusion: DiffusionRun = field(default_factory=DiffusionRun)
    judge: Run = field(default_factory=Run)
    processes: int = 2


T = TypeVar("T")
_NESTED: dict[str, type[Any]] = {
    "start": Start,
    "data": Data,
    "mix": Mix,
    "unet": UNetConfig,
    "vae": VAEConfig,
    "text": TextConfig,
    "autoencoder": AutoencoderRun,
    "sharpen": AutoencoderRun,
    "diffusion": DiffusionRun,
    "captions": Run,
    "judge": Run,
    "run": Run,
}


def build(kind: type[T], table: dict[str, Any]) -> T:
    """A dataclass from a table of the same names; an unknown name is an error that says which ones there are."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(table) - known:
        raise ValueError(f"{kind.__name__} has no field {sorted(unknown)}; it has {sorted(known)}")
    return kind(**{name: _value(name, value) for name, value in table.items()})


def _value(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return build(_NESTED[name], value)
    return tuple(value) if isinstance(value, list) else value


def load(path: Path = SHIPPED) -> Config:
    return build(Config, tomllib.loads(path.read_text()))
