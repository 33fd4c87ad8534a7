"""Declared options: casting what forms, sliders and JSON send."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from modules.errors import UserError
from modules.params.generation import MAX_SEED, GenerationParams
from modules.params.options import option, options_of, read, values_of


@dataclass(frozen=True)
class Sample:
    steps: int = option(20, "Steps", lo=1, hi=150)
    scale: float = option(7.0, "CFG scale", lo=1.0)
    seed: int = option(-1, "Seed", lo=-1, hi=2**63 - 1)
    eta: float | None = option(None, "Eta", lo=0.0, hi=1.0)
    tiling: bool = option(False, "Tiling")
    mode: str = option("a", "Mode", choices=("a", "b"))
    plain: int = 3


def test_declaration_gives_name_type_default_and_range() -> None:
    steps = options_of(Sample)["steps"]
    assert (steps.name, steps.label, steps.type, steps.default, steps.lo, steps.hi) == (
        "steps",
        "Steps",
        int,
        20,
        1,
        150,
    )
    assert options_of(Sample)["eta"].optional
    assert "plain" not in options_of(Sample)


@pytest.mark.parametrize(
    ("field", "raw", "value"),
    [
        ("steps", 20.0, 20),
        ("steps", "20", 20),
        ("steps", " 7 ", 7),
        ("scale", "7.5", 7.5),
        ("scale", 7, 7.0),
        ("seed", "9007199254740993", 9007199254740993),
        ("eta", None, None),
        ("eta", "", None),
        ("tiling", "on", True),
        ("tiling", 0, False),
        ("mode", "b", "b"),
    ],
)
def test_loose_values_become_the_declared_type(field: str, raw: Any, value: Any) -> None:
    result = getattr(read(Sample, {field: raw}), field)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("field", "raw", "sentence"),
    [
        ("steps", 0, "Steps must be between 1 and 150, not 0"),
        ("steps", 10_000, "Steps must be between 1 and 150, not 10000"),
        ("steps", 2.5, "Steps must be a whole number, not 2.5"),
        ("steps", "abc", "Steps must be a whole number, not 'abc'"),
        ("steps", True, "Steps must be a whole number, not True"),
        ("steps", None, "Steps needs a value"),
        ("steps", [1], r"Steps must be a whole number, not \[1\]"),
        ("scale", math.nan, "CFG scale must be a number, not nan"),
        ("scale", "inf", "CFG scale must be a number, not 'inf'"),
        ("scale", 10**400, "CFG scale is too large"),
        ("scale", 0, "CFG scale must be at least 1, not 0"),
        ("seed", 2**63, "Seed must be between"),
        ("tiling", "perhaps", "Tiling must be true or false"),
        ("mode", "c", "Mode must be one of a, b, not 'c'"),
        ("mode", 3, "Mode must be text, not 3"),
    ],
)
def test_impossible_value_is_one_sentence_that_names_its_field(field: str, raw: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        read(Sample, {field: raw})
    assert error.value.field == field
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63, MAX_SEED])
def test_a_seed_keeps_all_its_digits_as_number_and_as_text(seed: int) -> None:
    assert GenerationParams.from_json({"seed": seed}).seed == seed
    assert GenerationParams.from_json({"seed": f" {seed} "}).seed == seed
    for rounded in (float(2**60), "1e19", f"{2**60}.0"):
        with pytest.raises(UserError, match="Seed must be written with all its digits"):
            GenerationParams.from_json({"seed": rounded})
    assert GenerationParams.from_json({"seed": 2.0**53}).seed == 2**53


def test_foreign_names_are_ignored_and_missing_ones_take_their_default() -> None:
    assert read(Sample, {"alwayson_scripts": {}, "plain": 9}) == Sample()


def test_request_survives_json() -> None:
    params = GenerationParams(prompt="a fox\n\x00é", seed=MAX_SEED, cfg_scale=7.5, eta=0.3)
    assert GenerationParams.from_json(params.to_json()) == params
    assert list(values_of(params)) == list(options_of(GenerationParams))
