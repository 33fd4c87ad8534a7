"""Which picture item ``index`` of ``seed`` is: a description from which both picture and caption are made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from random import Random

from modules.training.render.backgrounds import COLOURS, GROUND
from modules.training.render.concepts import CONCEPTS, MANY_COLOURED, Concept
from modules.training.render.scenery import SCENERY
from modules.training.render.styles import COLOURLESS, SHARES

TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
SIZES = {"small": (0.40, 0.46), "": (0.64, 0.72), "big": (0.82, 0.90)}
"""An object's side as a fraction of the picture's, for the word that a caption may use."""
PLACES = {
    "": (0.5, 0.5),
    "on the left": (0.3, 0.5),
    "on the right": (0.7, 0.5),
    "at the top": (0.5, 0.3),
    "at the bottom": (0.5, 0.7),
}
HELD_OUT = 20
"""One triple of concept, background and style in this many is never trained on."""


@dataclass(frozen=True)
class Mix:
    """How often what appears. ``single + two + count + empty = 1`` and ``plain + gradient + scenery = 1``."""

    single: float = 0.70
    two: float = 0.19
    count: float = 0.08
    plain: float = 0.56
    gradient: float = 0.05
    styled: float = 0.32
    tinted: float = 0.16
    sized: float = 0.12
    placed: float = 0.08
    weighted: float = 0.0
    """Share of tints that are weaker or stronger, with captions that say so: weights come to mean something."""
    concepts: int = len(CONCEPTS)


@dataclass(frozen=True)
class Thing:
    """One object: centre ``x``, ``y`` and side ``size`` as fractions of the picture, ``angle`` in degrees."""

    concept: Concept
    x: float
    y: float
    size: float
    angle: float
    flip: bool
    tint: str = ""
    strength: float = 1.0
    """Of the tint, as a caption says it: ``(blue:1.4)``."""


@dataclass(frozen=True)
class Scene:
    """All that a picture shows. ``relation`` places two things, ``size`` and ``place`` tell of a single one."""

    things: tuple[Thing, ...]
    background: str
    style: str = ""
    size: str = ""
    place: str = ""
    relation: str = ""
    noise: int = 0
    """Seed of what no caption says: the background's details."""

    @property
    def layout(self) -> str:
        if not self.things:
            return "empty"
        if self.relation:
            return "two"
        return "single" if len(self.things) == 1 else "count"


def held_out(concept: str, background: str, style: str) -> bool:
    """Whether no picture of the training set combines these three; a stable hash decides."""
    digest = hashlib.sha256(f"{concept}|{background}|{style}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT == 0


def _thing(concept: Concept, x: float, y: float, size: float, tint: str, rng: Random) -> Thing:
    jitter = 0.02
    return Thing(
        concept,
        x + rng.uniform(-jitter, jitter),
        y + rng.uniform(-jitter, jitter),
        size,
        rng.uniform(-4, 4),
        rng.random() < 0.25,
        tint,
    )


def _background(mix: Mix, rng: Random) -> str:
    u = rng.random()
    if u < mix.plain:
        return rng.choice(tuple(COLOURS))
    if u < mix.plain + mix.gradient:
        first, second = rng.sample(tuple(COLOURS), 2)
        return f"{first} to {second}"
    return rng.choice(tuple(SCENERY))


def _single(concept: Concept, tint: str, behind: str, mix: Mix, rng: Random) -> tuple[tuple[Thing, ...], str, str]:
    size = rng.choice(("small", "big")) if rng.random() < mix.sized else ""
    place = rng.choice(tuple(PLACES)[1:]) if rng.random() < mix.placed and size != "big" else ""
    x, y = PLACES[place]
    side = rng.uniform(*SIZES[size]) * (0.8 if place else 1.0)  # off the middle, but whole
    if behind in GROUND and not concept.flies and place in ("", "on the left", "on the right"):
        y = min(0.90 - side / 2, 0.66)  # stands on the ground
    return (_thing(concept, x, y, side, tint, rng),), size, place


def _weighted(things: tuple[Thing, ...], mix: Mix, rng: Random) -> tuple[Thing, ...]:
    """Some tints at another strength, from hardly any to the pure colour."""
    if not (mix.weighted and things[0].tint and rng.random() < mix.weighted):
        return things
    return tuple(replace(thing, strength=round(rng.uniform(0.2, 1.8), 1)) for thing in things)


def _two(mix: Mix, tint: str, behind: str, rng: Random) -> tuple[tuple[Thing, ...], str]:
    first, second = rng.sample(CONCEPTS[: mix.concepts], 2)
    tint = "" if first.name in MANY_COLOURED else tint
    beside = rng.random() < 0.75
    low, high = 0.27, 0.73
    size = rng.uniform(0.42, 0.47)
    level = 0.60 if behind in GROUND else 0.5
    spots = [(low, level), (high, level)] if beside else [(0.5, low), (0.5, high)]
    relation = "to the left of" if beside else "above"
    things = (_thing(first, *spots[0], size, tint, rng), _thing(second, *spots[1], size, "", rng))
    return things, relation


SPOTS = {
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.27, 0.29), (0.73, 0.29), (0.5, 0.73)),
    4: ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
}


def _count(concept: Concept, rng: Random) -> tuple[Thing, ...]:
    number = rng.choice((2, 3, 4))
    size = rng.uniform(0.39, 0.44)
    return tuple(_thing(concept, x, y, size, "", rng) for x, y in SPOTS[number])


def draw_scene(seed: int, index: int, mix: Mix, held: bool = False) -> Scene:
    """Item ``index`` of ``seed``. With ``held`` only combinations that training never sees, without only the others."""
    rng = Random(f"{seed}/{index}")
    while True:
        scene = _draw(mix, rng)
        if any(held_out(t.concept.name, scene.background, scene.style) for t in scene.things) == held:
            return scene


def _draw(mix: Mix, rng: Random) -> Scene:
    style = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0] if rng.random() < mix.styled else ""
    behind = _background(mix, rng)
    noise = rng.getrandbits(32)
    concept = rng.choice(CONCEPTS[: mix.concepts])
    free = [tint for tint in TINTS if tint != behind]
    tint = rng.choice(free) if rng.random() < mix.tinted and style not in COLOURLESS else ""
    if concept.name in MANY_COLOURED:
        tint = ""
    u = rng.random()
    if u < mix.single:
        things, size, place = _single(concept, tint, behind, mix, rng)
        return Scene(_weighted(things, mix, rng), behind, style, size, place, noise=noise)
    if u < mix.single + mix.two:
        things, relation = _two(mix, tint, behind, rng)
        return Scene(things, behind, style, relation=relation, noise=noise)
    if u < mix.single + mix.two + mix.count:
        return Scene(_count(concept, rng), behind, style, noise=noise)
    return Scene((), behind, style, noise=noise)
