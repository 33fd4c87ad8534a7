"""How a pass counts, for what changes over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.params.profile import Profile
from modules.prompt.schedule import Pass, Segment, entry_at


@dataclass(frozen=True)
class Clock:
    """One pass of a sampler.

    >>> from modules.params.profile import EXACT
    >>> from modules.prompt.schedule import schedule
    >>> Clock(Pass(4, 4), 4, EXACT).entry(schedule("[cat:dog:0.5]", 4), call=2, step=2).text
    'dog'
    """

    run: Pass
    """As its prompts' schedules count."""
    steps: int
    """The sampler's."""
    profile: Profile

    def entry(self, segments: Sequence[Segment], call: int, step: int) -> Segment:
        """The segment that holds at the network's ``call`` and the sampler's ``step``, both from 0."""
        return segments[entry_at(segments, call if self.profile.double_steps else step, self.profile)]
