"""What an administrator allows programs that use the HTTP APIs, as the command line has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modules.pipeline.limits import NO_LIMITS, Limits

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
    limits: Limits = NO_LIMITS
    """The largest request."""
    can_stop: bool = False
    """An administrator may end the server by a request."""
    frozen: frozenset[str] = frozenset()
    """A1111's settings that its API does not change; ``all``: none is changed."""

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of a site may use the APIs."""
        return origin.lower() in self.origins or bool(
            self.origins_pattern and re.fullmatch(self.origins_pattern, origin)
        )


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
