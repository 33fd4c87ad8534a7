"""Parses infotext as A1111 1.10 does."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from modules.errors import UserError
from modules.metadata.infotext.keys import DEFAULTS, KEYS, OTHERS, READ_ONLY
from modules.metadata.infotext.write import NEGATIVE
from modules.prompt import styles as style_texts
from modules.prompt.emphasis import attention
from modules.prompt.styles import Style

log = logging.getLogger(__name__)

MAX_LENGTH = 65_536
"""Limit of the text read, in characters."""


def read(
    text: str,
    *,
    styles: Sequence[Style] = (),
    style_mode: str = "Apply if any",
    backcompat: bool = True,
    skip: Collection[str] = (),
) -> dict[str, Any]:
    """All keys of ``text`` as A1111 1.10 reads them: values as text, defaults for missing keys.

    ``style_mode`` is "Apply if any", "Apply", "Discard" or "Ignore"; with ``backcompat`` a file of an old version gets
    that version's behaviours as keys; the keys in ``skip`` are left out.
    """
    if len(text) > MAX_LENGTH:
        raise UserError(
            f"the generation text has {len(text):,} characters and the limit is {MAX_LENGTH:,}",
            hint="paste the text of one picture",
            field="infotext",
        )
    lines, found = _parts(text.strip().split("\n"))
    prompt, negative = _prompts(lines, loosely=bool(found))
    parsed = _values(found)
    _find_styles(parsed, prompt, negative, styles, style_mode)
    if "Hypernet" in parsed:
        strength = parsed.get("Hypernet strength", "1.0")
        parsed["Prompt"] += f"<hypernet:{parsed['Hypernet']}:{strength}>"
    if "FP8 weight" in parsed and parsed["FP8 weight"] != DEFAULTS["FP8 weight"]:
        parsed.setdefault("Cache FP16 weight for LoRA", False)
    for key, value in DEFAULTS.items():
        parsed.setdefault(key, value)
    if "Emphasis" not in parsed and (uses_emphasis(parsed["Prompt"]) or uses_emphasis(parsed["Negative prompt"])):
        parsed["Emphasis"] = "Original"
    _old_hires(parsed)
    if backcompat:
        _old_version(parsed)
    return {key: value for key, value in parsed.items() if key not in skip}


Pairs = Sequence[tuple[str, str]]


def _parts(lines: Sequence[str]) -> tuple[Sequence[str], Pairs]:
    """Split into prompt lines and the pairs of the last line; or of the line that begins with "Steps:", if the lines
    after it continue one of its values.
    """
    begin = max((i for i, line in enumerate(lines) if _begins(line, "Steps:")), default=len(lines) - 1)
    if begin < len(lines) - 1 and len(found := _continued(lines[begin], lines[begin + 1 :])) >= 3:
        return lines[:begin], found
    found = pairs(lines[-1])
    return (lines[:-1], found) if len(found) >= 3 else (lines, ())


def _begins(line: str, word: str) -> bool:
    """Whether ``line`` begins with a prefix, ignoring case."""
    return line.lstrip()[: len(word)].casefold() == word.casefold()


def _continued(line: str, rest: Sequence[str]) -> Pairs:
    """The pairs of a line whose last value continues on further lines; none if those lines are something else.

    Values of A1111's own keys never have a line break, so they end with their line.
    """
    own, after = pairs(line), pairs(rest[0])
    if own and after and own[-1][0].casefold() in CANONICAL and _begins(rest[0], f"{after[0][0]}:"):
        return ()
    found = pairs("\n".join((line, *rest)))
    return [(key, value.split("\n")[0].rstrip() if key.casefold() in CANONICAL else value) for key, value in found]


def pairs(line: str) -> list[tuple[str, str]]:
    """The ``key: value`` pairs of a line, in one pass from left to right; anything else is skipped.

    >>> pairs('Steps: 20, Lora hashes: "a: 1, b: 2", ?, Size: 8x8')
    [('Steps', '20'), ('Lora hashes', '"a: 1, b: 2"'), ('Size', '8x8')]
    """
    found, start = [], 0
    while (colon := line.find(":", start)) >= 0:
        key = _key_before(line, start, colon)
        start = colon + 1
        if key:
            value, start = _value_at(line, start)
            found.append((key, value))
    return found


_WORD = re.compile(r"\w")
_BLANKS = re.compile(r"\s*")
_JSON = json.JSONDecoder(strict=False)


def _key_before(line: str, start: int, colon: int) -> str:
    """The key that ends at ``colon``: a word character, then word characters, blanks, - and /; two or more."""
    first = begin = colon
    while begin > start and (line[begin - 1] in " -/" or _WORD.match(line, begin - 1)):
        begin -= 1
        if line[begin] not in " -/":
            first = begin
    return line[first:colon] if colon - first > 1 else ""


def _value_at(line: str, start: int) -> tuple[str, int]:
    """The value that starts at an offset, quotes included, and where the next pair may start."""
    start = _after_blanks(line, start)
    if line.startswith('"', start):
        end = _closing_quote(line, start) + 1
    else:
        end = _after_blanks(line, _closing_bracket(line, start)) if line.startswith(("[", "{"), start) else 0
    if not end or line[end : end + 1] not in (",", "\n", ""):
        end = line.find(",", start)
        end = len(line) if end < 0 else end
    return line[start:end], end + 1


def _after_blanks(line: str, start: int) -> int:
    blanks = _BLANKS.match(line, start)
    return blanks.end() if blanks else start


def _closing_bracket(line: str, start: int) -> int:
    """The end of the JSON list or object that starts there, or 0: some programs write such values unquoted."""
    try:
        return _JSON.raw_decode(line, start)[1]
    except (ValueError, RecursionError):
        return 0


def _closing_quote(line: str, start: int) -> int:
    """The end of the string that starts there, or -1; an empty string does not count."""
    i = start + 1
    while i < len(line) and line[i] != '"':
        i += 2 if line[i] == "\\" else 1
    return i if start + 1 < i < len(line) else -1


def _prompts(lines: Sequence[str], *, loosely: bool) -> tuple[str, str]:
    """Split the lines into prompt and negative prompt. ``loosely``: accept "Negative Prompt:" too, if A1111's
    spelling does not occur.
    """
    texts: tuple[list[str], list[str]] = ([], [])
    negative = False
    lines = [line.strip() for line in lines]
    loosely = loosely and not any(line.startswith(NEGATIVE) for line in lines)
    for line in lines:
        if line.startswith(NEGATIVE) or (loosely and _begins(line, NEGATIVE)):
            negative = True
            line = line[len(NEGATIVE) :].strip()
        if line or texts[negative]:  # empty lines count, but not at the start
            texts[negative].append(line)
    return "\n".join(texts[False]), "\n".join(texts[True])


_SIZE = re.compile(r"^(\d+)x(\d+)$")


CANONICAL = {key.casefold(): key for key in (*KEYS, *OTHERS, *READ_ONLY)}
"""A1111's spelling of keys that others write in other capitals."""


