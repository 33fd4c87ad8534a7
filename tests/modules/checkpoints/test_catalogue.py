"""What the server tells of the models folder without loading anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.detect import family_label, text_width
from modules.checkpoints.files import Hashes
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.errors import UserError
from modules.params.generation import GenerationParams, Hires, Refiner
from tests.tiny_vae import write_vae

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "checkpoint_keys.json").read_text())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "sub" / "tiny.safetensors")
    write_vae(tmp_path / "VAE" / "fine.safetensors")
    (tmp_path / "embeddings").mkdir()
    for name, width in (("mine", 4), ("tall", 768)):
        save_file({"x": torch.ones(2, width)}, tmp_path / "embeddings" / f"{name}.safetensors")
    return tmp_path


def test_names_are_told_and_embeddings_are_parted_by_the_checkpoints_width(models: Path) -> None:
    told = CheckpointCatalogue(models, Hashes(), default="tiny")
    assert (told.checkpoints(), told.vaes()) == (["sub/tiny"], ["fine.safetensors"])
    for checkpoint in ("", "tiny", "sub/tiny"):
        found = told.embeddings(checkpoint)
        assert [(file.name, file.count) for file in found.files] == [("mine", 2)]
        assert list(found.skipped) == ["tall"]
    assert told.embeddings("no such model").files == ()
    assert (told.native_size(""), told.native_size("no such model")) == (64, 512)


def test_a_card_tells_what_the_file_says_of_itself_and_its_hash_once_it_is_known(models: Path, tmp_path: Path) -> None:
    path = models / "Stable-diffusion" / "sub" / "tiny.safetensors"
    stated = {"native_size": 64, "prediction": "v", "vae": {"norm_groups": 2}}
    metadata = {
        "zeta": "last",
        "modelspec.author": "<b>somebody</b>",
        "modelspec.thumbnail": "data:image/png;base64,AAAA",
        "modelspec.title": "Mine",
        "reprise.config": json.dumps(stated),
        "long": "x" * 5000,
    }
    save_file(load_file(path), path, metadata=metadata)
    told = CheckpointCatalogue(models, Hashes(tmp_path / "hashes.json"))
    card = told.card("tiny")
    assert (card.name, card.file_name, card.family) == ("sub/tiny", "tiny.safetensors", "Stable Diffusion 1.x")
    assert (card.prediction, card.native_size, card.nbytes) == ("v", 64, path.stat().st_size)
    assert list(card.metadata)[:2] == ["modelspec.title", "modelspec.author"]
    assert set(card.metadata) == {"modelspec.title", "modelspec.author", "zeta", "long"}
    assert len(card.metadata["long"]) == 600
    assert card.sha256 == ""
    sha256 = Hashes(tmp_path / "hashes.json").sha256(path)  # as the worker does, in another process
    assert told.card("tiny").sha256 == sha256


def test_a_card_of_a_file_that_cannot_be_read_says_why(models: Path) -> None:
    told = CheckpointCatalogue(models, Hashes())
    assert "no checkpoint named 'other'" in told.card("other").problem
    (models / "Stable-diffusion" / "sub" / "tiny.safetensors").write_bytes(b"short")
    assert "tiny.safetensors is not a usable safetensors file" in told.card("tiny").problem
    assert told.embeddings("tiny").files == ()


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"checkpoint": "sub/tinny"}, "checkpoint", "no checkpoint named 'sub/tinny'; did you mean 'sub/tiny'?"),
        ({"checkpoint": "words"}, "checkpoint", "words is not a diffusion model"),
        ({"checkpoint": "short"}, "checkpoint", "short.safetensors is not a usable safetensors file"),
        ({"vae": "fin.safetensors"}, "vae", "no VAE named 'fin.safetensors'; did you mean 'fine.safetensors'?"),
        (
            {"checkpoint": "bare"},
            "vae",
            "bare has no autoencoder of its own; choose a VAE: there is 'fine.safetensors'",
        ),
        ({"sd_vae_decode_method": "TAESD"}, "sd_vae_decode_method", "tiny autoencoder"),
        ({"hires": Hires(checkpoint="x")}, "hires.checkpoint", "no checkpoint named 'x'"),
        ({"refiner": Refiner("x")}, "refiner.checkpoint", "no checkpoint named 'x'"),
    ],
)
def test_what_a_worker_would_refuse_to_load_is_known_before(
    models: Path, changes: dict[str, Any], field: str, said: str
) -> None:
    folder = models / "Stable-diffusion"
    save_file({"words": torch.ones(1)}, folder / "words.safetensors")
    (folder / "short.safetensors").write_bytes(b"short")
    whole = load_file(folder / "sub" / "tiny.safetensors")
    with safe_open(folder / "sub" / "tiny.safetensors", "pt") as file:
        metadata = file.metadata()
    bare = {name: tensor for name, tensor in whole.items() if not name.startswith("first_stage_model.")}
    save_file(bare, folder / "bare.safetensors", metadata=metadata)
    told = CheckpointCatalogue(models, Hashes(), default="sub/tiny")
    with pytest.raises(UserError) as refused:
        told.check(GenerationParams(**changes))
    assert said in str(refused.value) and refused.value.field == field
    told.check(
        GenerationParams(checkpoint="TINY.ckpt [0123456789]", vae="fine", hires=Hires(), refiner=Refiner("tiny"))
    )
    told.check(GenerationParams(checkpoint="bare", vae="fine"))


@pytest.mark.parametrize(
    ("layout", "name", "width"),
    [
        ("sd15", "Stable Diffusion 1.x", 768),
        ("sd21", "Stable Diffusion 2", 1024),
        ("sdxl_base", "SDXL", 2048),
        ("sdxl_refiner", "SDXL refiner", 1280),
    ],
)
def test_families_are_told_by_the_reference_layouts(layout: str, name: str, width: int) -> None:
    shapes = {key: tuple(shape) for key, shape in GOLDEN[layout].items()}
    assert (family_label(shapes), text_width(shapes)) == (name, width)
    inpainting = shapes | {"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}
    assert family_label(inpainting) == f"{name}, inpainting"
    assert family_label({"lora_unet_x": (1,)}) == "not a diffusion model"
