"""Settings on their way into the form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modules.checkpoints.catalogue import Card
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.metadata.image_text import Metadata, encode, read_metadata
from modules.metadata.recipe import File
from modules.params.generation import Hires, Refiner
from modules.params.settings import SettingsFile
from tests.modules.metadata.test_image_text import GREY
from tests.modules.metadata.test_recipe import RECIPE
from webui.components.paste import kept, settings_in_file, settings_of, settings_of_text
from webui.services import Services


def test_a_checkpoint_that_we_have_is_chosen_by_its_name(given: Services) -> None:
    text = "a fox\nSteps: 9, Sampler: Euler, Seed: 3, Model hash: fedcba9876, Model: {}"
    ours = given.checkpoints()[1]
    assert settings_of_text(given, text.format(ours.upper())).changes["checkpoint"] == ours
    lost = settings_of_text(given, text.format("unknown"))
    assert "checkpoint" not in lost.changes
    assert lost.notes == ("there is no checkpoint unknown with the hash fedcba9876 here; it was left as it is",)


LINE = "a fox\nSteps: 9, Sampler: Euler, Seed: 3"


def with_hashes(given: Services, hashes: dict[str, str], vaes: dict[str, str] | None = None) -> Services:
    """Checkpoints and VAEs by name with the SHA-256 that is known of them."""
    return replace(
        given,
        checkpoints=lambda: list(hashes),
        card=lambda name: Card(name, sha256=hashes[name], old_hash=hashes[name][::-1][:8]),
        vaes=lambda: list(vaes or {}),
        vae_sha256=lambda name: (vaes or {})[name],
    )


HASHES = {"model": "a" * 64, "anime/model": "b" * 64, "renamed": "c" * 56 + "12345678", "a/twin": "", "b/twin": ""}


@pytest.mark.parametrize(
    ("said", "chosen", "note"),
    [
        ("Model hash: bbbbbbbbbb, Model: model", "anime/model", ""),
        ("Model hash: cccccccccc, Model: gone", "renamed", ""),
        ("Model hash: 87654321, Model: gone", "renamed", ""),  # as in 2022
        ("Model hash: cccccccccc", "renamed", ""),
        ("Model: anime_model", None, "there is no checkpoint anime_model here"),
        ("Model: twin", None, "the checkpoint twin may be a/twin, b/twin"),
        ("Model hash: dddddddddd, Model: renamed", "renamed", "the checkpoint renamed has the hash cccccccccc"),
        ("Model hash: dddddddddd", None, "there is no checkpoint with the hash dddddddddd here"),
    ],
)
def test_a_text_chooses_the_checkpoint_by_hash_and_name_or_says_what_is_missing(
    given: Services, said: str, chosen: str | None, note: str
) -> None:
    found = settings_of_text(with_hashes(given, HASHES), f"{LINE}, {said}")
    assert found.changes.get("checkpoint") == chosen
    assert (len(found.notes) == 1 and found.notes[0].startswith(note)) if note else found.notes == ()


def test_checkpoints_of_hires_fix_and_of_the_refiner_are_recognised_alike(given: Services) -> None:
    hires = "Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: Lanczos, Hires checkpoint: {}"
    refiner = "Refiner: {}, Refiner switch at: 0.8"
    ours = with_hashes(given, HASHES)
    for said, chosen in (("model [bbbbbbbbbb]", "anime/model"), ("gone [cccccccccc]", "renamed"), ("MODEL", "model")):
        found = settings_of_text(ours, f"{LINE}, {hires.format(said)}, {refiner.format(said)}")
        assert found.changes["hires"]["checkpoint"] == found.changes["refiner"]["checkpoint"] == chosen
        assert found.notes == ()
    lost = settings_of_text(ours, f"{LINE}, {hires.format('gone')}, {refiner.format('gone [dddddddddd]')}")
    assert (lost.changes["hires"]["checkpoint"], lost.changes["refiner"]) == ("", None)
    assert lost.notes == (
        "there is no hires checkpoint gone here; hires fix keeps the first pass's",
        "there is no refiner gone [dddddddddd] here; there is none now",
    )
    same = settings_of_text(ours, f"{LINE}, {hires.format('Use same checkpoint')}")
    assert (same.changes["hires"]["checkpoint"], same.notes) == ("", ())


def test_files_of_a_recipe_are_recognised_by_the_hashes_that_it_records(given: Services) -> None:
    request = RECIPE.request.changed(
        checkpoint="old/name", hires=Hires(checkpoint="model"), refiner=Refiner(checkpoint="old/refiner")
    )
    files = (
        File("checkpoint", "name.safetensors", "b" * 64),
        File("hires checkpoint", "model.safetensors", "c" * 56 + "12345678"),
        File("refiner", "refiner.safetensors", "a" * 64),
        File("vae", "fine.safetensors", "e" * 64),
    )
    recorded = replace(RECIPE, request=request, files=files)
    ours = with_hashes(given, HASHES, {"fine.safetensors": "d" * 64, "other.safetensors": "e" * 64})
    found = settings_of(ours, read_metadata(encode(GREY, "", str(recorded))[0]))
    assert found.notes == ()
    assert (found.changes["checkpoint"], found.changes["vae"]) == ("anime/model", "other.safetensors")
    assert (found.changes["hires"]["checkpoint"], found.changes["refiner"]["checkpoint"]) == ("renamed", "model")


def test_a_vae_is_recognised_by_its_hash_and_told_where_it_is_missing(given: Services) -> None:
    ours = with_hashes(given, HASHES, {"fine.safetensors": "d" * 64, "sub/fine.safetensors": "e" * 64})
    for said, chosen in (
        ("VAE hash: eeeeeeeeee, VAE: fine.safetensors", "sub/fine.safetensors"),
        ("VAE hash: dddddddddd, VAE: gone.pt", "fine.safetensors"),
        ("VAE: Fine.ckpt", "fine.safetensors"),
    ):
        found = settings_of_text(ours, f"{LINE}, {said}")
        assert (found.changes["vae"], found.notes) == (chosen, ())
    lost = settings_of_text(ours, f"{LINE}, VAE hash: ffffffffff, VAE: rough.pt")
    assert lost.notes == ("there is no VAE rough.pt here; it was left as it is",)


def test_the_owner_may_have_the_checkpoint_left_alone(given: Services, tmp_path: Path) -> None:
    settings = SettingsFile(tmp_path / "settings.json")
    ours = replace(with_hashes(given, HASHES), settings=settings)
    found = settings_of_text(ours, f"{LINE}, Model: model")
    assert kept(ours, found) == found
    settings.change({"disable_weights_auto_swap": True})
    left = kept(ours, found)
    assert left.changes == {name: value for name, value in found.changes.items() if name != "checkpoint"}
    assert left.notes == ("the checkpoint of the text, model, was not chosen, as the settings have it",)
    told: Metadata = {"infotext": f"{LINE}, Model: model", "recipe": None, "items": {}, "stealth_infotext": None}
    assert "checkpoint" not in settings_in_file(ours, told)


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


def test_a_lora_is_called_as_it_is_called_here_where_its_hash_is_known(given: Services, tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"sshs_model_hash": "AbCdEf012345" + "0" * 52}, "w": _TENSOR}).encode()
    (tmp_path / "Lora").mkdir()
    (tmp_path / "Lora" / "brush.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    given.host.shelf = NetworkShelf(tmp_path)
    given.host.shelf.read()
    hashes = 'Lora hashes: "ink: AbCdEf012345, wet: 00"'
    found = settings_of_text(given, f"a <lora:ink:0.8> fox <lora:wet:1>\nSteps: 9, Sampler: Euler, Seed: 3, {hashes}")
    assert found.changes["prompt"] == "a <lora:brush:0.8> fox <lora:wet:1>"
    assert not found.notes


def test_loras_of_additional_networks_become_tags_behind_the_prompt(given: Services, tmp_path: Path) -> None:
    """As A1111 reads them: the name without its hash, the weight of the UNet; by the hash, where a file has it here."""
    given.host.shelf = NetworkShelf(tmp_path)
    keys = (
        "AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: ink_v1(58dda328598e), AddNet Weight A 1: 0.8, "
        "AddNet Weight B 1: 0.8, AddNet Module 2: LoRA, AddNet Model 2: wet (ab0c3e40), AddNet Weight A 2: 0.5, "
        "AddNet Weight B 2: 1, AddNet Module 3: ControlNet, AddNet Model 3: edges(0123), AddNet Weight A 3: 1"
    )
    found = settings_of_text(given, f"a fox\nSteps: 9, Sampler: Euler, Seed: 3, {keys}")
    assert found.changes["prompt"] == "a fox\n<lora:ink_v1:0.8><lora:wet:te=1:unet=0.5>"
    assert not found.notes
    header = json.dumps({"__metadata__": {"sshs_model_hash": "58dda328598e" + "0" * 52}, "w": _TENSOR}).encode()
    (tmp_path / "Lora").mkdir()
    (tmp_path / "Lora" / "brush.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    given.host.shelf.read()
    found = settings_of_text(given, f"a fox\nSteps: 9, Sampler: Euler, Seed: 3, {keys}")
    assert str(found.changes["prompt"]).startswith("a fox\n<lora:brush:0.8>")


_TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
