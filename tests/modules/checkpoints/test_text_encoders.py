"""Text encoders in files of their own, under whatever names programs give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.builtin import register
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.detect import family_of
from modules.checkpoints.families.sdxl import BIG_G, CLIP_L
from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.model import LatentDiffusion, load
from modules.checkpoints.store import ModelStore
from modules.checkpoints.text_encoders import TextEncoders
from modules.checkpoints.tiny import FAMILIES, write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import CheckpointError, UnknownName
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from tests.modules.checkpoints.test_convert import Evil

CPU = Device(torch.device("cpu"), torch.float32)
State = dict[str, Tensor]
TEXTS = ("cond_stage_model.", "conditioner.")


def as_transformers(state: State) -> State:
    """open_clip's names as transformers', written down here independently of the program's own table."""
    ends = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    found: State = {}
    for key, tensor in state.items():
        module, _, kind = key.rpartition(".")
        if key.startswith("transformer.resblocks."):
            number, _, rest = module.removeprefix("transformer.resblocks.").partition(".")
            layer = f"text_model.encoder.layers.{number}."
            if "in_proj" in kind:
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"{layer}self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}"] = third.contiguous()
            else:
                found[f"{layer}{ends.get(rest, 'self_attn.out_proj')}.{kind}"] = tensor
        elif key == "text_projection":
            found["text_projection.weight"] = tensor.T.contiguous()
        else:
            place = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"}.get(module)
            found[f"text_model.{place}.{kind}" if place else "text_model.embeddings.position_embedding.weight"] = tensor
    return found


def below(state: State, prefix: str, named: str = "") -> State:
    return {named + key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """An SDXL model in parts: its UNet with the autoencoder, and the text encoders as ComfyUI's users have them."""
    whole = tmp_path / "whole.safetensors"
    state = load_file(write_tiny_checkpoint(whole, "sdxl"))
    metadata = dict(read_header(whole).metadata)
    bare = {key: tensor for key, tensor in state.items() if not key.startswith(TEXTS)}
    (tmp_path / "Stable-diffusion").mkdir()
    (tmp_path / "text_encoder").mkdir()
    save_file(bare, tmp_path / "Stable-diffusion" / "bare.safetensors", metadata=metadata)
    first = below(state, CLIP_L, "text_model.") | {"logit_scale": torch.ones(())}
    # A pooled text of another width tells bigG from CLIP-L in full size; the tiny ones have one width and two layouts.
    save_file(first, tmp_path / "text_encoder" / "clip_l.safetensors")
    second = below(state, BIG_G)
    save_file(second, tmp_path / "text_encoder" / "clip_g.safetensors")
    return tmp_path


def same_texts(one: LatentDiffusion, other: LatentDiffusion) -> bool:
    states = one.text.state_dict(), other.text.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def test_encoders_of_other_files_take_their_places(parted: Path) -> None:
    store = ModelStore(
        parted / "Stable-diffusion", CPU, Hashes(), text_encoders=TextEncoders([parted / "text_encoder"])
    )
    found, whole = store.load("bare"), load(parted / "whole.safetensors", CPU)
    assert [path.name for path in found.text_files] == ["clip_l.safetensors", "clip_g.safetensors"]
    assert same_texts(found, whole)
    assert store.load("bare").unet is found.unet


NAMES: dict[str, Callable[[State], State]] = {
    "transformers": lambda state: state,
    "ComfyUI's file": lambda state: {f"clip_g.transformer.{key}": tensor for key, tensor in state.items()},
    "ComfyUI's checkpoint": lambda state: {f"text_encoders.clip_g.transformer.{k}": v for k, v in state.items()},
}


@pytest.mark.parametrize("names", NAMES)
def test_big_g_is_read_in_transformers_layout_too(names: str, tmp_path: Path) -> None:
    whole = write_tiny_checkpoint(tmp_path / "whole.safetensors", "sdxl-refiner")
    state = load_file(whole)
    bare = {key: tensor for key, tensor in state.items() if not key.startswith(TEXTS)}
    other = NAMES[names](as_transformers(below(state, "conditioner.embedders.0.model.")))
    within = names == "ComfyUI's checkpoint"
    folder, texts = tmp_path / "models", tmp_path / "texts"
    folder.mkdir()
    texts.mkdir()
    metadata = dict(read_header(whole).metadata)
    save_file(bare | (other if within else {}), folder / "bare.safetensors", metadata=metadata)
    if not within:
        save_file(other, texts / "big.safetensors")
    found = ModelStore(folder, CPU, Hashes(), text_encoders=TextEncoders([texts])).load("bare")
    assert [path.name for path in found.text_files] == ([] if within else ["big.safetensors"])
    assert same_texts(found, load(whole, CPU))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_unet_alone_tells_its_family(family: str, tmp_path: Path) -> None:
    state = load_file(write_tiny_checkpoint(tmp_path / "x.safetensors", family))
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.startswith(TEXTS)}
    found = family_of(shapes)
    assert found is not None and found.name == family


