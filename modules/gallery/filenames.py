"""File and folder names of saved images, from A1111's patterns: ``[seed]-[prompt_words]``.

A word may have arguments: ``[datetime<%H-%M><Europe/Paris>]``. What a pattern asks for and a picture does not have is
left out; some words then take the text before them away as well, as in A1111. Another word in brackets stays as it is.
"""

from __future__ import annotations

import json
import logging
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from hashlib import sha256
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

log = logging.getLogger(__name__)

PART = 128
"""Longest replacement of one pattern word, in characters, as in A1111."""
WORDS = 8
"""Words of a prompt used by ``[prompt_words]``."""
BYTES = 160
"""Length limit of the name, in bytes; file systems take 255, and number, suffix and ``.part`` are added."""
_PIECE = re.compile(r"(.*?)(?:\[([^\[\]]+)\]|$)", re.DOTALL)
"""Literal text, and the pattern word after it."""
_WORD = re.compile(r"([^<]*)((?:<[^>]*>)*)")
"""A word's name and its arguments."""
_NOT_LETTERS = re.compile(rf"[\s{re.escape(string.punctuation)}]+")
_LOOSE = re.compile(r"^[ -]+(?=\D)|[ -]+$")
_HALVES = range(0xD800, 0xE000)
_FORBIDDEN = str.maketrans(
    dict.fromkeys('#<>:"/\\|?*' + "".join(map(chr, range(32))), "_") | dict.fromkeys(map(chr, _HALVES), "_")
)
"""Characters that file systems reject; lone surrogates, as in truncated text, cannot be encoded."""
DATETIME = "%Y%m%d%H%M%S"


@dataclass(frozen=True)
class Names:
    """The filename patterns of one job."""

    file: str = "[seed]"
    """The pattern of the file name after the number."""
    folder: str = "[date]"
    """Below the folder of its kind; ``/`` divides folders."""
    begun: datetime = field(default_factory=datetime.now)
    """The time at which the job began."""

    def file_for(self, facts: Mapping[str, str]) -> str:
        """The part of the file name after the number; may be empty."""
        return _short(fill(self.file, facts, self.begun))

    def folder_for(self, facts: Mapping[str, str]) -> Path:
        """The subfolder, a relative path that stays inside the outputs folder."""
        parts = [_short(fill(part, facts, self.begun)).lstrip(".") for part in _divided(self.folder)]
        return Path(*(filter(None, parts))) if any(parts) else today()


def today() -> Path:
    return Path(f"{datetime.now():%Y-%m-%d}")


def _divided(pattern: str) -> list[str]:
    """Split a pattern at ``/``, except inside a word such as ``[datetime<%d><Europe/Paris>]``.

    >>> _divided("a/[datetime<%d><Europe/Paris>]/b")
    ['a', '[datetime<%d><Europe/Paris>]', 'b']
    """
    return re.split(r"/(?![^\[\]]*\])", pattern)


_SCHEDULE = re.compile(r"\bSchedule type: ([^,\n]+)")


def facts_of(recipe: str | None, seed: int | None, size: tuple[int, int], infotext: str = "") -> dict[str, str]:
    """The values that patterns can use for an image, taken from its infotext and recipe if it has them."""
    facts = {"width": str(size[0]), "height": str(size[1])}
    if seed is not None:
        facts["seed"] = str(seed)
    told = _read(recipe)
    request = told.get("request")
    if isinstance(request, dict):
        facts |= _asked(request, infotext)
        facts |= _counted(request, told.get("index"))
    if isinstance(told.get("pixels"), str):
        facts["image_hash"] = told["pixels"]
    return facts | _files(told.get("files"), {"vae_filename": "NoneType"} if "steps" in facts else {})


def _read(recipe: str | None) -> dict[str, Any]:
    try:
        told = json.loads(recipe or "{}")
    except (ValueError, RecursionError):  # it is not ours to judge what a caller saves
        return {}
    return told if isinstance(told, dict) else {}


def _asked(request: Mapping[str, Any], infotext: str) -> dict[str, str]:
    """Pattern values from the request; the schedule actually used is taken from the infotext."""
    keys = {"steps": "steps", "cfg": "cfg_scale", "sampler": "sampler", "batch_size": "batch_size"}
    keys |= {"clip_skip": "clip_skip", "prompt": "prompt", "negative_prompt": "negative_prompt"}
    facts = {name: str(request[key]) for name, key in keys.items() if key in request}
    used = _SCHEDULE.findall(infotext)
    if used or "scheduler" in request:
        facts["scheduler"] = str(used[-1] if used else request["scheduler"]).capitalize()
    if "sampler" in facts and "scheduler" in facts:
        facts["sampler_scheduler"] = f"{facts['sampler']} {facts['scheduler']}"
    for start in (request.get("init"), request.get("hires")):
        if isinstance(start, dict) and start.get("denoising_strength"):
            facts["denoising"] = str(start["denoising_strength"])
    # Styles are merged into the prompts before a request is made.
    return facts | {"styles": "None"}


def _counted(request: Mapping[str, Any], index: object) -> dict[str, str]:
    """The index of an image in its batch or job, if there are several."""
    size, count, first = (request.get(name, 1) for name in ("batch_size", "batch_count", "seed"))
    if not (isinstance(size, int) and isinstance(count, int) and isinstance(first, int) and size > 0):
        return {}
    facts = {"seed_first": str(first)} if size > 1 else {}
    if size > 1:
        last = first if request.get("subseed_strength") else first + size * count - 1
        facts["seed_last"] = str(last % 2**64)
    if isinstance(index, int) and size > 1:
        facts["batch_number"] = str(index % size + 1)
    if isinstance(index, int) and size * count > 1:
        facts["generation_number"] = str(index + 1)
    return facts


