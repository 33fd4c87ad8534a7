"""What a person chose on a checkpoint's card: kept beside the file, heard by card and loader alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modules.builtin import register
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.choices import V_ZERO_SNR, Choices, read_choices, write_choices
from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.presets import Preset
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result
from modules.errors import NotFound, OutputError
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from tests.tiny_vae import write_vae

CPU = Device(torch.device("cpu"), torch.float32)
CHOSEN = Choices(
    V_ZERO_SNR, Preset("Automatic", "Euler", "Karras", 12, 5.5, 96, 64, 2), True, "a brush, ink", "Paints.", "mine"
)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A file that does not say what it predicts."""
    path = write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "x.safetensors")
    config = json.loads(read_header(path).metadata["reprise.config"])
    del config["prediction"]
    save_file(load_file(path), path, metadata={"reprise.config": json.dumps(config)})
    return path


def test_choices_come_back_and_what_others_wrote_stays(tiny: Path) -> None:
    side = tiny.with_suffix(".json")
    side.write_text('{"sd version": "SD1", "future": [1], "reprise": {"prediction": "nonsense"}}')
    assert read_choices(tiny) == Choices()
    write_choices(tiny, CHOSEN)
    assert read_choices(tiny) == CHOSEN
    said = json.loads(side.read_text())
    assert (said["sd version"], said["future"]) == ("SD1", [1])
    assert (said["activation text"], said["description"], said["vae"]) == ("a brush, ink", "Paints.", "Automatic")
    write_choices(tiny, Choices())
    assert read_choices(tiny) == Choices()


def test_a_folder_of_diffusers_has_its_side_file_beside_it(tmp_path: Path) -> None:
    index = tmp_path / "my.model" / "model_index.json"
    index.parent.mkdir()
    index.write_text("{}")
    write_choices(index, CHOSEN)
    assert (tmp_path / "my.model.json").is_file()
    assert index.read_text() == "{}"
    assert read_choices(index) == CHOSEN


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"x\.json cannot be written"):
        write_choices(tmp_path / "none" / "x.safetensors", CHOSEN)


def test_the_cards_choice_wins_over_the_yaml_and_a_loaded_model_hears_of_it(tiny: Path, tmp_path: Path) -> None:
    store, catalogue = ModelStore(tiny.parent, CPU, Hashes()), CheckpointCatalogue(tmp_path, Hashes())
    first = store.load("x")
    assert (first.config.prediction, catalogue.card("x").prediction) == ("eps", "eps")
    assert store.load("x").unet is first.unet
    tiny.with_suffix(".yaml").write_text('model: {params: {parameterization: "v"}}')
    first = store.load("x")
    assert (first.config.prediction, catalogue.card("x").prediction) == ("v", "v")
    catalogue.choose("x", Choices("eps"))
    assert (store.load("x").config.prediction, catalogue.card("x").prediction) == ("eps", "eps")
    catalogue.choose("x", Choices(V_ZERO_SNR))
    config = store.load("x").config
    assert (config.prediction, config.zero_terminal_snr) == ("v", True)
    assert store.load("x").unet is first.unet  # nothing was read again


def test_text_and_recipe_say_what_only_the_card_says(tiny: Path, tmp_path: Path) -> None:
    """Elsewhere the file may lie without its card."""
    host = Host()
    register(host)
    engine = Engine(ModelStore(tiny.parent, CPU, Hashes()), host, version="0.0")
    asked = GenerationParams(prompt="a fox", width=64, height=64, steps=2, seed=7)

    def make(params: GenerationParams) -> Result:
        results: list[Result] = []
        engine.run(params, results.append)
        return results[0]

    plain = make(asked)
    assert "Prediction" not in plain.infotext
    CheckpointCatalogue(tmp_path, Hashes()).choose("x", CHOSEN)
    told = make(asked)
    assert "Prediction: v" in told.infotext and "Noise Schedule: Zero Terminal SNR" in told.infotext
    tiny.with_suffix(".json").unlink()
    assert make(told.recipe.request).recipe.pixels == told.recipe.pixels != plain.recipe.pixels


def test_a_preferred_vae_stands_for_automatic(tiny: Path, tmp_path: Path) -> None:
    from modules.checkpoints.vaes import VaeFolders

    for name in ("fine", "x"):
        write_vae(tmp_path / "VAE" / f"{name}.safetensors")
    vaes, catalogue = VaeFolders(tmp_path / "VAE", tiny.parent), CheckpointCatalogue(tmp_path, Hashes())
    cases = {"": "x.safetensors", "fine.safetensors": "fine.safetensors", "gone": "x.safetensors", "None": None}
    for preferred, expected in cases.items():
        catalogue.choose("x", Choices(preset=Preset(vae=preferred or None)))
        found = vaes.find("Automatic", tiny)
        assert (found.name if found else None) == expected
    own = vaes.find("fine.safetensors", tiny)  # a request that names one is asked for nothing else
    assert own is not None and own.name == "fine.safetensors"


def test_a_card_begins_with_what_was_chosen_and_then_with_what_its_kind_needs(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "x_lightning_2step.safetensors")
    catalogue = CheckpointCatalogue(tmp_path, Hashes())
    card = catalogue.card("x_lightning_2step")
    assert (card.kind, card.preset.steps, card.preset.cfg_scale, card.preset.width) == ("Lightning", 2, 1.0, 64)
    catalogue.choose(card.name, Choices(preset=Preset(steps=6), trigger_words="ink"))
    path.with_name("x_lightning_2step.civitai.info").write_text('{"trainedWords": ["brush"], "description": "words"}')
    card = catalogue.card(card.name)
    assert (card.preset.steps, card.preset.sampler, card.trigger_words) == (6, "Euler", ("ink",))
    assert card.description == "words"
    path.with_name("x_lightning_2step.civitai.info").unlink()
    side = path.with_name("x_lightning_2step.cm-info.json")
    side.write_text('{"InferenceDefaults": {"Steps": 5, "CfgScale": 1.5, "Width": 512, "Sampler": {"Name": "x"}}}')
    preset = catalogue.card(card.name).preset
    assert (preset.steps, preset.cfg_scale, preset.width, preset.height) == (6, 1.5, 512, 64)
    catalogue.illustrate(card.name, Image.new("RGB", (8, 8)))
    assert catalogue.card(card.name).preview == path.with_suffix(".png")


def test_pickles_are_listed_with_the_way_to_convert_them(tmp_path: Path) -> None:
    folder = tmp_path / "Stable-diffusion"
    write_tiny_checkpoint(folder / "good.safetensors")
    torch.save({"state_dict": load_file(folder / "good.safetensors")}, folder / "old.ckpt")
    catalogue = CheckpointCatalogue(tmp_path, Hashes())
    assert catalogue.checkpoints() == ["good", "old.ckpt"]
    card = catalogue.card("old.ckpt")
    assert card.pickled and "pickle" in card.problem
    made = catalogue.convert("old.ckpt")
    assert catalogue.checkpoints() == ["good", "old"]
    assert made.name == "old.safetensors" and not catalogue.card("old").problem
    with pytest.raises(NotFound, match="there is no pickle"):
        catalogue.convert("old.ckpt")
