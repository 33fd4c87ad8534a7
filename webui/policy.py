"""What an administrator allows programs that use the HTTP APIs, as the command line has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modules.errors import UserError
from modules.params.generation import GenerationParams
from modules.pipeline.hires import hires_size

PROBES = ("null", "https://example.com", "http://a.b.example:1", "https://xn--80ak6aa92e.example")
"""Origins that nobody means."""


@dataclass(frozen=True)
class ApiPolicy:
    """Without any of it: nothing is fetched, nobody is called, other sites get no answers, and there is no limit."""

    origins: tuple[str, ...] = ()
    """Other sites whose pages may use the APIs: scheme, host and port, in small letters."""
    origins_pattern: str = ""
    """A regular expression that the whole origin has to match, instead."""
    webhook_hosts: tuple[str, ...] = ()
    """``HOST`` or ``HOST:PORT`` that may be told of jobs that ended."""
    image_hosts: tuple[str, ...] = ()
    """``HOST`` or ``HOST:PORT`` that images may be fetched from."""
    requests_per_minute: int = 0
    """Of each account; 0: any number."""
    max_pixels: int = 0
    """Of the largest pass of a request; 0: what the form allows."""
    max_steps: int = 0
    can_stop: bool = False
    """An administrator may end the server by a request."""
    frozen: frozenset[str] = frozenset()
    """A1111's settings that its API does not change; ``all``: none is changed."""

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of a site may use the APIs."""
        return origin.lower() in self.origins or bool(
            self.origins_pattern and re.fullmatch(self.origins_pattern, origin)
        )

    def check(self, params: GenerationParams) -> None:
        """Raise `UserError` for a request that is larger than an administrator allows."""
        hires = params.hires
        size = params.width, params.height
        if hires:
            size = hires_size(*size, hires).upscaled
        if 0 < self.max_pixels < size[0] * size[1]:
            most = f"{self.max_pixels / 1e6:g} megapixels"
            raise UserError(f"this server makes pictures of at most {most}", hint="make it smaller", field="width")
        if 0 < self.max_steps < max(params.steps, hires.steps if hires else 0):
            raise UserError(f"this server takes at most {self.max_steps} steps", hint="take fewer", field="steps")


NOTHING_MORE = ApiPolicy()
"""What holds where an administrator says nothing."""


def allowed_origins(said: Sequence[str], pattern: str) -> tuple[tuple[str, ...], str, list[str]]:
    """The origins of ``--cors-allow-origins`` and its regular expression that may be allowed, and a sentence on each
    that may not.

    >>> allowed_origins(["https://a.example/", "*", "a.example"], "https://.*")[:2]
    (('https://a.example',), '')
    """
    kept, notes = [], []
    for origin in said:
        plain = origin.rstrip("/").lower()
        if re.fullmatch(r"https?://[^/*\s@?#]+", plain):
            kept.append(plain)
        else:
            reason = (
                "every site could use this server" if origin == "*" else "it is no origin such as https://a.example"
            )
            notes.append(f"--cors-allow-origins {origin} is left out: {reason}")
    if pattern and (reason := _unfit(pattern)):
        notes.append(f"--cors-allow-origins-regex is left out: {reason}")
        pattern = ""
    return tuple(kept), pattern, notes


def _unfit(pattern: str) -> str:
    try:
        broad = any(re.fullmatch(pattern, probe) for probe in PROBES)
    except re.error as error:
        return f"it is no regular expression ({error})"
    return "every site could use this server" if broad else ""
