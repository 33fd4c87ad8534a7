"""What a request takes from the disk beside its checkpoint: embeddings and VAEs in pictures, texts, recipes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.builtin import register
from modules.checkpoints.embeddings import EmbeddingFolder
from modules.checkpoints.families.sd1 import TEXT
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.checkpoints.vaes import VaeFolders
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.extension.host import Host
from modules.metadata import infotext
from modules.metadata.image_text import encode
from modules.params.generation import GenerationParams, Hires
from modules.prompt.tokens import default_tokenizer
from modules.replay import replay
from tests.tiny_vae import write_vae

PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=2, seed=7, sampler="Euler")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "Stable-diffusion" / "tiny.safetensors")
    (folder / "embeddings" / "more").mkdir(parents=True)
    random = torch.Generator().manual_seed(3)
    for name, count, width in (("my:style", 2, 4), ("more/bad, really", 1, 4), ("tall", 1, 768)):
        vectors = 3 * torch.randn(count, width, generator=random)
        save_file({"emb_params": vectors}, folder / "embeddings" / f"{name}.safetensors")
    return folder


@pytest.fixture
def engine(models: Path) -> Engine:
    host = Host()
    register(host)
    device = Device(torch.device("cpu"), torch.float32)
    vaes = VaeFolders(models / "VAE", models / "Stable-diffusion")
    store = ModelStore(models / "Stable-diffusion", device, Hashes(), default="tiny", vaes=vaes)
    return Engine(store, host, version="0.0", embeddings=EmbeddingFolder(models / "embeddings"))


@pytest.fixture
def vae(models: Path) -> Iterator[Path]:
    path = write_vae(models / "VAE" / "fine.safetensors")
    yield path
    path.unlink(missing_ok=True)


def make(engine: Engine, **changes: Any) -> tuple[Result, list[str]]:
    results: list[Result] = []
    notes: list[str] = []
    engine.run(PARAMS.changed(**changes), results.append, RunCallbacks(on_note=notes.append))
    (result,) = results
    return result, notes


def saved(path: Path, result: Result) -> Path:
    path.write_bytes(encode(result.image, result.infotext, str(result.recipe))[0])
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_embedding_changes_the_picture_and_is_told_in_text_and_recipe(engine: Engine, models: Path) -> None:
    plain, _ = make(engine)
    used, notes = make(engine, prompt="a red fox, My:Style", negative_prompt="bad, really")
    assert plain.recipe.pixels != used.recipe.pixels
    assert notes == []
    mine = sha256(models / "embeddings" / "my:style.safetensors")
    bad = sha256(models / "embeddings" / "more" / "bad, really.safetensors")
    assert infotext.read(used.infotext)["TI hashes"] == f"mystyle: {mine[:12]}, bad really: {bad[:12]}"
    assert [(file.name, file.sha256) for file in used.recipe.files if file.role == "embedding"] == [
        ("my:style.safetensors", mine),
        ("bad, really.safetensors", bad),
    ]
    assert "TI hashes" not in plain.infotext


def test_an_embedding_of_a_words_own_vectors_gives_the_words_picture(engine: Engine, models: Path) -> None:
    (word,) = default_tokenizer().ids("fox")
    weights = load_file(models / "Stable-diffusion" / "tiny.safetensors")
    vector = weights[f"{TEXT}embeddings.token_embedding.weight"][word]
    path = models / "embeddings" / "zzfox.pt"
    torch.save({"string_to_param": {"*": vector[None].float()}}, path)
    try:
        used, _ = make(engine, prompt="a red (zzfox:1.2)")
    finally:
        path.unlink()
    word_itself, _ = make(engine, prompt="a red (fox:1.2)")
    assert used.image.tobytes() == word_itself.image.tobytes()
    assert "TI hashes: zzfox" in used.infotext or 'TI hashes: "zzfox' in used.infotext


def test_an_embedding_that_only_the_second_pass_or_an_edit_names_is_recorded(engine: Engine) -> None:
    hires = Hires(scale=1.5, steps=1, prompt="bad, really")
    result, _ = make(engine, prompt="[fox:my:style:0.5]", hires=hires)
    assert {file.name for file in result.recipe.files if file.role == "embedding"} == {
        "my:style.safetensors",
        "bad, really.safetensors",
    }


def test_an_embedding_of_another_width_is_left_out_and_said_so(engine: Engine) -> None:
    result, notes = make(engine, prompt="a tall red fox")
    assert notes == ["the embedding tall was left out: it is for models of width 768, and this one has 4"]
    assert "TI hashes" not in result.infotext
    assert [file.role for file in result.recipe.files] == ["checkpoint"]


def test_a_picture_with_embeddings_is_replayed_whatever_became_of_the_folder(
    engine: Engine, models: Path, tmp_path: Path
) -> None:
    result, _ = make(engine, prompt="a red fox, my:style")
    path = saved(tmp_path / "a.png", result)
    assert replay(engine, path).verdict.kind == "identical"
    folder = models / "embeddings"
    renamed = (folder / "my:style.safetensors").rename(folder / "red.safetensors")
    try:
        assert replay(engine, path).verdict.kind == "identical"  # by content, and "red" is still a word
        lost = renamed.rename(tmp_path / "elsewhere.safetensors")
        verdict = replay(engine, path).verdict
        assert str(verdict).startswith("cannot, because embedding my:style.safetensors (sha256 ")
        assert str(verdict).endswith("is missing")
        renamed = lost
    finally:
        renamed.rename(folder / "my:style.safetensors")


def test_a_vae_changes_the_picture_and_is_told_in_text_and_recipe(engine: Engine, vae: Path) -> None:
    plain, _ = make(engine)
    used, _ = make(engine, vae="fine")
    assert plain.recipe.pixels != used.recipe.pixels
    told = infotext.read(used.infotext)
    assert (told["VAE"], told["VAE hash"]) == ("fine.safetensors", sha256(vae)[:10])
    assert "VAE" not in infotext.read(plain.infotext)
    assert ("vae", "fine.safetensors", sha256(vae)) in [(f.role, f.name, f.sha256) for f in used.recipe.files]
    again, _ = make(engine)
    assert again.image.tobytes() == plain.image.tobytes()


def test_the_vae_holds_for_the_second_pass_too(engine: Engine, models: Path, vae: Path) -> None:
    other = write_tiny_checkpoint(models / "Stable-diffusion" / "second.safetensors", seed=4)
    try:
        found = [make(engine, vae=name, hires=Hires(steps=1, checkpoint="second"))[0] for name in ("fine", "None")]
        assert found[0].recipe.pixels != found[1].recipe.pixels
    finally:
        other.unlink()


def test_a_vae_is_replayed_by_its_content(engine: Engine, models: Path, vae: Path, tmp_path: Path) -> None:
    plain, used = (saved(tmp_path / f"{name}.png", make(engine, vae=name)[0]) for name in ("Automatic", "fine"))
    renamed = vae.rename(models / "Stable-diffusion" / "tiny.vae.safetensors")
    assert replay(engine, used).verdict.kind == "identical"
    assert replay(engine, plain).verdict.kind == "identical"  # "Automatic" was the checkpoint's own when it was made
    automatic, _ = make(engine)
    assert infotext.read(automatic.infotext)["VAE"] == "tiny.vae.safetensors"
    renamed.unlink()
    assert str(replay(engine, used).verdict).startswith("cannot, because vae fine.safetensors (sha256 ")


def test_a_vae_that_its_name_alone_speaks_for_is_noted(engine: Engine, vae: Path) -> None:
    renamed = vae.rename(vae.with_name("tinyfine.safetensors"))
    try:
        result, notes = make(engine)
        assert infotext.read(result.infotext)["VAE"] == "tinyfine.safetensors"
        assert [note.partition(" as VAE, ")[0] for note in notes] == ["tinyfine.safetensors was used"]
        assert make(engine, vae="None")[1] == []
    finally:
        renamed.rename(vae)


def test_a_pickle_that_would_be_the_vae_is_told_of(engine: Engine, models: Path) -> None:
    pickle = models / "Stable-diffusion" / "tiny.vae.pt"
    pickle.touch()
    try:
        _, notes = make(engine)
    finally:
        pickle.unlink()
    assert len(notes) == 1
    assert notes[0].startswith("tiny.vae.pt was not used: it is a pickle, and python3 app.py convert tiny.vae.pt makes")