def test_full_size_unets_alone_tell_their_family() -> None:
    """By their widths: texts of 768, 1024, 2048 and 1280, vectors of 2816 and 2560."""
    unet, expected = "model.diffusion_model.", {"sd1": (768, 0), "sd2": (1024, 0), "sdxl": (2048, 2816)}
    for name, (context, vector) in (expected | {"sdxl-refiner": (1280, 2560)}).items():
        shapes: dict[str, tuple[int, ...]] = {f"{unet}input_blocks.0.0.weight": (320, 4, 3, 3)}
        shapes[f"{unet}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"] = (640, context)
        shapes[f"{unet}input_blocks.4.1.proj_in.weight"] = (640, 640, 1, 1) if name == "sd1" else (640, 640)
        if vector:
            shapes[f"{unet}label_emb.0.0.weight"] = (1280, vector)
        found = family_of(shapes)
        assert found is not None and found.name == name


def test_a_run_says_whose_encoder_was_used_and_the_recipe_keeps_it(parted: Path) -> None:
    host, notes = Host(), list[str]()
    register(host)
    texts = TextEncoders([parted / "text_encoder"])
    engine = Engine(ModelStore(parted / "Stable-diffusion", CPU, Hashes(), text_encoders=texts), host, version="0.0")
    results: list[Result] = []
    params = GenerationParams(width=64, height=64, steps=2, seed=7)
    engine.run(params, results.append, RunCallbacks(on_note=notes.append))
    assert "bare has no text encoder of its own, so clip_l.safetensors and clip_g.safetensors were used" in notes
    assert [file.name for file in results[0].recipe.files if file.role == "text encoder"] == [
        "clip_l.safetensors",
        "clip_g.safetensors",
    ]
    assert all(map(engine.inventory.has, results[0].recipe.files))


def test_one_that_was_chosen_and_does_not_fit_is_told(parted: Path) -> None:
    save_file(
        {"text_model.embeddings.token_embedding.weight": torch.zeros(8, 5)}, parted / "text_encoder" / "t5.safetensors"
    )
    host, notes = Host(), list[str]()
    register(host)
    texts = TextEncoders([parted / "text_encoder"])
    engine = Engine(ModelStore(parted / "Stable-diffusion", CPU, Hashes(), text_encoders=texts), host, version="0.0")
    params = GenerationParams(width=64, height=64, steps=1, text_encoder="t5")
    engine.run(params, lambda result: None, RunCallbacks(on_note=notes.append))
    assert "t5.safetensors was chosen, but is no text encoder for bare" in notes


def test_what_is_missing_says_what_to_put_where(parted: Path) -> None:
    (parted / "text_encoder" / "clip_l.safetensors").unlink()
    texts = TextEncoders([parted / "text_encoder"])
    store = ModelStore(parted / "Stable-diffusion", CPU, Hashes(), text_encoders=texts)
    with pytest.raises(CheckpointError, match="bare has no text encoder of its own, and none of width 4 is here; put"):
        store.load("bare")
    with pytest.raises(UnknownName, match=r"no text encoder named 'x'; there is 'clip_g\.safetensors'"):
        store.load("bare", text_encoder="x")
    card = CheckpointCatalogue(parted, Hashes()).card("bare")
    assert (card.family, card.own_text) == ("SDXL", False)


