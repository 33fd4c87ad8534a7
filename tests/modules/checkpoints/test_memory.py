"""What lies on the card, with a pretended one: the CPU computes, and a mover keeps account of what was moved there."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.checkpoints import memory
from modules.checkpoints import store as stores
from modules.checkpoints.files import Hashes
from modules.checkpoints.memory import (
    AUTO,
    GB,
    LOWVRAM,
    MEDVRAM,
    WHOLE,
    Budget,
    Residence,
    find_budget,
    said_for_nothing,
    weight_bytes,
)
from modules.checkpoints.model import LatentDiffusion, load
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.errors import UserError
from modules.nn.streamed import STORED
from modules.nn.unet import TransformerBlock

CPU = Device(torch.device("cpu"), torch.float32)


@dataclass
class Account:
    """A mover that moves nothing and writes down what lies on the pretended card."""

    there: dict[int, int] = field(default_factory=dict)
    """Addresses of the parameters' objects, and their bytes."""
    moved: list[str] = field(default_factory=list)
    nbytes: int = 0

    def bring(self, module: nn.Module) -> None:
        new = {id(p): p.nbytes for p in module.parameters() if id(p) not in self.there}
        if new:
            self.moved.append(f"+{type(module).__name__}")
        self.there |= new
        self.nbytes += sum(new.values())

    def take_away(self, module: nn.Module) -> None:
        gone = [self.there.pop(id(p)) for p in module.parameters() if id(p) in self.there]
        if gone:
            self.moved.append(f"-{type(module).__name__}")
        self.nbytes -= sum(gone)

    def holds(self, module: nn.Module) -> bool:
        return all(id(p) in self.there for p in module.parameters())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny.safetensors", "sdxl")


def placed(path: Path, room: int, offload: str = AUTO) -> tuple[LatentDiffusion, Account]:
    account = Account()
    residence = Residence(CPU, Budget(GB, room), offload, account)
    return load(path, CPU, residence=residence), account


def sizes(model: LatentDiffusion) -> dict[str, int]:
    return {name: weight_bytes(module) for name, module in model.parts().items()}


def test_what_fits_stays_on_the_card(path: Path) -> None:
    model, account = placed(path, GB)
    for _ in range(3):
        for part in ("text", "text_2", "unet", "vae"):
            model.bring(part)
    assert account.moved == ["+CLIPText", "+OpenCLIPText", "+UNet", "+VAE"]


def test_what_is_needed_least_often_leaves_first_and_no_more_than_has_to(path: Path) -> None:
    model, account = placed(path, GB)
    size = sizes(model)
    assert model.residence
    model.residence.budget = Budget(GB, size["unet"] + size["vae"] + size["text_2"])
    for part in ("text", "text_2", "unet", "vae"):
        model.bring(part)
    assert account.moved[:2] == ["+CLIPText", "+OpenCLIPText"]
    assert account.holds(model.unet) and account.holds(model.vae)  # both text encoders are larger than what is missing
    assert not account.holds(model.text[0])


def test_what_is_computed_needs_room_beside_the_weights(path: Path) -> None:
    model, account = placed(path, GB)
    size = sizes(model)
    assert model.residence
    model.residence.budget = Budget(GB, sum(size.values()) + 1000)
    for part in size:
        model.bring(part)
    model.bring("vae", working=900)
    assert all(account.holds(module) for module in model.parts().values())
    model.residence.bring(model, "vae")
    model.residence.relieve(model.vae)
    assert account.holds(model.vae) and not account.holds(model.unet)


def test_medvram_has_one_network_on_the_card_at_a_time(path: Path) -> None:
    model, account = placed(path, GB, MEDVRAM)
    for part in ("text", "unet", "vae", "unet"):
        model.bring(part)
        held = [name for name, module in model.parts().items() if account.holds(module)]
        assert held == [part]


def test_lowvram_leaves_a_unet_in_main_memory_and_its_numbers_are_the_same(path: Path) -> None:
    model, account = placed(path, GB, LOWVRAM)
    plain = load(path, CPU)
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 77, model.config.unet.context_dim)
    y = torch.randn(1, model.config.unet.vector_dim)
    with torch.inference_mode():
        expected = plain.unet(x, t, context, y)
        model.bring("unet")
        assert not account.there  # nothing of it stays on the card
        assert torch.equal(model.unet(x, t, context, y), expected)


