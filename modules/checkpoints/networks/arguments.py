"""What network tags say: ``<lora:NAME:TE:UNET:DYN>``, and strengths that change over the steps.

A strength is a number; ``[0:1:0.25]``, which switches as prompt editing does; or, as in Forge Neo, points between
which it goes in straight lines: ``[0@0, 1@0.25]``, a weight at each fraction of the steps. One that changes is the
UNet's alone, and the text encoder has 0 unless ``te=`` says more, as in Forge Neo.

>>> use = read_tag("lora", "ink:0.8:te=0.5:dyn=4")
>>> use.name, use.te, use.unet, use.dyn
('ink', 0.5, 0.5, 4)
>>> eight = Clock(Pass(8, 8), 8, EXACT)
>>> use = read_tag("lora", "ink:[0:1:0.25]")
>>> use.te, [use.unet.at(eight, step, step) for step in range(8)]
(0.0, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
>>> use = read_tag("lora", "ink:[0@0, 1@0.5]")
>>> [use.unet.at(eight, step, step) for step in range(8)]
[0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from modules.checkpoints.networks.blocks import factors, number
from modules.params.profile import EXACT
from modules.prompt.clock import Clock
from modules.prompt.parse import parse
from modules.prompt.schedule import Pass, Segment, schedule, schedule_nodes
from modules.prompt.stages import mark_networks, network_mark

LORA_TAGS = ("lora", "lyco")
"""Tags that mean LoRA and its relatives."""
HYPERNET_TAG = "hypernet"
NAMED = ("te", "unet", "dyn", "lbw")
"""Arguments of a LoRA's tag that have names."""


@dataclass(frozen=True)
class Edited:
    """A strength in the prompt language."""

    text: str

    def segments(self, run: Pass) -> tuple[Segment, ...]:
        return _segments(self.text, run)

    def at(self, clock: Clock, call: int, step: int) -> float:
        return number(clock.entry(self.segments(clock.run), call, step).text)


@lru_cache(256)
def _segments(text: str, run: Pass) -> tuple[Segment, ...]:
    """Asked for at every step."""
    return schedule(text, run.steps, base_steps=run.base_steps, second_pass=run.second, old=run.old)


@dataclass(frozen=True)
class Line:
    """Straight lines between (fraction of the pass's steps, weight), fractions ascending; equal ones make a jump."""

    points: tuple[tuple[float, float], ...]

    def at(self, clock: Clock, call: int, step: int) -> float:
        """Before the first point Forge Neo has the last weight, the profile `EXACT` the first."""
        t = step / clock.steps
        if t < self.points[0][0]:
            return self.points[0 if clock.profile == EXACT else -1][1]
        for (start, before), (end, after) in pairwise(self.points):
            if start <= t < end:
                return before + (after - before) * (t - start) / (end - start)
        return self.points[-1][1]


@dataclass(frozen=True)
class Gated:
    """A strength that holds in those segments of a prompt that have a text."""

    inner: Strength
    segments: tuple[Segment, ...]

    def at(self, clock: Clock, call: int, step: int) -> float:
        there = clock.entry(self.segments, call, step).text
        return strength_at(self.inner, clock, call, step) if there else 0.0


Strength = float | Edited | Line | Gated


def strength_at(strength: Strength, clock: Clock, call: int, step: int) -> float:
    """A strength at the network's ``call`` and the sampler's ``step`` of a pass, both from 0."""
    return strength if isinstance(strength, (int, float)) else strength.at(clock, call, step)


@dataclass(frozen=True)
class Use:
    """A network as a tag asks for it. A hypernetwork has one strength, ``unet``."""

    kind: str
    name: str
    te: float = 1.0
    unet: Strength = 1.0
    dyn: int | None = None
    """Ranks of a LoRA that count; None: all."""
    blocks: str = ""
    """Strengths of blocks, as `blocks.factors` reads them."""
    says_te: bool = False
    """The tag has ``te=``, so that it holds whatever the UNet's strength does."""
    column: int = 1
    foreign: tuple[str, ...] = ()
    """Names of arguments that say nothing here."""

    @property
    def passed_over(self) -> str:
        """A sentence on them; empty: there are none."""
        if self.dyn == 0:
            return f"{self.name[:60]}: dyn=0 leaves it no rank, so it changes nothing"
        names = ", ".join(f"{name.strip()[:20]}=" for name in self.foreign[:4])
        takes = "none" if self.kind == HYPERNET_TAG else ", ".join(f"{name}=" for name in NAMED)
        return f"{self.name[:60]}: {names} does nothing here; of such arguments there are {takes}" if names else ""


