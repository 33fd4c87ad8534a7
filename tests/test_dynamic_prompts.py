"""The templates of the dynamic prompts: what is chosen follows from the seed, and from nothing else."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def template() -> Any:
    path = ROOT / "extensions" / "dynamic_prompts" / "template.py"
    spec = importlib.util.spec_from_file_location("dynamic_prompts_template", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(template: Any, tmp_path: Path) -> Any:
    (tmp_path / "animal.txt").write_text("# animals\ncat\n\n{big|small} __fish__\n")
    (tmp_path / "fish.txt").write_text("eel\n")
    (tmp_path / "round.txt").write_text("__round__\n")
    (tmp_path / "many.txt").write_text("__few__ " * 50)
    (tmp_path / "few.txt").write_text("__leaf__ " * 150)
    (tmp_path / "leaf.txt").write_text("x\n")
    (tmp_path / "to.txt").write_text("__fro__ __fro__\n")
    (tmp_path / "fro.txt").write_text("{__to__|__to__} __to__\n")
    (tmp_path / "long.txt").write_text("x" * 900_000 + "\n")
    (tmp_path / "ring.txt").symlink_to(tmp_path / "ring.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    return template.Wildcards(tmp_path)


def drawn(template: Any, words: Any, text: str, n: int = 300) -> Counter[str]:
    return Counter(template.fill(text, f"{seed}/0/prompt", words) for seed in range(n))


def test_same_seed_gives_the_same_words_today_and_tomorrow(template: Any, words: Any) -> None:
    text = "a {red|blue|green} {cat|dog}"
    parts = [int(sha256(f"7/0/prompt/{i}".encode()).hexdigest()[:12], 16) / 2**48 for i in (1, 2, 3, 4)]
    # Of each choice one number says how many, and one which.
    colour, animal = ("red", "blue", "green")[int(parts[1] * 3)], ("cat", "dog")[int(parts[3] * 2)]
    assert template.fill(text, "7/0/prompt", words) == f"a {colour} {animal}"


def test_choices_are_drawn_evenly_or_by_their_weight(template: Any, words: Any) -> None:
    even = drawn(template, words, "{a|b|c}")
    assert set(even) == {"a", "b", "c"}
    assert min(even.values()) > 60
    weighted = drawn(template, words, "{3::often|1::rarely}")
    assert 2.0 < weighted["often"] / weighted["rarely"] < 4.5


def test_several_are_no_one_twice_and_joined_as_asked(template: Any, words: Any) -> None:
    pairs = drawn(template, words, "{2$$a|b|c}")
    assert set(pairs) == {f"{x}, {y}" for x in "abc" for y in "abc" if x != y}
    assert set(drawn(template, words, "{2$$ and $$a|b}")) == {"a and b", "b and a"}
    assert {len(text.split(", ")) for text in drawn(template, words, "{1-3$$a|b|c}")} == {1, 2, 3}
    assert set(drawn(template, words, "{9$$a|b}")) == {"a, b", "b, a"}


def test_wildcards_are_lines_of_files_and_may_name_others(template: Any, words: Any) -> None:
    assert set(drawn(template, words, "__animal__ {|x}")) == {
        f"{animal} {end}" for animal in ("cat", "big eel", "small eel") for end in ("", "x")
    }


@pytest.mark.parametrize("text", ["a [cat:dog:0.5]", "(fox:1.2) <lora:x:1>", "} {", "a { b", "snake_case __", "a|b"])
def test_what_is_no_template_stays_as_it_is(template: Any, words: Any, text: str) -> None:
    assert template.fill(text, "1", words) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("__dragon__", "there is no wildcard file 'dragon'; there are animal"),
        ("__a/../../secret__", "there is no wildcard file 'a/../../secret'"),
        ("__empty__", "the wildcard file 'empty' has no choice in it"),
        ("__round__", "the choices of this prompt lie too deep within each other"),
        ("__many__", "this prompt asks for more than 5,000 choices"),
        ("__to__", "the choices of this prompt lie too deep within each other"),
        ("__long__ __long__", "this prompt grows beyond 1,000,000 characters"),
        ("{5001$$" + "a|" * 6000 + "}", "this prompt asks for more than 5,000 choices"),
        (f"__{'a' * 300}__", "the wildcard file 'aaa"),
        ("__ring__", "the wildcard file 'ring' cannot be read"),
    ],
)
def test_what_cannot_be_filled_is_a_sentence(template: Any, words: Any, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as found:
        template.fill(text, "1", words)
    assert str(found.value).startswith(sentence)


HOSTILE = {
    "open": "{" * 20_000,
    "close": "}" * 20_000,
    "_": "_" * 20_000,
    "bar": "{|" * 10_000,
    "2,500 of as many": "{2500$$" + "a|" * 2500 + "}",
    "4,999 of 9,000": "{4999$$" + "3::|" * 4500 + "a|" * 4500 + "}",
    "a number of 19,000 digits": "{" + "9" * 19_000 + "$$a|b}",
    "a huge range": "{1-999999999999999999$$a|b}",
    "a weight of 400 digits": "{" + "9" * 400 + "::a|b}",
    "nested": "{a|" * 20 + "{b|c}" * 3_900 + "}" * 20,
    "half a name": "__" + "a" * 19_000,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_read_to_its_end(template: Any, words: Any, text: str) -> None:
    assert len(template.fill(text, "1", words)) <= 3 * len(text)  # where nothing was, commas join


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.lists(st.floats(0, 1, exclude_max=True), max_size=40))
def test_an_urn_gives_what_lies_at_that_part_of_the_things_left(
    template: Any, weights: list[int], parts: list[float]
) -> None:
    urn, left = template.Urn(weights), [number for number, weight in enumerate(weights) for _ in range(weight)]
    for part in parts[: len(weights)]:
        expected = left[int(part * len(left))]
        assert urn.take(part) == expected
        left = [number for number in left if number != expected]


PIECES = st.sampled_from([*"{}|ab ", "{a|b}", "2$$", "1-3$$", " and $$", "3::", "0.5::", "__"])


@given(st.lists(PIECES, max_size=60).map("".join))
def test_no_letter_is_gone_through_more_often_than_it_lies_deep(template: Any, text: str) -> None:
    draws = template.Draws("1")
    filling = template._Filling(draws, template.Wildcards(ROOT / "nowhere"))
    with contextlib.suppress(UserError):
        filling.filled(text)
    deepest = depth = 0
    for letter in text:
        depth = max(depth + {"{": 1, "}": -1}.get(letter, 0), 0)
        deepest = max(deepest, depth)
    assert draws.read <= (1 + deepest) * len(text)


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=50, unique=True), st.integers(0, 60))
def test_so_many_are_chosen_as_asked_and_no_one_twice(template: Any, options: list[str], wanted: int) -> None:
    text = template.fill(f"{{{wanted}$$/$${'|'.join(options)}}}", "1", template.Wildcards(ROOT / "nowhere"))
    chosen = text.split("/") if text else []
    assert len(chosen) == min(wanted, len(options)) == len({*chosen})
    assert {*chosen} <= {*options}
