"""Compatibility profiles: where to follow A1111's quirks and where the documented meaning.

One frozen object carries these choices from the request through plan and generation; nothing else in the engine asks
which program it imitates.
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.errors import UnknownName


@dataclass(frozen=True)
class Profile:
    """One flag for each difference, named for what is done when it is true."""

    name: str
    double_steps: bool
    """Second-order samplers count twice as many steps for the prompt's schedule."""
    late_edits: bool
    """`[a:b:N]` switches one network call after N, because the calls are counted from 0 and compared with `<=`."""
    batch_mean: bool
    """Emphasis restores the mean over all texts encoded together, rather than of each text."""
    slerp_rows: bool
    """Variation noise is interpolated along the height axis, with swapped weights for near-parallel noise."""
    floor_pixels: bool
    """Pixels are floor(255 v) rather than rounded."""
    short_ddim: bool = True
    """Over an image, the DDIM family makes two steps fewer than it announces (`schedules.image_start`)."""


A1111 = Profile("a1111", double_steps=True, late_edits=True, batch_mean=True, slerp_rows=True, floor_pixels=True)
"""Reproduces images made with AUTOMATIC1111's web UI."""

EXACT = Profile(
    "exact",
    double_steps=False,
    late_edits=False,
    batch_mean=False,
    slerp_rows=False,
    floor_pixels=False,
    short_ddim=False,
)
"""Follows the documented meaning."""

PROFILES = {profile.name: profile for profile in (A1111, EXACT)}


def profile_named(name: str) -> Profile:
    try:
        return PROFILES[name]
    except KeyError:
        raise UnknownName(
            f"no profile named {name!r}", hint=f"there are {', '.join(PROFILES)}", field="profile"
        ) from None
