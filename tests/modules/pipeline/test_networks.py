"""Networks of prompts in the engine, on a tiny random model: what they change, what is told, what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.fingerprint import digest
from modules.checkpoints.networks import merging
from modules.checkpoints.networks.listing import Described
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import Cancelled, UserError
from modules.extension.host import Host
from modules.params.generation import GenerationParams, Hires, Refiner
from modules.replay import replay_recipe

PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=4, seed=7, subseed=1, sampler="Euler")
BLOCK = "down_blocks_0_attentions_0_transformer_blocks_0"


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write_lora(path: Path, seed: int, *, text: bool = False, metadata: dict[str, str] | None = None) -> Path:
    """For the tiny model's first attention, and with ``text`` for its text encoder."""
    tensors = {}
    layers = {f"lora_unet_{BLOCK}_{name}": 4 for name in ("attn1_to_q", "attn1_to_out_0", "attn2_to_v")}
    layers |= {"lora_te_text_model_encoder_layers_0_self_attn_v_proj": 4} if text else {}
    for i, (layer, width) in enumerate(layers.items()):
        tensors[f"{layer}.lora_up.weight"] = random(seed + 2 * i, width, 2)
        tensors[f"{layer}.lora_down.weight"] = random(seed + 2 * i + 1, 2, width)
        tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "tiny.safetensors", seed=5)
    write_lora(tmp_path / "Lora" / "ink.safetensors", 100)
    write_lora(tmp_path / "Lora" / "wet.safetensors", 200, text=True, metadata={"ss_output_name": "watercolour"})
    return tmp_path


@pytest.fixture
def engine(models: Path) -> Engine:
    return engine_of(models)


def engine_of(models: Path) -> Engine:
    host = Host()
    register(host, NetworkShelf(models))
    device = Device(torch.device("cpu"), torch.float32)
    store = ModelStore(models / "Stable-diffusion", device, Hashes(), default="tiny")
    return Engine(store, host, version="0.0")


class Made:
    """The pictures of a request, and what was said."""

    def __init__(self, engine: Engine, prompt: str, callbacks: RunCallbacks = RunCallbacks(), **changes: Any):
        self.results: list[Result] = []
        self.notes: list[str] = []
        callbacks = RunCallbacks(callbacks.on_progress, self.notes.append, callbacks.cancelled)
        engine.run(PARAMS.changed(prompt=prompt, **changes), self.results.append, callbacks)

    @property
    def pixels(self) -> str:
        return self.results[0].recipe.pixels


@pytest.fixture
def made(engine: Engine) -> Callable[..., Made]:
    return lambda prompt, **changes: Made(engine, prompt, **changes)


def test_a_lora_changes_the_picture_and_strength_zero_does_not(made: Callable[..., Made]) -> None:
    plain = made("a red fox").pixels
    assert made("a red fox <lora:ink:1>").pixels != plain
    assert made("a red fox <lora:ink:0>").pixels == plain
    assert made("a red fox <lora:ink:1>").notes == []


def test_over_a_none_b_a_each_picture_is_what_a_fresh_engine_makes(models: Path, made: Callable[..., Made]) -> None:
    prompts = ["a fox <lora:ink:1>", "a fox", "a fox <lora:watercolour:0.5>", "a fox <lora:ink:1>"]
    assert [made(prompt).pixels for prompt in prompts] == [Made(engine_of(models), p).pixels for p in prompts]


