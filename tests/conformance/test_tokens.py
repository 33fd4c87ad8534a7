"""Tokens and chunks against the reference's own."""

from __future__ import annotations

from typing import Any

import pytest

from modules.prompt.tokens import default_tokenizer


@pytest.mark.golden("tokens.json", "tokenize")
def test_raw_ids(case: dict[str, Any]) -> None:
    assert default_tokenizer().ids(case["text"]) == case["raw_ids"]


@pytest.mark.golden("tokens.json", "tokenize")
def test_raw_ids_of_open_clip(case: dict[str, Any]) -> None:
    assert default_tokenizer(open_clip=True).ids(case["text"]) == case.get("raw_ids_openclip", case["raw_ids"])
