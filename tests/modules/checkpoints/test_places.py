"""Where files of models lie: A1111's flags, and installations of other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import app
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.files import Hashes, list_models
from modules.checkpoints.networks.shelf import HYPERNETWORK, NetworkShelf
from modules.checkpoints.places import ModelFolders, model_folders
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.checkpoints.vaes import VaeFolders
from modules.cli.a1111_flags import translated
from modules.cli.parser import said_places
from modules.errors import NotFound, UserError
from modules.restoration.upscale import Networks, file_upscalers


def made(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)


def tensors_in(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": np.zeros((1, 4), np.float32)}, file)


def test_without_flags_all_lies_below_the_models_folder_and_embeddings_beside_it_too(tmp_path: Path) -> None:
    m = tmp_path / "models"
    embeddings = (m / "embeddings", tmp_path / "embeddings")
    assert model_folders(m) == ModelFolders(m, (m / "Stable-diffusion",), (m / "VAE",), embeddings)


def test_an_installation_of_a1111_stands_beside_our_models(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "webui" / "models"
    made(*(theirs / name for name in ("Stable-diffusion", "Lora", "hypernetworks", "ESRGAN", "GFPGAN")))
    made(tmp_path / "webui" / "embeddings")
    found = model_folders(ours, installations=[tmp_path / "webui"])
    assert found.checkpoints == (ours / "Stable-diffusion", theirs / "Stable-diffusion")
    assert found.embeddings == (ours / "embeddings", tmp_path / "embeddings", tmp_path / "webui" / "embeddings")
    assert (found.loras, found.hypernetworks) == ((theirs / "Lora",), (theirs / "hypernetworks",))
    assert (found.upscalers, found.restorers) == ((theirs / "ESRGAN",), (theirs / "GFPGAN",))


def test_comfyui_and_stabilitymatrix_call_their_folders_otherwise(tmp_path: Path) -> None:
    comfy, matrix = tmp_path / "ComfyUI", tmp_path / "Matrix"
    made(*(comfy / "models" / name for name in ("checkpoints", "vae", "loras", "embeddings", "upscale_models")))
    made(*(matrix / "Models" / name for name in ("StableDiffusion", "VAE", "Lora", "LyCORIS", "Hypernetwork")))
    found = model_folders(tmp_path / "ours", installations=[comfy, matrix])
    assert found.checkpoints[1:] == (comfy / "models" / "checkpoints", matrix / "Models" / "StableDiffusion")
    assert found.vaes[1:] == (comfy / "models" / "vae", matrix / "Models" / "VAE")
    assert found.embeddings[2:] == (comfy / "models" / "embeddings",)
    assert found.loras == (comfy / "models" / "loras", matrix / "Models" / "Lora", matrix / "Models" / "LyCORIS")
    assert found.hypernetworks == (matrix / "Models" / "Hypernetwork",)
    assert found.upscalers == (comfy / "models" / "upscale_models",)


PATHS = """
shared:
    base_path: BASE
    checkpoints: sd/checkpoints
    loras: |
        loras
        more/loras
    clip: text
    custom_nodes: nodes
second:
    is_default: true
    checkpoints: first
third:
    vae: [~/vaes, $VAES/other]
