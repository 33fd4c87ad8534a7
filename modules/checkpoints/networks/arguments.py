"""What a network tag says: ``<lora:NAME:TE:UNET:DYN>``, and strengths that change over the steps.

A strength is a number; ``[0:1:0.25]``, which is read and switches as prompt editing does; or, as in Forge Neo, points between
which it goes in straight lines, ``[0@0, 1@0.25]``, a weight at each fraction of the steps.

>>> use = read_tag("ink:0.8:te=0.5:dyn=4")
>>> use.name, use.te, use.unet, use.dyn
('ink', 0.5, 0.5, 4)
>>> use = read_tag("ink:[0:1:0.25]")
>>> use.te, [use.unet.at(call, call, Pass(8, 8), A1111) for call in range(8)]
(0.0, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
>>> [round(read_tag("ink:[0@0,1@1]").unet.at(step, step, Pass(5, 5), A1111), 1) for step in range(5)]
[0.0, 0.2, 0.4, 0.6, 0.8]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from modules.profile import A1111, Profile
from modules.prompt.schedule import Pass, Segment, entry_at, schedule

KINDS = ("lora", "lyco")
"""Names of tags that mean LoRA and its relatives."""
HYPERNET = "hypernet"


@dataclass(frozen=True)
class Edited:
    """A strength in the prompt language."""

    text: str

    def segments(self, run: Pass) -> tuple[Segment, ...]:
        """Raises `ValueError` where one of its texts is no number."""
        found = schedule(self.text, run.steps, base_steps=run.base_steps, second_pass=run.second, old=run.old)
        for segment in found:
            number(segment.text)
        return found

    def at(self, call: int, step: int, run: Pass, profile: Profile) -> float:
        """At the network's call and the sampler's step, both from 0 in each pass."""
        segments = self.segments(run)
        counted = call if profile.double_steps else step
        return number(segments[entry_at(segments, counted, profile)].text)


@dataclass(frozen=True)
class Line:
    """Straight lines between (fraction of the steps, weight), in ascending fractions; equal ones make a jump."""

    points: tuple[tuple[float, float], ...]

    def at(self, call: int, step: int, run: Pass, profile: Profile) -> float:
        """At the sampler's step, from 0. Before the first point Forge Neo takes the last weight; `EXACT` the first."""
        steps = run.steps // 2 if self._doubled(run, profile) else run.steps
        return self.value(step / max(steps, 1), neo=profile.late_edits)

    def _doubled(self, run: Pass, profile: Profile) -> bool:
        return False

    def value(self, t: float, *, neo: bool = True) -> float:
        if t < self.points[0][0]:
            return self.points[-1 if neo else 0][1]
        for (start, before), (end, after) in zip(self.points, self.points[1:], strict=False):
            if start <= t < end:
                return before + (after - before) * (t - start) / (end - start)
        return self.points[-1][1]


Strength = float | Edited | Line


@dataclass(frozen=True)
class Use:
    """A network as a tag asks for it."""

    name: str
    te: float = 1.0
    unet: Strength = 1.0
    dyn: int | None = None