def test_weights_are_the_files_own_bytes_after_an_error_and_a_cancel(engine: Engine, made: Callable[..., Made]) -> None:
    model = engine.store.load()
    bits = digest(model)
    stops = iter((False, False, True, True, True))
    with pytest.raises(Cancelled):
        made("a fox <lora:ink:1> <lora:wet:1>", callbacks=RunCallbacks(cancelled=lambda: next(stops)))
    assert digest(model) == bits

    def fail(_: object) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        made("a fox <lora:ink:1>", callbacks=RunCallbacks(on_progress=fail))
    assert digest(model) == bits
    made("a fox <lora:ink:1:0.5>")
    assert digest(model) == bits


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one for each layer that is merged."""
    layers, merged = list[object](), merging.merged

    def counting(*arguments: Any) -> Tensor | None:
        layers.append(arguments)
        return merged(*arguments)

    monkeypatch.setattr(merging, "merged", counting)
    return layers


def test_what_was_patched_is_not_made_again_for_the_next_job(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = counted(monkeypatch)
    made("a fox <lora:ink:1>")
    assert len(layers) == 3
    made("two foxes <lora:ink:1>", batch_count=2)
    assert len(layers) == 3


def test_strength_by_step_makes_weights_anew_only_where_it_changes(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = counted(monkeypatch)
    made("a fox <lora:ink:[0.5:1:0.5]> <lora:wet:1>", steps=8)
    assert len(layers) == 4 + 3


def test_a_switch_at_the_end_and_one_before_the_start_are_constant(made: Callable[..., Made]) -> None:
    assert made("a fox <lora:ink:[1:0:8]>").pixels == made("a fox <lora:ink:te=0:unet=1>").pixels
    assert made("a fox <lora:ink:[0:1:0]>").pixels == made("a fox <lora:ink:te=0:unet=1>").pixels
    assert made("a fox <lora:ink:[1@0,1@1]>").pixels == made("a fox <lora:ink:te=0:unet=1>").pixels
    half = made("a fox <lora:ink:[0:1:0.5]>").pixels
    assert half not in (made("a fox").pixels, made("a fox <lora:ink:1>").pixels)


def test_tags_within_an_edit_hold_all_along_in_a1111_and_switch_in_exact(made: Callable[..., Made]) -> None:
    prompt = "a fox [<lora:ink:1>:<lora:wet:te=0:unet=1>:0.5]"
    assert made(prompt).pixels == made("a fox [::0.5] <lora:ink:1> <lora:wet:te=0:unet=1>").pixels
    switched = made(prompt, profile="exact").pixels
    by_hand = "a fox [::0.5] <lora:ink:te=0:unet=[1:0:0.5]> <lora:wet:te=0:unet=[0:1:0.5]>"
    assert switched == made(by_hand, profile="exact").pixels


def test_a_text_encoders_strength_is_its_own(made: Callable[..., Made]) -> None:
    only_text, both = made("a fox <lora:wet:1:0>").pixels, made("a fox <lora:wet:1>").pixels
    assert len({made("a fox").pixels, only_text, both, made("a fox <lora:wet:0:1>").pixels}) == 4


def test_the_second_pass_has_a_list_of_its_own(made: Callable[..., Made]) -> None:
    def pixels(prompt: str, own: str) -> str:
        return made(prompt, hires=Hires(upscaler="Latent", scale=2.0, denoising_strength=0.7, prompt=own)).pixels

    inked = "a fox <lora:ink:1>"
    assert len({pixels("a fox", inked), pixels("a fox", ""), pixels(inked, ""), pixels(inked, "a fox")}) == 4
    assert pixels("a fox <lora:ink:1>", "") == pixels("a fox <lora:ink:1>", "a fox <lora:ink:1>")


def test_text_and_recipe_name_the_files(engine: Engine, models: Path, made: Callable[..., Made]) -> None:
    (result,) = made("a fox <lora:watercolour:0.5> <lora:ink:1>").results
    shelf = engine.host.shelf
    files = {file.stem: file for file in shelf.read().files}
    wet, ink = (shelf.network_hash(files[name])[:12] for name in ("wet", "ink"))
    assert f'Lora hashes: "watercolour: {wet}, ink: {ink}"' in result.infotext
    recorded = [(file.role, file.name, file.sha256) for file in result.recipe.files if file.role == "lora"]
    assert recorded == [("lora", f"{name}.safetensors", shelf.sha256(files[name])) for name in ("wet", "ink")]
    assert result.recipe.extensions == ()


def test_replay_finds_renamed_files_and_names_missing_ones(models: Path, made: Callable[..., Made]) -> None:
    (result,) = made("a fox <lora:watercolour:0.5> <lora:ink:1>").results
    (models / "Lora" / "ink.safetensors").rename(models / "Lora" / "brush.safetensors")
    write_lora(models / "Lora" / "ink.safetensors", 900)  # another one of the old name
    assert replay_recipe(engine_of(models), result.recipe).verdict.kind == "identical"
    (models / "Lora" / "brush.safetensors").unlink()
    verdict = replay_recipe(engine_of(models), result.recipe).verdict
    assert verdict.kind == "cannot" and verdict.reasons[0].startswith("lora ink.safetensors (sha256 ")


def test_what_does_nothing_is_named(models: Path, made: Callable[..., Made]) -> None:
    for name, layer in {"other": "input_blocks_11_1_transformer_blocks_9_attn1_to_q", "wan": "blocks_0_ffn_0"}.items():
        save_file({f"lora_unet_{layer}.diff": random(1, 4, 4)}, models / "Lora" / f"{name}.safetensors")
    xl = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.diff": random(1, 4, 4)}
    save_file(xl, models / "Lora" / "xl.safetensors")
    (models / "Lora" / "bad.safetensors").write_bytes(b"\xff" + bytes(7) + b"{}")
    plain = made("a fox").pixels
    for name, reason in {
        "inc": "there is no LoRA named inc, so it was left out; did you mean ink?",
        "other": "the LoRA other was left out: none of its layers is one of tiny",
        "wan": "the LoRA wan was left out: wan.safetensors is for another kind of model: none of its layers is one of "
        "SD 1.x, SD 2.x or SDXL",
        "xl": "the LoRA xl was left out: it is for SDXL, and tiny is SD1",
        "bad": "the LoRA bad was left out: bad.safetensors is not a usable safetensors file: it ends inside its header",
    }.items():
        done = made(f"a fox <lora:{name}:1>")
        assert done.notes == [reason] and done.pixels == plain
        assert "Lora hashes" not in done.results[0].infotext


def test_a_file_that_turns_out_to_be_damaged_is_remembered(tmp_path: Path, models: Path) -> None:
    path = write_lora(models / "Lora" / "ink.safetensors", 100)
    save_file({**load_file(path), "lora_unet_nowhere.diff": torch.tensor([float("nan")])}, path)
    host = Host()
    register(host, NetworkShelf(models, tmp_path / "data"))
    server = NetworkShelf(models, tmp_path / "data")  # another process's
    assert not described(server, "ink").problem
    store = ModelStore(
        models / "Stable-diffusion", Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny"
    )
    (note,) = Made(Engine(store, host, version="0.0"), "a fox <lora:ink:1>").notes
    assert "ink.safetensors is damaged: 1 of its 10 tensors" in note
    for shelf in (server, NetworkShelf(models, tmp_path / "data")):
        assert described(shelf, "ink").problem in note and described(shelf, "ink").kinds == ("LoRA", "full")
    write_lora(path, 100, metadata={"a": "copy that is whole"})
    assert not described(server, "ink").problem


def described(shelf: NetworkShelf, name: str) -> Described:
    file = shelf.read().find(name)
    assert file is not None
    return file.described


def test_a_tag_without_its_end_is_noted_as_text(made: Callable[..., Made]) -> None:
    whole = made("a fox <lora:ink:1").notes
    assert len(whole) == 1 and "<lora:ink is plain text" in whole[0]
    assert ["<lora" in note for note in made("a fox", negative_prompt="<lora>").notes] == [True]


def test_arguments_that_say_nothing_are_noted(made: Callable[..., Made]) -> None:
    (note,) = made("a fox <lora:ink:1:stop=10>").notes
    assert note.startswith("ink: stop= does nothing here")


def test_layers_without_a_place_are_counted(models: Path, made: Callable[..., Made]) -> None:
    half = {f"lora_unet_{BLOCK}_attn1_to_q.diff": random(1, 4, 4), "lora_unet_nowhere.diff": random(1, 4, 4)}
    save_file(half, models / "Lora" / "half.safetensors")
    assert made("a fox <lora:half:1>").notes == ["1 of the 2 layers of half have no place in tiny"]


def test_a_tag_without_a_number_drops_all_loras_as_in_a1111(made: Callable[..., Made]) -> None:
    done = made("a fox <lora:ink:1> <lora:wet:strong>")
    assert done.pixels == made("a fox").pixels
    (note,) = done.notes
    assert note.startswith("<lora:wet:strong> cannot be read: 'strong' is not a number; so no lora of this prompt")
    with pytest.raises(UserError, match="'strong' is not a number"):
        made("a fox <lora:wet:strong>", profile="exact")


def test_a_prompt_that_names_a_network_twice_adds_its_last_strength_twice_in_a1111(made: Callable[..., Made]) -> None:
    twice = made("a fox <lora:ink:0.1> <lora:ink:0.5>").pixels
    assert twice == made("a fox <lora:ink:0.5> <lora:ink:0.5>").pixels
    assert made("a fox <lora:ink:0.1> <lora:ink:0.5>", profile="exact").pixels != twice


def test_hypernetworks_go_before_keys_and_values(engine: Engine, models: Path, made: Callable[..., Made]) -> None:
    def half(seed: int) -> dict[str, Tensor]:
        wide, narrow = random(seed, 8, 4), random(seed + 1, 4, 8)
        zero = {"linear.0.bias": torch.zeros(8), "linear.1.bias": torch.zeros(4)}
        return {"linear.0.weight": wide, "linear.1.weight": narrow, **zero}

    (models / "hypernetworks").mkdir()
    table = {4: (half(1), half(3)), "layer_structure": [1, 2, 1], "activation_func": "linear", "name": "anime"}
    torch.save(table, models / "hypernetworks" / "anime.pt")
    bits = digest(engine.store.load())
    done = made("a fox <hypernet:anime:0.5>")
    assert done.pixels not in (made("a fox").pixels, made("a fox <hypernet:anime:1>").pixels)
    assert [file.role for file in done.results[0].recipe.files] == ["checkpoint", "hypernetwork"]
    assert made("a fox <hypernet:anime:0>").pixels == made("a fox").pixels
    assert digest(engine.store.load()) == bits
    torch.save({999: table[4], "name": "wide"}, models / "hypernetworks" / "wide.pt")
    wide = made("a fox <hypernet:wide:1>")
    assert wide.notes == ["the hypernetwork wide was left out: none of its widths (999) is one of tiny"]
    assert [file.role for file in wide.results[0].recipe.files] == ["checkpoint"]


def test_embeddings_that_come_along_can_be_named(models: Path, made: Callable[..., Made]) -> None:
    charm = {"bundle_emb.charm.string_to_param.*": random(5, 2, 4)}
    save_file({f"lora_unet_{BLOCK}_attn1_to_q.diff": torch.zeros(4, 4), **charm}, models / "Lora" / "with.safetensors")
    assert made("a fox charm <lora:with:0>").pixels != made("a fox charm").pixels
    (result,) = made("a fox charm <lora:with:1>").results
    assert [file.role for file in result.recipe.files] == ["checkpoint", "lora"]
    assert replay_recipe(engine_of(models), result.recipe).verdict.kind == "identical"


def test_blocks_have_strengths_of_their_own(made: Callable[..., Made]) -> None:
    ones = ",".join("1" for _ in range(17))
    assert made(f"a fox <lora:ink:1:lbw={ones}>").pixels == made("a fox <lora:ink:1>").pixels
    assert made("a fox <lora:ink:1:lbw=OUTALL>").pixels == made("a fox").pixels  # its layers are in a first block
    assert made("a fox <lora:ink:1:lbw=INALL>").pixels == made("a fox <lora:ink:1>").pixels
    (note,) = made("a fox <lora:ink:1:lbw=1,1>").notes
    assert "strengths of blocks are 12, 17, 20, 26 numbers, not 2" in note


def test_a_picture_does_not_depend_on_its_company(made: Callable[..., Made]) -> None:
    together = made("a fox <lora:ink:[0:1:0.5]> <lora:wet:0.5>", batch_size=2, kernels="exact").results
    alone = made("a fox <lora:ink:[0:1:0.5]> <lora:wet:0.5>", seed=8, kernels="exact").results
    assert together[1].recipe.pixels == alone[0].recipe.pixels


def test_a_refiner_has_the_networks_too(engine: Engine, models: Path, made: Callable[..., Made]) -> None:
    write_tiny_checkpoint(models / "Stable-diffusion" / "second.safetensors", seed=6)
    bits = [digest(engine.store.load(name)) for name in ("tiny", "second")]
    half = {"refiner": Refiner("second", 0.5)}
    prompts = ["a fox", "a fox <lora:ink:1>", "a fox <lora:ink:te=0:unet=[1:0:0.5]>"]
    pictures = [made(prompt, profile="exact", **half).pixels for prompt in prompts]
    pictures.append(made("a fox <lora:ink:te=0:unet=1>", profile="exact", **half).pixels)
    assert len(set(pictures)) == 3 and pictures[1] == pictures[3]  # this one's file has nothing for texts
    assert [digest(engine.store.load(name)) for name in ("tiny", "second")] == bits