def test_one_that_is_named_wins_over_the_first(parted: Path) -> None:
    other = load_file(parted / "text_encoder" / "clip_l.safetensors")
    other["text_model.final_layer_norm.bias"] += 1
    save_file(other, parted / "text_encoder" / "zz [my] 编码.safetensors")
    texts = TextEncoders([parted / "text_encoder"])
    store = ModelStore(parted / "Stable-diffusion", CPU, Hashes(), text_encoders=texts)
    first = store.load("bare")
    named = store.load("bare", text_encoder="zz [my] 编码.safetensors")
    assert named.text_files[0].name == "zz [my] 编码.safetensors"
    assert not same_texts(first, named)


SAVED: dict[str, tuple[str, Callable[[State, Path], None]]] = {
    "pytorch_model.bin": ("clip_l.bin", lambda state, path: torch.save(state, path)),
    "a trainer's": ("clip_l.pt", lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path)),
    "before torch 1.6": (
        "clip_l.ckpt",
        lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    ),
}


def store_of(parted: Path) -> ModelStore:
    texts = TextEncoders([parted / "text_encoder"])
    return ModelStore(parted / "Stable-diffusion", CPU, Hashes(), text_encoders=texts)


@pytest.mark.parametrize("saved", SAVED)
def test_pickles_are_read_as_they_are(saved: str, parted: Path) -> None:
    """Bit by bit what the safetensors file gives; in whatever numbers they are."""
    name, save = SAVED[saved]
    path = parted / "text_encoder" / "clip_l.safetensors"
    state = load_file(path)
    path.unlink()
    save(state | {"text_model.embeddings.position_ids": torch.arange(77)}, path.with_name(name))
    found = store_of(parted).load("bare")
    assert [file.name for file in found.text_files] == [name, "clip_g.safetensors"]
    assert same_texts(found, load(parted / "whole.safetensors", CPU))


def test_half_precision_in_a_pickle_is_what_torch_reads(parted: Path) -> None:
    path = parted / "text_encoder" / "clip_l.safetensors"
    state = load_file(path)
    path.unlink()
    halves = {key: tensor.to(torch.bfloat16 if "bias" in key else torch.float16) for key, tensor in state.items()}
    torch.save(halves, path.with_suffix(".pt"))
    found = store_of(parted).load("bare").text[0].state_dict()
    again = torch.load(path.with_suffix(".pt"), weights_only=True)
    expected = {key.removeprefix("text_model."): tensor.float() for key, tensor in again.items()}
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_of_two_files_that_fit_the_pickle_comes_last(parted: Path) -> None:
    state = load_file(parted / "text_encoder" / "clip_l.safetensors")
    torch.save({key: tensor + 1 for key, tensor in state.items()}, parted / "text_encoder" / "a.pt")
    assert [file.name for file in store_of(parted).load("bare").text_files] == [
        "clip_l.safetensors",
        "clip_g.safetensors",
    ]
    named = store_of(parted).load("bare", text_encoder="a.pt")
    assert [file.name for file in named.text_files] == ["a.pt", "clip_g.safetensors"]


def test_what_a_pickle_asks_for_is_not_done(parted: Path, tmp_path: Path) -> None:
    canary, folder = tmp_path / "canary", parted / "text_encoder"
    state = load_file(folder / "clip_l.safetensors")
    torch.save({**state, "more": Evil(canary)}, folder / "evil.pt")
    (folder / "torn.bin").write_bytes((folder / "evil.pt").read_bytes()[:2000])
    endless: dict[str, Any] = {"x": torch.ones(1)}
    endless["state_dict"] = endless
    torch.save(endless, folder / "endless.pt")
    assert store_of(parted).load("bare").text_files[0].name == "clip_l.safetensors"
    with pytest.raises(
        CheckpointError, match=r"^evil\.pt is not read: it asks for (posix|nt)\.system, which could run"
    ):
        store_of(parted).load("bare", text_encoder="evil.pt")
    with pytest.raises(CheckpointError, match=r"^torn\.bin is not read: it is damaged; use another copy$"):
        store_of(parted).load("bare", text_encoder="torn.bin")
    (folder / "clip_l.safetensors").unlink()
    with pytest.raises(CheckpointError, match="none of width 4 is here"):
        store_of(parted).load("bare", text_encoder="endless.pt")
    assert not canary.exists()
