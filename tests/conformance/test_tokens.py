"""Tokens and chunks against the reference's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.nn.text import Inserted, TextStates
from modules.pipeline.conditioning import Encoder, TextConditioner
from modules.prompt.chunks import Embeddings, chunk
from modules.prompt.tokens import END, START, default_tokenizer


@pytest.mark.golden("tokens.json", "tokenize")
def test_raw_ids(case: dict[str, Any]) -> None:
    assert default_tokenizer().ids(case["text"]) == case["raw_ids"]


@pytest.mark.golden("tokens.json", "tokenize")
def test_raw_ids_of_open_clip(case: dict[str, Any]) -> None:
    assert default_tokenizer(open_clip=True).ids(case["text"]) == case.get("raw_ids_openclip", case["raw_ids"])


def whole(chunk: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Ids and weights of a chunk of the data, which leaves out end tokens and weights of 1."""
    ids = chunk["tokens"] + [END] * (chunk["length"] - len(chunk["tokens"]))
    if chunk["multipliers"] == 1.0:
        return ids, [1.0] * len(ids)
    return ids, chunk["multipliers"] + [1.0] * (len(ids) - len(chunk["multipliers"]))


@pytest.mark.golden("tokens.json", "tokenize")
@pytest.mark.parametrize("form", ["sd1", "openclip"])
def test_chunks(case: dict[str, Any], form: str, golden_file: Any, differs: Callable[[str], None]) -> None:
    expected = case.get(form, case["sd1"])
    tokenizer = default_tokenizer(open_clip=form == "openclip")
    found = chunk(
        case["text"],
        tokenizer,
        embeddings=Embeddings(tokenizer, [(e["name"], e["vectors"]) for e in golden_file["embeddings"]]),
        emphasis=case["options"].get("emphasis", "Original"),
        backtrack=case["options"].get("comma_padding_backtrack", 20),
    )
    if any(chunk["length"] > 77 for chunk in expected["chunks"]):
        differs("an embedding of more than 75 vectors is cut to 75, where the reference's chunk would be too long")
        assert all(len(chunk.ids) == 77 for chunk in found.chunks)
        assert any(chunk.ids == (START, *[0] * 75, END) for chunk in found.chunks)
        return
    assert [(list(c.ids), list(c.weights)) for c in found.chunks] == [whole(c) for c in expected["chunks"]]
    assert [[[mark.offset, mark.name] for mark in c.marks] for c in found.chunks] == [
        c["fixes"] for c in expected["chunks"]
    ]
    assert (found.count, found.limit) == (expected["token_count"], expected["counter_limit"])


def encode_by_formula(ids: Tensor, _inserted: Sequence[Inserted]) -> TextStates:
    """The data's stand-in for a text encoder: sin(id / 10 + place / 20 + 0.3 channel) + 0.2, id modulo 1000."""
    place, channel = torch.arange(77), torch.arange(3)
    angle = 0.1 * (ids % 1000)[..., None] + 0.05 * place[:, None] + 0.3 * channel
    return TextStates(angle.double().sin().float() + 0.2)


@pytest.mark.golden("tokens.json", "emphasis")
def test_emphasis(case: dict[str, Any]) -> None:
    encoder = Encoder(encode_by_formula, default_tokenizer(), zero_padding=case["padding"] == "zero")
    conditioner = TextConditioner([encoder], emphasis=case["mode"])
    z = conditioner.encode(case["texts"])
    assert list(z.shape) == case["shape"]
    for row, values in case["z_rows"].items():
        torch.testing.assert_close(z[:, int(row)], torch.tensor(values), rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(z.mean((1, 2)), torch.tensor(case["mean"]), rtol=2e-6, atol=2e-6)
