"""Translations of the page, from catalogues such as `locales/zh.json` for Chinese; the keys are the English texts.

The page is built in English. In a browser that asks for a language that has a catalogue, ``assets/i18n.js`` puts the
catalogue's words in the place of every English text that comes onto the page, whoever made it: a component's label,
HTML of the server's, a script, an extension's tab. What has no entry stays English. The choices of dropdowns are told
by the server (`webui.choices`), for a dropdown shows the chosen one as a value and not as text.

A key may have places, ``Step {step} of {steps}``, that stand for anything; what is found there is translated in its
turn. `Catalogue` and the script follow the same rules, and a test holds them together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

LOCALES = Path(__file__).parent / "locales"
_PLACE = re.compile(r"\{(\w+)\}")
LINE, HINT = " · ", "; "
"""Separators of texts whose parts are translated one by one: in a line, and before a hint."""


def t(text: str) -> str:
    """Mark ``text`` as visible to people, so that a test finds missing translations."""
    return text


class Catalogue:
    """The translations into one language, by English text."""

    def __init__(self, entries: Mapping[str, str]):
        self.entries = dict(entries)
        # The most particular first.
        patterns = sorted(filter(_PLACE.search, entries), key=lambda key: -len(_PLACE.sub("", key)))
        self._patterns = [(_regex(key), entries[key]) for key in patterns]

    def __call__(self, text: str) -> str:
        """The translation of ``text``; itself where there is none.

        >>> zh = Catalogue({"Seed": "种子", "{label} needs a value": "{label}需要一个值"})
        >>> zh("Seed needs a value"), zh("something else")
        ('种子需要一个值', 'something else')
        """
        return self.find(text) or text

    def find(self, text: str) -> str | None:
        """The translation, or None if there is none."""
        if not text:
            return None
        for same in (text, text[0].lower() + text[1:], text[0].upper() + text[1:]):
            if same in self.entries:
                return self.entries[same]
        if LINE in text:
            return self._parts(text, LINE)
        for pattern, meaning in self._patterns:
            if found := pattern.fullmatch(text):
                return _PLACE.sub(lambda place, found=found: self(found[place[1]]), meaning)  # type: ignore[misc]
        return self._parts(text, HINT)

    def _parts(self, text: str, joint: str) -> str | None:
        parts = text.split(joint)
        told = [self.find(part) for part in parts] if len(parts) > 1 else []
        return joint.join(new or old for new, old in zip(told, parts, strict=True)) if any(told) else None


def _regex(key: str) -> re.Pattern[str]:
    literals = _PLACE.split(key)  # text, name, text, name, ..., text
    parts = [re.escape(part) if number % 2 == 0 else f"(?P<{part}>.+?)" for number, part in enumerate(literals)]
    return re.compile("".join(parts), re.DOTALL)


def load_catalogues(folders: Iterable[Path] = (LOCALES,)) -> dict[str, Catalogue]:
    """Load the catalogues of all ``folders`` by language; later folders add to earlier ones."""
    entries: dict[str, dict[str, str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            entries.setdefault(path.stem, {}).update(json.loads(path.read_text(encoding="utf-8")))
    return {language: Catalogue(found) for language, found in entries.items()}


def language_of(accepted: str, known: Iterable[str]) -> str | None:
    """The first language of an Accept-Language header that is ``known``; None for English or without a header.

    >>> language_of("zh-CN,zh;q=0.9,en;q=0.8", ["zh"]), language_of("en-GB,zh;q=0.5", ["zh"]), language_of("fr", ["zh"])
    ('zh', None, None)
    """
    known = frozenset(known)
    for entry in accepted.split(","):
        language = entry.partition(";")[0].strip().partition("-")[0].lower()
        if language == "en":
            return None
        if language in known:
            return language
    return None
