"""Chunks: what moves, what breaks, what counts. The reference's own cases are in tests/conformance."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modules.prompt.chunks import EMPTY, Embeddings, Mark, chunk
from modules.prompt.tokens import COMMA, END, START, default_tokenizer

TOKENIZER = default_tokenizer()
CAT = TOKENIZER.ids("cat")[0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["cat ", "cat, ", "(cat:1.2) ", "BREAK ", "dog " * 30, "mystyle "]), max_size=60).map(
        "".join
    ),
    st.integers(0, 75),
)
def test_every_chunk_is_whole_and_no_token_is_lost(text: str, backtrack: int) -> None:
    embeddings = Embeddings(TOKENIZER, [("mystyle", 7)])
    found = chunk(text, TOKENIZER, embeddings=embeddings, backtrack=backtrack)
    for one in found.chunks:
        assert len(one.ids) == len(one.weights) == 77
        assert one.ids[0] == START
        assert set(one.ids[1 + one.length :]) == {END}
    kept = [i for one in found.chunks for i in one.ids[1 : 1 + one.length]]
    plain = TOKENIZER.ids(text.replace("BREAK", "").replace("(", "").replace(":1.2)", "").replace("mystyle", ""))
    assert [i for i in kept if i != 0] == plain
    assert kept.count(0) == 7 * text.count("mystyle")
    assert found.count <= found.limit


def test_phrase_behind_the_last_comma_moves_whole() -> None:
    text = "cat " * 60 + ", " + "dog " * 20
    first, second = chunk(text, TOKENIZER).chunks
    assert first.length == 61
    assert first.ids[61] == COMMA
    assert (second.length, second.moved) == (20, 14)
    assert [c.length for c in chunk(text, TOKENIZER, backtrack=13).chunks] == [75, 6]


def test_the_empty_text_is_the_empty_chunk() -> None:
    assert chunk("", TOKENIZER).chunks == (EMPTY,)
    assert chunk("", TOKENIZER).limit == 75


def test_break_closes_even_an_empty_chunk_and_is_text_without_emphasis() -> None:
    assert [c.length for c in chunk("BREAK cat BREAK", TOKENIZER).chunks] == [0, 1]
    assert len(chunk("cat BREAK cat", TOKENIZER, emphasis="None").chunks) == 1


def test_the_longest_name_wins_and_vectors_are_never_split() -> None:
    embeddings = Embeddings(TOKENIZER, [("my", 2), ("my style", 70)])
    (one,) = chunk("my style", TOKENIZER, embeddings=embeddings).chunks
    assert one.marks == (Mark(0, "my style", 70),)
    first, second = chunk("cat " * 6 + "my style", TOKENIZER, embeddings=embeddings).chunks
    assert (first.length, second.length) == (6, 70)


def test_an_embedding_of_more_vectors_than_a_chunk_holds_is_cut() -> None:
    first, second = chunk("huge cat", TOKENIZER, embeddings=Embeddings(TOKENIZER, [("huge", 200)])).chunks
    assert (first.length, second.ids[1]) == (75, CAT)