def _values(found: Pairs) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    spelled = {key for key, _ in found}
    for key, raw in found:
        if not raw:
            log.info("generation text: %r has no value", key)
            continue
        canonical = CANONICAL.get(key.casefold(), key)
        key = key if canonical in spelled else canonical
        value = unquote(raw)
        if size := _SIZE.match(value):
            parsed[f"{key}-1"], parsed[f"{key}-2"] = size.groups()
        else:
            parsed[key] = value
    return parsed


HIRES_STYLES = (1, 8, 0, 139)
"""Up to this version A1111 put no styles into the prompts of a second pass."""


def _find_styles(parsed: dict[str, Any], prompt: str, negative: str, styles: Sequence[Style], mode: str) -> None:
    """Remove recognised styles from the prompts. They only count if the hires prompts contain the same ones."""
    parsed["Prompt"], parsed["Negative prompt"] = prompt, negative
    if mode == "Ignore":
        return
    names, bare, bare_negative = style_texts.find(styles, prompt, negative)
    version = version_number(str(parsed.get("Version", "")))
    styled = version is None or version > HIRES_STYLES
    if styled and ("Hires prompt" in parsed or "Hires negative prompt" in parsed):
        hires = parsed.get("Hires prompt", prompt), parsed.get("Hires negative prompt", negative)
        hires_names, hires_bare, hires_negative = style_texts.find(styles, *hires)
        if hires_names != names:
            return
        parsed["Hires prompt"] = "" if hires_bare == bare else hires_bare
        parsed["Hires negative prompt"] = "" if hires_negative == bare_negative else hires_negative
    parsed["Prompt"], parsed["Negative prompt"] = bare, bare_negative
    if mode == "Apply" or (mode == "Apply if any" and names):
        parsed["Styles array"] = names


