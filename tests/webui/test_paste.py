"""Settings on their way into the form."""

from __future__ import annotations

from modules.metadata import Metadata, encode, read_metadata
from tests.modules.test_metadata import GREY
from tests.modules.test_recipe import RECIPE
from webui.paste import settings_in_file, settings_of, settings_of_text
from webui.services import Services


def test_a_checkpoint_that_we_have_is_chosen_by_its_name(given: Services) -> None:
    text = "a fox\nSteps: 9, Sampler: Euler, Seed: 3, Model hash: 0123456789, Model: {}"
    ours = given.checkpoints()[1]
    assert settings_of_text(given, text.format(ours.upper())).changes["checkpoint"] == ours
    assert "checkpoint" not in settings_of_text(given, text.format("unknown")).changes


def test_a_recipe_goes_before_the_text(given: Services) -> None:
    found = read_metadata(encode(GREY, "other words\nSteps: 9, Sampler: Euler, Seed: 3", str(RECIPE))[0])
    assert settings_of(given, found).changes["prompt"] == RECIPE.request.prompt


def test_a_picture_without_texts_tells_no_settings(given: Services) -> None:
    plain: Metadata = {"infotext": None, "recipe": None, "items": {}, "stealth_infotext": None}
    assert settings_in_file(given, plain) == {}
    told = settings_in_file(given, {**plain, "infotext": "a fox\nSteps: 9, Sampler: Euler, Seed: 3"})
    assert (told["prompt"], told["steps"], told["seed"]) == ("a fox", 9, 3)


def test_a_vae_that_we_have_is_chosen_also_where_it_was_a_pickle_then(given: Services) -> None:
    text = "a fox\nSteps: 9, Sampler: Euler, Seed: 3, VAE hash: 0123456789, VAE: {}"
    for name in ("fine.safetensors", "Fine.pt"):
        found = settings_of_text(given, text.format(name))
        assert (found.changes["vae"], found.notes) == ("fine.safetensors", ())
    lost = settings_of_text(given, text.format("rough.pt"))
    assert "vae" not in lost.changes
    assert lost.notes == ("there is no VAE rough.pt here; it was left as it is",)
    assert settings_of_text(given, text[: text.index(", VAE")]).changes["vae"] == "Automatic"


def test_embeddings_of_a_text_that_are_not_here_are_said(given: Services) -> None:
    text = 'a fox\nSteps: 9, Sampler: Euler, Seed: 3, TI hashes: "My Style: 0123456789ab, tall: 0123456789ab"'
    assert settings_of_text(given, text).notes == ("there is no embedding tall for this model here",)