def _files(files: object, facts: dict[str, str]) -> dict[str, str]:
    for file in files if isinstance(files, list) else ():
        name, role = (str(file.get(key)) if isinstance(file, dict) else "" for key in ("name", "role"))
        if role == "checkpoint":
            facts |= {"model_name": Path(name).stem, "model_hash": str(file.get("sha256"))[:10]}
        elif role == "vae":
            facts |= {"vae_filename": Path(name).name.lstrip(".").split(".")[0]}
    return facts


# ------------------------------------------------------------------------------------------------------------- words

Facts = Mapping[str, str]
Word = Callable[[Facts, Sequence[str]], str | None]
"""Gives a word's text from the facts and its arguments; None also removes the literal text before it."""


def _fact(name: str) -> Word:
    return lambda facts, _: clean(facts.get(name, ""))


def _or_nothing(name: str) -> Word:
    return lambda facts, _: facts.get(name)


def _hash_of(*names: str) -> Word:
    """SHA-256 of texts joined by a blank, cut to the number of digits asked for (8)."""

    def word(facts: Facts, arguments: Sequence[str]) -> str:
        if not all(name in facts for name in names):
            return ""
        text = " ".join(facts[name] for name in names)
        return sha256(text.encode("utf-8", "replace")).hexdigest()[: _length(arguments, 8)]

    return word


def _length(arguments: Sequence[str], default: int) -> int:
    return int(arguments[0]) if arguments and arguments[0].isdecimal() and len(arguments[0]) < 4 else default


def _prompt(facts: Facts, _: Sequence[str]) -> str:
    return clean(facts.get("prompt", "").replace(" ", "_"))


def _prompt_words(facts: Facts, _: Sequence[str]) -> str:
    words = [word for word in _NOT_LETTERS.split(facts.get("prompt", "")) if word]
    return clean(" ".join(words[:WORDS])) or ("empty" if "prompt" in facts else "")


def _hasprompt(facts: Facts, arguments: Sequence[str]) -> str:
    """``[hasprompt<a|b>]``: for each argument, a if the prompt contains it, else b, which may be missing."""
    prompt, found = facts.get("prompt", "").lower(), ""
    for sought, _, otherwise in (argument.partition("|") for argument in arguments if argument):
        found += sought.lower() if sought.lower() in prompt else otherwise.partition("|")[0]
    return clean(found.replace(" ", "_"))


def _datetime(_: Facts, arguments: Sequence[str]) -> str:
    """The current time in a given format and time zone; an unknown zone falls back to the system's."""
    form, zone = (*arguments, "", "")[:2]
    now = datetime.now().astimezone(_zone(zone))
    try:
        return clean(now.strftime(form or DATETIME))
    except (ValueError, TypeError):
        return now.strftime(DATETIME)


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError) as error:
        log.info("no time zone %r: %s", name, error)
        return None


_WORDS: Mapping[str, Word] = {
    **{name: _fact(name) for name in ("seed", "steps", "cfg", "width", "height", "sampler", "scheduler", "styles")},
    **{name: _fact(name) for name in ("sampler_scheduler", "model_hash", "model_name", "vae_filename", "user")},
    **{name: _fact(name) for name in ("clip_skip", "batch_size")},
    **{name: _or_nothing(name) for name in ("batch_number", "generation_number", "denoising", "seed_last")},
    "seed_first": lambda facts, _: clean(facts.get("seed_first", facts.get("seed", ""))),
    "date": lambda *_: f"{datetime.now():%Y-%m-%d}",
    "datetime": _datetime,
    "prompt": _prompt,
    "prompt_spaces": _fact("prompt"),
    "prompt_no_styles": _fact("prompt"),
    "prompt_words": _prompt_words,
    "prompt_hash": _hash_of("prompt"),
    "negative_prompt_hash": _hash_of("negative_prompt"),
    "full_prompt_hash": _hash_of("prompt", "negative_prompt"),
    "image_hash": lambda facts, arguments: facts.get("image_hash", "")[: _length(arguments, 64)],
    "hasprompt": _hasprompt,
    "none": lambda *_: "",
}
"""A1111's words except ``[job_timestamp]``, which belongs to the job."""
KNOWN = (*_WORDS, "job_timestamp")


def fill(pattern: str, facts: Facts, begun: datetime) -> str:
    """Replace the words of a pattern with their values, cleaned for use as a file name.

    >>> fill("[seed]-[prompt_words] [x]", {"seed": "7", "prompt": "a red fox"}, datetime(2026, 1, 2))
    '7-a red fox [x]'
    >>> fill("[seed]-[batch_number]", {"seed": "7"}, datetime(2026, 1, 2))
    '7'
    """
    pieces: list[str] = []
    for text, word in _PIECE.findall(pattern):
        said = _said(word, facts, begun) if word else ""
        if said is not None:
            pieces += text, said
    return clean("".join(pieces), 1000)


def _said(word: str, facts: Facts, begun: datetime) -> str | None:
    parts = _WORD.fullmatch(word)
    name, arguments = (parts[1], re.findall("<([^>]*)>", parts[2])) if parts else (word, [])
    if name.lower() == "job_timestamp":
        return f"{begun:{DATETIME}}"
    known = _WORDS.get(name.lower())
    return known(facts, arguments) if known else f"[{name}]"


def clean(text: str, most: int = PART) -> str:
    """Remove characters that file systems reject, as A1111 does."""
    return text.translate(_FORBIDDEN).lstrip(" ")[:most].rstrip(" .")


def _short(text: str) -> str:
    """Limit the length, and drop separators left by missing words; a number may be negative."""
    return _LOOSE.sub("", text.encode("utf-8", "replace")[:BYTES].decode(errors="ignore"))
