"""Folders as people leave them: links to nothing and to themselves, pipes, names that are no text."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from extensions.dynamic_prompts.template import Wildcards
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.embeddings import EmbeddingFolder
from modules.checkpoints.files import Hashes, find_model, list_models, read_header
from modules.checkpoints.folders import files_below, unlistable
from modules.checkpoints.networks.shelf import LORA, NetworkShelf
from modules.checkpoints.text_encoders import TextEncoders
from modules.checkpoints.vaes import VaeFolders
from modules.errors import CheckpointError, RepriseError, UnknownName, UserError, printable
from modules.restoration.faces import DETECTOR
from modules.restoration.upscale import Networks, file_upscalers
from webui.html.cards import card_html

ODD = os.fsdecode(b"caf\xe9")
"""A name in Latin-1, as an old archive leaves it."""


def safetensors(path: Path, metadata: Any = None) -> Path:
    """One tensor of four bytes, and metadata as they are given."""
    head = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": metadata or {}}
    raw = json.dumps(head).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    return path


def littered(folder: Path, suffix: str) -> Path:
    """A folder with one good file and everything else that may lie around."""
    good = safetensors(folder / "sub" / f"good{suffix}")
    (folder / f"aaa{suffix}").symlink_to(folder / "gone")
    (folder / f"itself{suffix}").symlink_to(folder / f"itself{suffix}")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "aaa").symlink_to(folder / "sub")
    os.mkfifo(folder / f"pipe{suffix}")
    (folder / f"folder{suffix}").mkdir()
    safetensors(folder / f"{ODD}{suffix}")
    safetensors(folder / ODD / f"within{suffix}")
    return good


def test_only_regular_files_are_found_each_under_one_real_name(tmp_path: Path) -> None:
    good = littered(tmp_path, ".safetensors")
    assert list(files_below(tmp_path, (".safetensors",))) == [good]
    assert unlistable(tmp_path, (".safetensors",)) == [r"caf\udce9.safetensors", r"caf\udce9/within.safetensors"]
    assert list(files_below(good, (".safetensors",))) == [good]  # a file stands for itself


def test_a_file_behind_a_link_is_found(tmp_path: Path) -> None:
    far = safetensors(tmp_path / "far" / "model.safetensors")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "disk").symlink_to(far.parent)
    (tmp_path / "models" / "latest.safetensors").symlink_to(far)
    assert [model.name for model in list_models(tmp_path / "models")] == ["disk/model", "latest"]


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = safetensors(tmp_path / "good.safetensors")
    safetensors(tmp_path / "closed" / "x.safetensors")
    scandir = os.scandir

    def guarded(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert list(files_below(tmp_path, (".safetensors",))) == [good]


def test_everything_that_lists_files_uses_the_one_walk(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name, suffix in (
        ("Stable-diffusion", ".safetensors"),
        ("VAE", ".safetensors"),
        ("embeddings", ".safetensors"),
        ("ESRGAN", ".pth"),
    ):
        littered(models / name, suffix)
    littered(tmp_path / "wildcards", ".txt")
    detector = safetensors(models / "GFPGAN" / DETECTOR.name)
    (models / "facelib").symlink_to(models / "facelib")
    assert [model.name for model in list_models(models / "Stable-diffusion")] == ["sub/good"]
    assert list(VaeFolders(models / "VAE", models / "Stable-diffusion").list()) == ["good.safetensors"]
    listed = EmbeddingFolder(models / "embeddings").list()
    assert [file.path.name for file in listed.files] + [file.path.name for file in listed.broken] == [
        "good.safetensors"
    ]
    assert [spec.name for spec in file_upscalers(models, Networks.__new__(Networks))] == ["good"]
    assert DETECTOR.find(models) == detector
    with pytest.raises(UserError, match=r"there are sub/good$"):
        Wildcards(tmp_path / "wildcards").lines("absent")


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match=r"pipe\.safetensors cannot be read: it is no regular file"):
        read_header(tmp_path / "pipe.safetensors")


def test_a_name_that_is_no_text_is_told_where_somebody_looks_for_it(tmp_path: Path) -> None:
    safetensors(tmp_path / "Stable-diffusion" / "good.safetensors")
    safetensors(tmp_path / "Stable-diffusion" / f"{ODD}.safetensors")
    with pytest.raises(UnknownName, match="is left out because its name is not UTF-8: rename it") as error:
        find_model(tmp_path / "Stable-diffusion", "cafe")
    str(error.value).encode()
    (said,) = CheckpointCatalogue(tmp_path, Hashes()).told_at_start()
    assert said == r"caf\udce9.safetensors in Stable-diffusion is left out because its name is not UTF-8: rename it"


def test_a_link_to_nothing_is_told_where_somebody_looks_for_it(tmp_path: Path) -> None:
    for kind in ("Stable-diffusion", "VAE", "text_encoder", "Lora"):
        safetensors(tmp_path / kind / "good.safetensors")
        (tmp_path / kind / "sub").mkdir()
        (tmp_path / kind / "sub" / "gone.safetensors").symlink_to(tmp_path / "elsewhere")
        (tmp_path / kind / "disk").symlink_to(tmp_path / "unplugged")
    checkpoints, vaes = tmp_path / "Stable-diffusion", VaeFolders(tmp_path / "VAE", tmp_path / "Stable-diffusion")
    texts, shelf = TextEncoders([tmp_path / "text_encoder"]), NetworkShelf(tmp_path)
    for name, link in (
        ("gone", "sub/gone.safetensors"),
        ("sub/gone [0123456789]", "sub/gone.safetensors"),
        ("Disk/x", "disk"),
    ):
        said = f"^{re.escape(link)} is a link that leads to nothing"
        with pytest.raises(CheckpointError, match=said):
            find_model(checkpoints, name)
        with pytest.raises(CheckpointError, match=said):
            vaes.find(name, checkpoints / "good.safetensors")
        with pytest.raises(CheckpointError, match=said):
            texts.named(name)
        assert re.match(said, shelf.dead_link(LORA, name))
    with pytest.raises(UnknownName):
        find_model(checkpoints, "absent")
    assert not shelf.dead_link(LORA, "absent")
    told = CheckpointCatalogue(tmp_path, Hashes()).told_at_start()
    assert "sub/gone.safetensors in VAE is a link that leads to nothing: bring back what it led to" in told
    assert "disk in Stable-diffusion is a link that leads to nothing: bring back what it led to" in told


def test_a_folder_of_nothing_but_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "only.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .*; only\.safetensors is a link that leads to nothing"
    ):
        find_model(tmp_path, "")


def test_what_files_say_of_themselves_can_always_be_sent_to_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "Stable-diffusion"
    safetensors(folder / "a.safetensors", {"modelspec.title": "\ud800", "\udfff": "x"})
    safetensors(folder / "deep.safetensors", {"reprise.config": "[" * 100_000})
    safetensors(tmp_path / "embeddings" / "e.safetensors", {"name": "\ud800"})
    (folder / "empty.safetensors").touch()
    models = CheckpointCatalogue(tmp_path, Hashes())
    for name in ("", *models.checkpoints(), ODD, "\ud800"):
        card_html(models.card(name)).encode()
        repr(models.embeddings(name)).encode()
        assert models.native_size(name) == 512


def test_sentences_for_people_hold_no_lone_surrogates() -> None:
    error = RepriseError("no file \udce9", hint="look for \ud800")
    assert error.as_json()["detail"] == r"no file \udce9; look for \ud800"
    assert printable("a 🦊 é") == "a 🦊 é"


def test_a_file_that_goes_away_between_two_looks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = safetensors(tmp_path / "Stable-diffusion" / "a.safetensors")
    models = CheckpointCatalogue(tmp_path, Hashes())
    found = find_model(path.parent, "a")
    path.unlink()
    monkeypatch.setattr("modules.checkpoints.catalogue.find_model", lambda *_: found)
    assert "a.safetensors cannot be read" in models.card("a").problem
    assert (models.native_size("a"), models.embeddings("a").files) == (512, ())