def _old_hires(parsed: dict[str, Any]) -> None:
    """Convert old hires fix, where Size was the final size and "First pass size" the first one."""
    first = _whole(parsed.get("First pass size-1")), _whole(parsed.get("First pass size-2"))
    width, height = _whole(parsed.get("Size-1", 512)), _whole(parsed.get("Size-2", 512))
    if None in (*first, width, height) or not width or not height:
        return
    if 0 in first:
        # The first pass had the area of 512 x 512, each side rounded up to a multiple of 64.
        scale = math.sqrt(512 * 512 / (width * height))
        first = math.ceil(scale * width / 64) * 64, math.ceil(scale * height / 64) * 64
    parsed["Size-1"], parsed["Size-2"] = first
    parsed["Hires resize-1"], parsed["Hires resize-2"] = width, height


def _whole(value: object) -> int | None:
    """A size as an integer; limited to nine digits."""
    return int(str(value)) if re.fullmatch(r"\d{1,9}", str(value)) else None


def _old_version(parsed: dict[str, Any]) -> None:
    """Enable the compatibility options for what the image's A1111 version did differently."""
    version = version_number(str(parsed.get("Version", "")))
    if version is None:
        return
    if version < (1, 6, 0, 0) and "[" in parsed["Prompt"]:
        parsed["Old prompt editing timelines"] = True
    if version < (1, 6, 0, 0) and parsed.get("Sampler") in ("DDIM", "PLMS"):
        parsed["Pad conds v0"] = True
    if version < (1, 7, 0, 225):
        parsed["Downcast alphas_cumprod"] = True
    if version < (1, 8, 0, 0) and "Refiner" in parsed:
        parsed["Refiner switch by sampling steps"] = True


_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?:-(\d{1,9})|(-?rc\d*))?", re.IGNORECASE)


def version_number(text: str) -> tuple[int, int, int, int] | None:
    """A version as a comparable tuple. The fourth number counts commits since the release; release candidates sort
    before it.

    >>> version_number("v1.7.0-225-gabcdef"), version_number("v1.6.0-RC"), version_number("Reprise 0.1.0")
    ((1, 7, 0, 225), (1, 6, 0, -1), None)
    """
    short = "-".join(text.split("-")[:2])
    if not (match := _VERSION.fullmatch(short)):
        return None
    major, minor, patch, commits, candidate = match.groups()
    return int(major), int(minor), int(patch or 0), -1 if candidate else int(commits or 0)


def uses_emphasis(prompt: str) -> bool:
    return any(piece.weight != 1 and piece.text != "BREAK" for piece in attention(prompt))


def unquote(text: str) -> str:
    """The inverse of `quote`; anything but a JSON string is kept as it is."""
    if not (text.startswith('"') and text.endswith('"')):
        return text
    try:
        return str(json.loads(text, strict=False))  # some write line breaks as they are
    except ValueError:
        return text