empty:
broken: 7
"""


@pytest.mark.parametrize("given", ["ComfyUI", "ComfyUI/extra_model_paths.yaml"])
def test_extra_model_paths_are_read_in_the_order_that_they_ask_for(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy, base = tmp_path / "ComfyUI", tmp_path / "disk"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VAES", str(tmp_path / "vaes"))
    made(comfy / "first", base / "sd" / "checkpoints", base / "loras", base / "more" / "loras")
    made(tmp_path / "home" / "vaes", tmp_path / "vaes" / "other")
    (comfy / "extra_model_paths.yaml").write_text(PATHS.replace("BASE", str(base)))
    found = model_folders(tmp_path / "ours", installations=[tmp_path / given])
    assert found.checkpoints[1:] == (comfy / "first", base / "sd" / "checkpoints")
    assert found.loras == (base / "loras", base / "more" / "loras")
    assert found.vaes[1:] == (tmp_path / "home" / "vaes", tmp_path / "vaes" / "other")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("webui-user.sh", 'export COMMANDLINE_ARGS="--xformers --ckpt-dir \'BASE/my models\' --lora-dir=loras"\n'),
        ("webui-user.bat", '@echo off\r\nset COMMANDLINE_ARGS=--xformers --ckpt-dir "BASE/my models" ^\r\n'
         "--lora-dir=loras\r\n"),
    ],
)  # fmt: skip
def test_the_folders_that_an_a1111_is_started_with_are_known(tmp_path: Path, name: str, line: str) -> None:
    place = tmp_path / "webui"
    made(place / "models" / "Stable-diffusion", place / "loras", tmp_path / "my models")
    (place / name).write_bytes(line.replace("BASE", tmp_path.as_posix()).encode())
    found = model_folders(tmp_path / "ours", installations=[place])
    assert found.checkpoints[1:] == (place / "models" / "Stable-diffusion", tmp_path / "my models")
    assert found.loras == (place / "loras",)


def test_what_is_no_installation_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        model_folders(tmp_path, installations=[tmp_path / "gone"])
    with pytest.raises(UserError, match=r"no folders of models in .*; name the folder of A1111"):
        model_folders(tmp_path, installations=[tmp_path])
    (tmp_path / "x.yaml").write_text("{")
    with pytest.raises(UserError, match="not YAML"):
        model_folders(tmp_path, installations=[tmp_path / "x.yaml"])


def test_a_folder_that_is_not_there_is_told_and_ends_nothing(tmp_path: Path) -> None:
    found = model_folders(tmp_path, vaes=[tmp_path / "gone"])
    (told,) = CheckpointCatalogue(found, Hashes(None)).told_at_start()
    assert told == f"there is no folder {tmp_path}/gone, so nothing is read from there"


def test_files_of_one_name_in_several_folders_are_all_found(tmp_path: Path) -> None:
    roots = [tmp_path / "ours" / "sd", tmp_path / "a" / "sd", tmp_path / "b" / "sd"]
    tensors_in(*(root / "fox.safetensors" for root in roots), roots[2] / "owl.safetensors")
    models = {model.name: model.path for model in list_models(roots)}
    assert models == {
        "fox": roots[0] / "fox.safetensors",
        "sd/fox": roots[1] / "fox.safetensors",
        "b/sd/fox": roots[2] / "fox.safetensors",
        "owl": roots[2] / "owl.safetensors",
    }
    vaes = VaeFolders(roots, ()).list()
    assert set(vaes.values()) == set(models.values())


def test_a_folder_within_another_or_named_twice_is_listed_once(tmp_path: Path) -> None:
    tensors_in(tmp_path / "a" / "sub" / "fox.safetensors")
    assert [m.name for m in list_models([tmp_path / "a", tmp_path / "a" / "sub", tmp_path / "a"])] == ["sub/fox"]


def test_a_single_file_stands_for_itself(tmp_path: Path) -> None:
    tensors_in(tmp_path / "else" / "fox.safetensors", tmp_path / "else" / "owl.safetensors")
    assert [m.name for m in list_models([tmp_path / "sd", tmp_path / "else" / "fox.safetensors"])] == ["fox"]


def test_a1111s_flags_add_folders_and_reach_the_catalogue_and_the_worker(tmp_path: Path) -> None:
    made(tmp_path / "checkpoints", tmp_path / "vaes", tmp_path / "loras", tmp_path / "models" / "Stable-diffusion")
    for name in ("checkpoints/first", "checkpoints/second", "models/Stable-diffusion/ours", "elsewhere"):
        write_tiny_checkpoint(tmp_path / f"{name}.safetensors", "sd1")
    tensors_in(tmp_path / "up" / "net.safetensors", tmp_path / "loras" / "ink.safetensors")
    (tmp_path / "hyper").mkdir()
    (tmp_path / "hyper" / "h.pt").write_bytes(b"")
    said = ["--models-dir", f"{tmp_path}/models", "--ckpt-dir", f"{tmp_path}/checkpoints"]
    said += ["--vae-dir", f"{tmp_path}/vaes", "--lora-dir", f"{tmp_path}/loras"]
    said += ["--esrgan-models-path", f"{tmp_path}/up", "--hypernetwork-dir", f"{tmp_path}/hyper"]
    said += ["--ckpt", f"{tmp_path}/elsewhere.safetensors"]
    ours, notes = translated(said)
    assert notes == []
    args = app.build_parser().parse_args(ours)
    places = app.model_places(args)
    models = CheckpointCatalogue(places, Hashes(None), default=app.default_model(args))
    assert models.checkpoints() == ["elsewhere", "first", "ours", "second"]
    shelf = NetworkShelf(places.root, extra=places.loras, hypernetworks=places.hypernetworks)
    assert [file.stem for file in shelf.listed().files] == ["ink"]
    assert [file.stem for file in shelf.listed(HYPERNETWORK).files] == ["h"]
    found = file_upscalers(places.root, Networks(lambda: pytest.fail("no device is needed")), places.upscalers)
    assert [upscaler.name for upscaler in found] == ["net"]
    again = app.build_parser().parse_args(["worker", "--models-dir", f"{tmp_path}/models", *said_places(args)])
    assert app.model_places(again) == places
    assert app.default_model(again) == "elsewhere"
    assert models.card("elsewhere").problem == ""
    for name in ("checkpoints/second", "models/Stable-diffusion/ours"):  # what is listed anyway is there once
        again = app.build_parser().parse_args([*ours, "--ckpt", str(tmp_path / f"{name}.safetensors")])
        listed = CheckpointCatalogue(app.model_places(again), Hashes(None)).checkpoints()
        assert sorted(listed) == ["first", "ours", "second"]
        assert app.default_model(again) == Path(name).name
