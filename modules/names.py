"""Names of saved pictures, from patterns in A1111's words: ``[seed]-[prompt_words]``.

What a pattern asks for and a picture does not have is left out; another word in brackets stays as it is.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

PART = 128
"""The most characters that one word of a pattern gives, as in A1111."""
WORDS = 8
"""Of a prompt in ``[prompt_words]``."""
BYTES = 160
"""Of a whole name; file systems take 255, and number, ending and ``.part`` come to it."""
_WORD = re.compile(r"\[([a-z_]+)(?:<([^>]*)>)?\]")
_NOT_LETTERS = re.compile(rf"[\s{re.escape(string.punctuation)}]+")
_LOOSE = re.compile(r"^[ -]+(?=\D)|[ -]+$")
_FORBIDDEN = str.maketrans(dict.fromkeys('#<>:"/\\|?*' + "".join(map(chr, range(32))), "_"))


@dataclass(frozen=True)
class Names:
    """The patterns of one job."""

    file: str = "[seed]"
    """Stands behind the picture's number."""
    folder: str = "[date]"
    """Below the folder of its kind; ``/`` divides folders."""
    begun: datetime = field(default_factory=datetime.now)
    """When the job began."""

    def file_for(self, facts: Mapping[str, str]) -> str:
        """What stands behind the number; may be empty."""
        return _short(fill(self.file, facts, self.begun))

    def folder_for(self, facts: Mapping[str, str]) -> Path:
        """A relative path that leads nowhere else."""
        parts = [_short(fill(part, facts, self.begun)).lstrip(".") for part in self.folder.split("/")]
        return Path(*(filter(None, parts))) if any(parts) else Path(fill("[date]", facts, self.begun))


def facts_of(recipe: str | None, seed: int | None, size: tuple[int, int]) -> dict[str, str]:
    """What patterns may ask of a picture, from its recipe's text where it has one."""
    facts = {"width": str(size[0]), "height": str(size[1])}
    if seed is not None:
        facts["seed"] = str(seed)
    told = _read(recipe)
    request: dict[str, Any] = told.get("request") or {}
    for name, key in (("steps", "steps"), ("cfg", "cfg_scale"), ("sampler", "sampler"), ("scheduler", "scheduler")):
        if key in request:
            facts[name] = str(request[key])
    if "prompt" in request:
        facts["prompt_spaces"] = str(request["prompt"])
        facts["prompt"] = facts["prompt_spaces"].replace(" ", "_")
        facts["prompt_words"] = " ".join([word for word in _NOT_LETTERS.split(request["prompt"]) if word][:WORDS])
    if "index" in told:
        facts["batch_number"] = str(told["index"] + 1)
    for file in told.get("files") or ():
        if file["role"] == "checkpoint":
            facts |= {"model_name": Path(file["name"]).stem, "model_hash": file["sha256"][:10]}
    return facts


def _read(recipe: str | None) -> dict[str, Any]:
    try:
        told = json.loads(recipe or "{}")
    except ValueError:  # it is not ours to judge what a caller saves
        return {}
    return told if isinstance(told, dict) else {}


KNOWN = (
    *("seed", "steps", "cfg", "sampler", "scheduler", "width", "height", "model_name", "model_hash", "batch_number"),
    *("prompt", "prompt_spaces", "prompt_words", "date", "datetime", "job_timestamp"),
)


def fill(pattern: str, facts: Mapping[str, str], begun: datetime) -> str:
    """The pattern with its words filled in, fit for a file's name.

    >>> fill("[seed]-[prompt_words] [x]", {"seed": "7", "prompt_words": "a red fox"}, datetime(2026, 1, 2))
    '7-a red fox [x]'
    """
    now = datetime.now()

    def told(found: re.Match[str]) -> str:
        name, form = found[1], found[2]
        if name == "date":
            return f"{now:%Y-%m-%d}"
        if name == "datetime":
            return now.strftime(form or "%Y%m%d%H%M%S")
        if name == "job_timestamp":
            return f"{begun:%Y%m%d%H%M%S}"
        return clean(facts.get(name, "")) if name in KNOWN else found[0]

    return clean(_WORD.sub(told, pattern), 1000)


def clean(text: str, most: int = PART) -> str:
    """Without what file systems do not take, as A1111 does it."""
    return text.translate(_FORBIDDEN).lstrip(" ")[:most].rstrip(" .")


def _short(text: str) -> str:
    """Not too long, without what stood between words that are missing; a number may be negative."""
    return _LOOSE.sub("", text.encode()[:BYTES].decode(errors="ignore"))