class BadTag(ValueError):
    """A tag that cannot be read: the sentence says which and why."""


def uses(prompt: str, clock: Clock, kinds: Iterable[str] = LORA_TAGS) -> tuple[Use, ...]:
    """The networks that a positive prompt asks for, in its order. Raises `BadTag`.

    In the profile a1111 the last of several tags with one name speaks for all of them, and tags hold all along,
    wherever in brackets they stand. In `EXACT` they switch as the text around them does.
    """
    tags = parse(prompt).tree.networks
    found = [
        (i, replace(read_tag(tag.kind, tag.arguments), column=tag.column))
        for i, tag in enumerate(tags)
        if tag.kind in tuple(kinds)
    ]
    if clock.profile != EXACT:
        last = {use.name: use for _, use in found}
        return tuple(replace(last[use.name], column=use.column) for _, use in found)
    places = placed(prompt, clock.run, len(tags)) if found else ()
    return tuple(use for i, one in found if (use := _gated(one, places[i])))


def placed(prompt: str, run: Pass, count: int) -> tuple[tuple[Segment, ...], ...]:
    """Where in the run a prompt has each of its ``count`` tags: segments with a text where it does. A tag that never
    shows has none."""
    found: list[tuple[Segment, ...]] = [()] * count
    for part in parse(mark_networks(prompt), comments=False).tree.parts:
        shown = [(segment.until, frozenset(segment.text)) for segment in schedule_nodes(part.items, run)]
        anywhere = frozenset[str]().union(*(letters for _, letters in shown))
        for tag in range(count):
            if (mark := network_mark(tag)) in anywhere:
                found[tag] = tuple(Segment(until, mark if mark in letters else "") for until, letters in shown)
    return tuple(found)


def _gated(use: Use, segments: tuple[Segment, ...]) -> Use | None:
    """As its place among the brackets has it; None: it is never there."""
    if not segments:
        return None
    if all(segment.text for segment in segments):
        return use
    return replace(use, te=use.te if use.says_te else 0.0, unet=Gated(use.unet, segments))


def read_tag(kind: str, arguments: str) -> Use:
    """A tag's use. Raises `BadTag` where a strength is no number."""
    positional, named = split_arguments(arguments)
    name, *rest = positional or [""]
    try:
        if kind == HYPERNET_TAG:
            return Use(kind, name, unet=number(rest[0]) if rest else 1.0, foreign=tuple(named))
        own = rest[0] if rest else "1"
        texts = named.get("te", own)
        unets = named.get("unet", rest[1] if rest[1:] else own if own.strip().startswith("[") else texts)
        te, unet = _strength(texts), _strength(unets)
        if not isinstance(te, float) and ("te" in named or texts != unets):
            raise ValueError("the strength for texts cannot change over the steps; for the UNet's write unet=[...]")
        dyn = named.get("dyn", rest[2] if rest[2:] else None)
        ranks = _whole(dyn) if dyn is not None else None
        factors(named.get("lbw", ""))
        shown = te if isinstance(te, float) else 0.0
        foreign = tuple(key for key in named if key not in NAMED)
        return Use(kind, name, shown, unet, ranks, named.get("lbw", ""), "te" in named, foreign=foreign)
    except ValueError as error:
        raise BadTag(f"<{kind}:{arguments}> cannot be read: {error}") from None


def split_arguments(arguments: str) -> tuple[list[str], dict[str, str]]:
    """Positional and named arguments: parted by colons outside of square brackets, if these are balanced."""
    pieces, depth = [""], 0
    balanced = arguments.count("[") == arguments.count("]")
    for letter in arguments:
        depth += (letter == "[") - (letter == "]")
        if letter == ":" and not (balanced and depth > 0):
            pieces.append("")
        else:
            pieces[-1] += letter
    named = dict(piece.split("=") for piece in pieces if piece.count("=") == 1)
    return [piece for piece in pieces if piece.count("=") != 1], named


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a whole number of ranks") from None


def _strength(text: str) -> Strength:
    text = text.strip()
    if not text.startswith("["):
        return number(text)
    if "@" in text:
        points = tuple(_point(pair) for pair in text.removeprefix("[").removesuffix("]").split(","))
        if len(points) < 2 or any(a[0] > b[0] for a, b in pairwise(points)):
            raise ValueError("weights at steps want two points or more, in ascending order")
        return Line(points)
    edited = Edited(text)
    for segment in edited.segments(Pass(20, 20)):
        number(segment.text)
    return edited


def _point(pair: str) -> tuple[float, float]:
    weight, _, t = pair.partition("@")
    return number(t), number(weight)