def test_a_unet_that_is_too_large_keeps_as_many_layers_on_the_card_as_fit(path: Path) -> None:
    model, account = placed(path, GB)
    size = sizes(model)["unet"]
    assert model.residence
    model.residence.budget = Budget(GB, size * 2 // 3)
    model.bring("unet")
    there = sum(p.nbytes for p in model.unet.parameters() if id(p) in account.there)
    assert size // 4 < there <= size * 2 // 3
    model.bring("unet", working=size // 2)  # a larger picture leaves less room
    assert sum(p.nbytes for p in model.unet.parameters() if id(p) in account.there) < there
    model.residence.budget = Budget(GB, 2 * size)
    model.bring("unet")
    assert account.holds(model.unet)


def test_whole_never_moves_anything(path: Path) -> None:
    model, account = placed(path, 1, WHOLE)
    for part in ("text", "unet", "vae"):
        model.bring(part)
    assert not [move for move in account.moved if move.startswith("-")]


def test_an_unknown_way_to_share_is_named() -> None:
    with pytest.raises(UserError, match="no way to share a card named 'novram'; there are auto, whole"):
        Residence(CPU, Budget(1), "novram")


def test_weights_of_8_bits_are_computed_with_in_the_working_type(path: Path) -> None:
    plain, small = load(path, CPU), load(path, CPU, fp8=True)
    layer = next(m for m in small.unet.middle_block.modules() if isinstance(m, TransformerBlock))
    assert layer.attn1.to_q.weight.dtype == STORED
    assert next(small.unet.time_embed.parameters()).dtype == torch.float32
    assert weight_bytes(small.unet) < 0.45 * weight_bytes(plain.unet)
    rounded = load(path, CPU)
    for p, q in zip(rounded.unet.parameters(), small.unet.parameters(), strict=True):
        p.data.copy_(q.data.float())
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 77, small.config.unet.context_dim)
    y = torch.randn(1, small.config.unet.vector_dim)
    with torch.inference_mode():
        small.bring("unet")
        answer = small.unet(x, t, context, y)
        assert answer.dtype == torch.float32
        assert torch.equal(answer, rounded.unet(x, t, context, y))
        assert not torch.equal(answer, plain.unet(x, t, context, y))
    assert layer.attn1.to_q.weight.dtype == STORED  # what is kept is as it was


def test_weights_go_home_even_if_a_layer_fails(path: Path) -> None:
    model = load(path, CPU, fp8=True)
    model.bring("unet")
    with pytest.raises(RuntimeError):
        model.unet(torch.randn(1, 3, 8, 8), torch.tensor([1.0]), torch.randn(1, 7, 8), torch.randn(1, 4))
    assert next(model.unet.input_blocks[0].parameters()).dtype == STORED


def test_the_budget_is_what_the_machine_has_or_what_the_owner_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "in_main_memory", lambda: (16 * GB, 20 * GB))
    assert find_budget(CPU) == Budget(12 * GB)
    assert find_budget(CPU, ram=5.5) == Budget(round(5.5 * GB))
    monkeypatch.setattr(memory, "in_main_memory", lambda: (3 * GB, 20 * GB))
    assert find_budget(CPU) == Budget(1 * GB)
    with pytest.raises(UserError, match="-1 GB is no amount of memory; give it in GB"):
        find_budget(CPU, ram=-1)


def test_flags_about_a_cards_memory_say_that_they_do_nothing_without_one() -> None:
    said = said_for_nothing(CPU, medvram=True, lowvram=False, vram_budget=4.0)
    assert said == "images are made without a card, so nothing comes of --medvram, --vram-budget"
    assert not said_for_nothing(CPU, medvram=False, vram_budget=None)
    assert not said_for_nothing(Device(torch.device("cuda"), torch.float16), medvram=True)


def test_models_are_kept_by_least_recent_use_and_let_go_of_entirely(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        write_tiny_checkpoint(tmp_path / f"{name}.safetensors", seed=seed)
    size = load(tmp_path / "a.safetensors", CPU).nbytes
    store = ModelStore(tmp_path, CPU, Hashes(), default="a", budget=round(2.5 * size))
    a, b = store.load("a"), weakref.ref(store.load("b").unet)
    assert store.load("a").unet is a.unet
    store.load("c")
    gc.collect()
    assert b() is None  # it was used longest ago, and nothing else holds it
    assert store.load("a").unet is a.unet
    gone = weakref.ref(store.load("c").unet)
    del a
    store.load("a")
    assert store.relieve() and not store.relieve()
    gc.collect()
    assert gone() is None


def test_a_model_makes_room_where_others_took_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate("ab"):
        write_tiny_checkpoint(tmp_path / f"{name}.safetensors", seed=seed)
    store = ModelStore(tmp_path, CPU, Hashes(), default="a", budget=GB)
    first = store.load("a").unet
    monkeypatch.setattr(stores, "in_main_memory", lambda: (1000, GB))
    store.load("b")
    monkeypatch.undo()
    assert store.load("a").unet is not first


def test_a_model_in_8_bits_stands_beside_the_same_in_full(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "a.safetensors")
    store = ModelStore(tmp_path, CPU, Hashes(), default="a", budget=GB)
    full, small = store.load("a"), store.load("a", fp8="Enable")
    assert full.unet is not small.unet
    assert store.load("a", fp8="Enable for SDXL").unet is full.unet  # it is none
    assert replace(small).nbytes < full.nbytes
