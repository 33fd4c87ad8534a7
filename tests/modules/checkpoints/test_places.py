"""Where files of models lie: A1111's flags, and installations of other programs."""

from __future__ import annotations

from pathlib import Path

import pytest

import app
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.files import Hashes
from modules.checkpoints.places import ModelFolders, model_folders
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.cli.a1111_flags import translated
from modules.cli.parser import said_places
from modules.errors import NotFound


def made(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)


def test_without_flags_all_lies_below_the_models_folder(tmp_path: Path) -> None:
    m = tmp_path
    assert model_folders(m) == ModelFolders(m, m / "Stable-diffusion", m / "VAE", m / "embeddings")


def test_an_installation_of_a1111_has_its_embeddings_beside_its_models(tmp_path: Path) -> None:
    made(tmp_path / "models" / "Stable-diffusion", tmp_path / "embeddings")
    m = tmp_path / "models"
    found = model_folders(Path("none"), installation=tmp_path)
    assert found == ModelFolders(m, m / "Stable-diffusion", m / "VAE", tmp_path / "embeddings")


def test_an_installation_of_comfyui_calls_its_folders_otherwise(tmp_path: Path) -> None:
    m = tmp_path / "models"
    made(m / "checkpoints")
    found = model_folders(Path("none"), installation=tmp_path)
    assert found == ModelFolders(m, m / "checkpoints", m / "vae", m / "embeddings", (m / "loras",))


def test_a_folder_of_ones_own_stands_in_for_that_of_its_kind(tmp_path: Path) -> None:
    made(tmp_path / "ours")
    found = model_folders(tmp_path, checkpoints=tmp_path / "ours", loras=[tmp_path / "ours"])
    assert (found.checkpoints, found.vaes, found.loras) == (tmp_path / "ours", tmp_path / "VAE", (tmp_path / "ours",))


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        model_folders(tmp_path, vaes=tmp_path / "gone")


def test_a1111s_flags_reach_the_catalogue_and_the_worker(tmp_path: Path) -> None:
    made(tmp_path / "checkpoints", tmp_path / "vaes", tmp_path / "loras")
    for name in ("first", "second"):
        write_tiny_checkpoint(tmp_path / "checkpoints" / f"{name}.safetensors", "sd1")
    said = ["--ckpt-dir", f"{tmp_path}/checkpoints", "--vae-dir", f"{tmp_path}/vaes", "--lora-dir", f"{tmp_path}/loras"]
    said += ["--ckpt", "models/second.safetensors"]
    ours, notes = translated(said)
    assert notes == []
    args = app.build_parser().parse_args(ours)
    models = CheckpointCatalogue(app.model_places(args), Hashes(None), default=app.default_model(args))
    assert models.checkpoints() == ["second", "first"]
    again = app.build_parser().parse_args(["worker", *said_places(args)])
    assert app.model_places(again) == app.model_places(args)
    assert app.default_model(again) == "second"
