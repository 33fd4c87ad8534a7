"""The tokenizer against a plain byte-pair encoder, and where it runs."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.errors import NotFound
from modules.prompt.tokens import COMMA, END, START, Tokenizer, default_tokenizer

ROOT = Path(__file__).parents[3]
MERGES = [
    tuple(line.split(" "))
    for line in (ROOT / "models" / "clip" / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
]
RANKS = {pair: rank for rank, pair in enumerate(MERGES)}


def merged(word: str) -> list[int]:
    """Sennrich et al. (2016): join the best pair, again and again. For words of ASCII letters and digits."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while pairs := [(RANKS[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in RANKS]:
        _, i = min(pairs)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    letters = [chr(i) for i in range(33, 127)]
    ids = {letter: i for i, letter in enumerate(letters)} | {
        f"{letter}</w>": 256 + i for i, letter in enumerate(letters)
    }
    return [512 + RANKS_OF_WORDS[symbol] if symbol in RANKS_OF_WORDS else ids[symbol] for symbol in symbols]


RANKS_OF_WORDS = {a + b: rank for rank, (a, b) in enumerate(MERGES)}


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=30))
def test_words_are_merged_by_rank(word: str) -> None:
    assert default_tokenizer().ids(word) == merged(word)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_has_ids_within_the_vocabulary(text: str) -> None:
    tokenizer = default_tokenizer()
    ids = tokenizer.ids(text)
    assert all(0 <= i <= END for i in ids)
    assert len(tokenizer.words(ids)) == len(ids)


def test_known_ids() -> None:
    tokenizer = default_tokenizer()
    assert tokenizer.ids(",") == [COMMA]
    assert tokenizer.words([START, END]) == ["<|startoftext|>", "<|endoftext|>"]
    assert tokenizer.ids("x <|endoftext|> y")[1] == END
    assert END not in default_tokenizer(open_clip=True).ids("x <|endoftext|> y")
    assert END in default_tokenizer(open_clip=True).ids("x <end_of_text> y")


def test_case_and_white_space_do_not_matter() -> None:
    ids = default_tokenizer().ids
    assert ids("A  Photo\n of\ta CAT ") == ids("a photo of a cat")


def test_words_read_back_as_the_text() -> None:
    tokenizer = default_tokenizer()
    assert "".join(tokenizer.words(tokenizer.ids("naïve supercalifragilistic"))) == "naïvesupercalifragilistic"


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="merge list"):
        Tokenizer(tmp_path)


def test_the_prompt_package_needs_no_torch() -> None:
    code = (
        "import sys, modules.prompt.explain as e, modules.prompt.tokens; e.explain('a [cat:dog:0.5]', steps=20);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
