"""A modifier's options beside those of a request: one more group each, read and shown like the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from modules.errors import UserError
from modules.extension.modifier import Modifier, ModifierSpec, with_modifiers
from modules.params.generation import GenerationParams, Hires, ModifierOptions
from modules.params.options import Shape, option, options_of


@dataclass(frozen=True)
class Options:
    amount: float = option(0.5, "Amount", lo=0.0, hi=1.0)
    words: str = option("", "Words")


@dataclass(frozen=True)
class NoOptions:
    pass


def spec(name: str, options: type = Options, **facts: Any) -> ModifierSpec:
    return ModifierSpec(name, name.capitalize(), options, lambda options: Modifier(), **facts)


@pytest.fixture
def shape() -> Shape[GenerationParams]:
    return with_modifiers([spec("twice"), spec("plain", NoOptions, order=1), spec("tagged", by_tag=True)])


def test_each_is_one_more_group_in_the_order_in_which_they_work(shape: Shape[GenerationParams]) -> None:
    assert list(shape.groups)[-2:] == ["ext.plain", "ext.twice"]
    assert list(shape.options)[-2:] == ["ext.twice.amount", "ext.twice.words"]
    assert [group.label for group in shape.within["extensions"].values()] == ["Plain", "Twice"]
    own = Shape(GenerationParams)
    assert own.groups.items() <= shape.groups.items()
    assert own.options.items() <= shape.options.items()


@pytest.mark.parametrize(
    ("named", "extensions"),
    [
        ({}, {}),
        ({"ext.twice.amount": "0.3"}, {"twice": {"amount": 0.3, "words": ""}}),
        ({"ext.twice": True}, {"twice": {"amount": 0.5, "words": ""}}),
        ({"ext.twice": False, "ext.twice.amount": 0.3}, {}),
        ({"ext.plain": True}, {"plain": {}}),
        ({"ext.plain": False}, {}),
        ({"ext.tagged.amount": 0.3, "ext.none": True}, {}),
    ],
)
def test_one_takes_part_with_all_its_options_if_it_is_named_unless_it_is_switched_off(
    shape: Shape[GenerationParams], named: dict[str, Any], extensions: dict[str, Any]
) -> None:
    assert shape.read(named) == GenerationParams(extensions=ModifierOptions(extensions))


def test_groups_of_the_request_are_read_beside_them(shape: Shape[GenerationParams]) -> None:
    named = {"hires": True, "hires_scale": 1.5, "mask_soft": False, "mask_soft_preservation": 1.0, "ext.plain": True}
    assert shape.read(named) == GenerationParams(hires=Hires(scale=1.5), extensions=ModifierOptions({"plain": {}}))


def test_a_wrong_value_names_the_modifier_and_the_field(shape: Shape[GenerationParams]) -> None:
    with pytest.raises(UserError) as caught:
        shape.read({"ext.twice.amount": 2})
    assert (caught.value.message, caught.value.field) == (
        "Twice: Amount must be between 0 and 1, not 2",
        "extensions.twice.amount",
    )


def test_what_is_shown_is_read_again(shape: Shape[GenerationParams]) -> None:
    chosen = ModifierOptions({"plain": {}, "twice": {"amount": 0.3, "words": "x"}})
    for params in (GenerationParams(), GenerationParams(hires=Hires(steps=3), extensions=chosen)):
        assert shape.read(shape.flat(params.to_json())) == params


def test_a_whole_request_switches_off_what_it_does_not_name_and_a_part_leaves_it_alone(
    shape: Shape[GenerationParams],
) -> None:
    whole = shape.flat(GenerationParams().to_json())
    switches = ("init", "hires", "refiner", "ext.plain", "ext.twice")
    assert {name: whole.get(name) for name in switches} == dict.fromkeys(switches, False)
    assert whole.keys() - switches == options_of(GenerationParams).keys()
    assert shape.flat({"prompt": "a hen"}) == {"prompt": "a hen"}
    assert shape.flat({"extensions": {"twice": {"amount": 1}}}) == {
        "ext.plain": False,
        "ext.twice": True,
        "ext.twice.amount": 1,
    }
