"""Settings on their way into the form."""

from __future__ import annotations

import pytest

from modules.metadata import encode, read_metadata
from tests.modules.test_metadata import GREY
from tests.modules.test_recipe import RECIPE
from webui.paste import opened, parcel, settings_of, settings_of_text
from webui.services import Services


def test_a_parcel_holds_its_values_and_never_looks_like_the_last() -> None:
    one, two = parcel({"prompt": "猫", "eta": None}), parcel({"prompt": "猫", "eta": None})
    assert one != two
    assert opened(one) == opened(two) == {"prompt": "猫", "eta": None}


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"values": 3}', "[" * 100_000])
def test_what_is_no_parcel_is_empty(text: str) -> None:
    assert opened(text) == {}


def test_a_checkpoint_that_we_have_is_chosen_by_its_name(given: Services) -> None:
    text = "a fox\nSteps: 9, Sampler: Euler, Seed: 3, Model hash: 0123456789, Model: {}"
    ours = given.checkpoints()[1]
    assert settings_of_text(given, text.format(ours.upper())).changes["checkpoint"] == ours
    assert "checkpoint" not in settings_of_text(given, text.format("unknown")).changes


def test_a_recipe_goes_before_the_text(given: Services) -> None:
    found = read_metadata(encode(GREY, "other words\nSteps: 9, Sampler: Euler, Seed: 3", str(RECIPE))[0])
    assert settings_of(given, found).changes["prompt"] == RECIPE.request.prompt
