"""What a checkpoint is best used with: values of a request, by what is known of models of its kind. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

SIDES = (64, 2048)


@dataclass(frozen=True)
class Preset:
    """Values of a request; None: nothing is said of it."""

    vae: str | None = None
    sampler: str | None = None
    scheduler: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    clip_skip: int | None = None

    def values(self) -> dict[str, Any]:
        """What is said, by the names of a request's parameters."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def over(self, other: Preset) -> Preset:
        """This one, and of ``other`` what this one does not say."""
        return Preset(**{**other.values(), **self.values()})


@dataclass(frozen=True)
class Distilled:
    """Models that were trained to need few steps, most of them without guidance."""

    name: str
    pattern: re.Pattern[str]
    """Found in a file's name or title."""
    preset: Preset
    steps: int = 0
    """Without a number of steps in the name; 0: it is in no name, and the preset has it."""


_STEPS = re.compile(r"(?<![a-z0-9])(\d)[ _-]?steps?(?![a-z])")
_OFFICIAL_TURBO = re.compile(r"(?<![a-z])sd(?:[ _-]?xl)?[ _-]?turbo(?![a-z])")
DISTILLED = (
    Distilled(
        "Lightning",  # Lin et al. (2024), arXiv:2402.13929
        re.compile(r"lightning"),
        Preset(sampler="Euler", scheduler="SGM Uniform", cfg_scale=1.0),
        steps=4,
    ),
    Distilled(
        "Hyper",  # Ren et al. (2024), arXiv:2404.13686
        re.compile(r"hyper(?![a-z])|hyper[ _-]?sd"),
        Preset(sampler="Euler", scheduler="SGM Uniform", cfg_scale=1.0),
        steps=8,
    ),
    Distilled(
        "LCM",  # Luo et al. (2023), arXiv:2310.04378
        re.compile(r"(?<![a-z])lcm(?![a-z])"),
        Preset(sampler="LCM", scheduler="SGM Uniform", steps=6, cfg_scale=1.5),
    ),
    Distilled(
        "Turbo",  # Sauer et al. (2023), arXiv:2311.17042
        re.compile(r"turbo"),
        Preset(sampler="Euler a", scheduler="SGM Uniform", steps=4, cfg_scale=1.0),
    ),
)
"""In the order in which they are looked for: a name may have several of the words."""
TURBO_SIDE = 512
"""What SD Turbo and SDXL Turbo were trained for; models that others made of them have their family's size."""


def distilled(name: str, title: str = "") -> Distilled | None:
    """What kind of few-step model a file is, by its name and its title; None: an ordinary one.

    >>> [kind and kind.name for kind in map(distilled, ("dreamshaperXL_lightningDPMSDE", "hyperrealism", "x_lcm-v1"))]
    ['Lightning', None, 'LCM']
    """
    return next((kind for kind in DISTILLED if any(kind.pattern.search(_plain(text)) for text in (name, title))), None)


def suggested(name: str, title: str, native_size: int) -> Preset:
    """The preset of a model of which nobody has said anything.

    >>> suggested("sdxl_lightning_8step", "", 1024).values()
    {'sampler': 'Euler', 'scheduler': 'SGM Uniform', 'steps': 8, 'cfg_scale': 1.0, 'width': 1024, 'height': 1024}
    """
    side = TURBO_SIDE if _OFFICIAL_TURBO.search(_plain(name)) and native_size > TURBO_SIDE else native_size
    size = Preset(width=side, height=side)
    kind = distilled(name, title)
    if kind is None:
        return size
    said = _STEPS.search(_plain(name)) if kind.steps else None
    steps = Preset(steps=int(said[1]) if said and said[1] != "0" else kind.steps or None)
    return steps.over(kind.preset).over(size)


def _plain(text: str) -> str:
    """In small letters, parted where a small letter is followed by a capital: ``myLCM`` has two words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold()


def preset_from(table: Mapping[str, Any]) -> Preset:
    """The preset of a JSON object; what has another type or range is left out."""
    found: dict[str, Any] = {}
    for name in ("vae", "sampler", "scheduler"):
        if isinstance(value := table.get(name), str) and value:
            found[name] = value
    for name, least, most in (("steps", 1, 150), ("width", *SIDES), ("height", *SIDES), ("clip_skip", 1, 12)):
        value = table.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            found[name] = value
    scale = table.get("cfg_scale")
    if isinstance(scale, (int, float)) and not isinstance(scale, bool) and 1 <= scale <= 30:
        found["cfg_scale"] = float(scale)
    return Preset(**found)
