"""CLIP's byte-pair tokenizer (Radford et al. 2021, arXiv:2103.00020), without torch.

>>> tokenizer = default_tokenizer()
>>> tokenizer.ids("A photo of a cat, naïve")
[320, 1125, 539, 320, 2368, 267, 1097, 35689, 563]
>>> tokenizer.words([320, 1125, 539, 320, 2368])
['a', 'photo', 'of', 'a', 'cat']
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import ftfy
import regex  # type: ignore[import-untyped]
from tokenizers.models import BPE

from modules.errors import NotFound

START, END, COMMA = 49406, 49407, 267
"""Ids of the start and end tokens and of a comma at the end of a word."""

_CLIP_FOLDER = Path(__file__).parents[2] / "models" / "clip"
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """Text -> ids, from the merge list in ``folder``. Text is repaired by ftfy and lower-cased; nothing is cut.

    Two forms of the same vocabulary exist. The Hugging Face one (SD1, SDXL's first encoder) knows ``<|endoftext|>`` in
    a text as the end token; OpenCLIP's (``open_clip=True``: SD2, SDXL's second) knows ``<end_of_text>``.
    """

    def __init__(self, folder: Path = _CLIP_FOLDER, *, open_clip: bool = False):
        merges = _read_merges(folder / "merges.txt")
        letters = list(_byte_letters().values())
        words = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
        vocabulary = {word: i for i, word in enumerate(words)}
        self._words = words
        self._bpe = BPE(vocabulary, merges, end_of_word_suffix="</w>", cache_capacity=0)
        self._special = _specials("<start_of_text>", "<end_of_text>") if open_clip else _specials()
        self._open_clip = open_clip
        marks = "|".join(regex.escape(mark) for mark in self._special)
        self._pattern = regex.compile(f"{marks}|{_WORD}", regex.IGNORECASE)
        self._marks = re.compile(f"({marks})")
        self._word_ids = lru_cache(maxsize=50_000)(self._encode_word)

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, any length, without start and end."""
        pieces = [text] if self._open_clip else self._marks.split(text)
        words = (word for piece in pieces for word in self._pattern.findall(self._clean(piece)))
        return [i for word in words for i in self._word_ids(word)]

    def words(self, ids: Sequence[int]) -> list[str]:
        """The text of each id. A token that is part of a character reads "�"."""
        return [self._word(i) for i in ids]

    def _clean(self, text: str) -> str:
        if text in self._special:
            return text
        text = ftfy.fix_text(text)
        if self._open_clip:
            text = html.unescape(html.unescape(text))
        return " ".join(text.split()).lower()

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in self._special:
            return (self._special[word],)
        letters = _byte_letters()
        tokens = self._bpe.tokenize("".join(letters[byte] for byte in word.encode("utf-8", "replace")))
        return tuple(token.id for token in tokens)

    def _word(self, i: int) -> str:
        if i >= START:
            return next(mark for mark, special in self._special.items() if special == i)
        values = _letter_bytes()
        return bytes(values[letter] for letter in self._words[i].removesuffix("</w>")).decode("utf-8", "replace")


@cache
def default_tokenizer(*, open_clip: bool = False) -> Tokenizer:
    """The tokenizer of the included vocabulary."""
    return Tokenizer(open_clip=open_clip)


def _specials(start: str = "<|startoftext|>", end: str = "<|endoftext|>") -> dict[str, int]:
    return {start: START, end: END}


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except OSError as error:
        raise NotFound(
            f"the tokenizer's merge list {path.name} cannot be read",
            hint="fetch the folder models/clip again",
            place=path,
        ) from error
    return [(a, b) for a, _, b in (line.partition(" ") for line in lines)]


@cache
def _byte_letters() -> dict[int, str]:
    """GPT-2's mapping of bytes to visible letters: printable ones are themselves, the rest follow from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


@cache
def _letter_bytes() -> dict[str, int]:
    return {letter: byte for byte, letter in _byte_letters().items()}
