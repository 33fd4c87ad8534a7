"""Little memory on a real card: networks that come and go, weights in 8 bits, and torch's own limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.memory import AUTO, LOWVRAM, MEDVRAM, Budget, Residence, find_budget
from modules.checkpoints.store import ModelStore
from modules.devices import Device, choose
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import OutOfMemory
from modules.extension.host import Host
from modules.metadata.verdict import difference
from modules.params.generation import GenerationParams
from modules.replay import replay_recipe

pytestmark = pytest.mark.gpu
MODELS = Path(__file__).parents[2] / "models" / "Stable-diffusion"
PARAMS = GenerationParams(
    prompt="a red fox in the snow", width=128, height=128, steps=4, seed=7, subseed=0, batch_size=2, kernels="exact"
)


@pytest.fixture(scope="module")
def card() -> Device:
    if not torch.cuda.is_available():
        pytest.skip("there is no card")
    return choose("cuda")


@pytest.fixture
def limit() -> Iterator[Any]:
    total = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 1
    yield lambda nbytes: torch.cuda.set_per_process_memory_fraction(nbytes / total)
    torch.cuda.set_per_process_memory_fraction(1.0)


def engine_of(device: Device, offload: str = AUTO, room: int = 2**40) -> Engine:
    host = Host()
    register(host)
    residence = Residence(device, Budget(2**33, room), offload)
    return Engine(ModelStore(MODELS, device, Hashes(), residence=residence), host, version="0.0")


def make(engine: Engine, **changes: Any) -> tuple[list[Result], list[str]]:
    results: list[Result] = []
    notes: list[str] = []
    engine.run(PARAMS.changed(**changes), results.append, RunCallbacks(on_note=notes.append))
    return results, notes


def pixels(results: list[Result]) -> list[str]:
    return [result.recipe.pixels for result in results]


@pytest.mark.parametrize(("offload", "room"), [(MEDVRAM, 2**40), (LOWVRAM, 2**40), (AUTO, 24 * 2**20)])
def test_networks_that_come_and_go_make_the_same_bytes(card: Device, offload: str, room: int) -> None:
    expected, _ = make(engine_of(card))
    engine = engine_of(card, offload, room)
    results, notes = make(engine)
    assert pixels(results) == pixels(expected) and notes == []
    model = engine.store.load()
    kinds = {name: {p.device.type for p in module.parameters()} for name, module in model.parts().items()}
    assert kinds["unet"] != {"cuda"} and kinds["text"] == {"cpu"}
    assert pixels(make(engine)[0]) == pixels(expected)


def test_weights_in_8_bits_take_less_of_the_card(card: Device) -> None:
    full, small = (engine_of(card).store.load(fp8=words) for words in ("Disable", "Enable"))
    sizes = [sum(p.nbytes for p in model.unet.parameters()) for model in (full, small)]
    assert sizes[1] < 0.6 * sizes[0]
    assert {p.device.type for p in small.unet.parameters()} == {"cuda"}
    engine = engine_of(card)
    (result, *_), _ = make(engine, fp8_storage="Enable")
    apart = difference(make(engine)[0][0].image, result.image)
    assert apart and 0 < apart.mean < 30


def test_at_the_cards_limit_an_image_is_made_in_another_way_and_again(card: Device, limit: Any) -> None:
    engine = engine_of(card)
    big: dict[str, Any] = {"width": 1024, "height": 1024, "batch_size": 1, "steps": 2}
    expected, _ = make(engine, **big)
    engine.store.relieve()
    torch.cuda.reset_peak_memory_stats()
    make(engine, **big)
    whole = torch.cuda.max_memory_reserved()
    for share in (0.6, 0.45, 0.35, 0.25):
        engine.store.relieve()
        limit(whole * share)
        (result,), _ = make(engine, **big)
        if result.recipe.memory:
            break
    assert result.recipe.memory
    apart = difference(expected[0].image, result.image)
    assert apart and apart.mean < 1
    limit(2**40)
    assert replay_recipe(engine, result.recipe).verdict.kind == "identical"


def test_when_nothing_helps_one_sentence_says_so_and_the_next_job_works(card: Device, limit: Any) -> None:
    engine = engine_of(card)
    expected, _ = make(engine)
    engine.store.relieve()
    limit(2**20)
    with pytest.raises(OutOfMemory, match="the card has too little memory for this; make the picture"):
        make(engine, width=1024, height=1024)
    limit(2**40)
    assert pixels(make(engine)[0]) == pixels(expected)


def test_the_budget_is_what_the_card_has(card: Device) -> None:
    free, total = card.memory()
    budget = find_budget(card)
    assert budget.card and 0.5 * free < budget.card <= total
    assert find_budget(card, card=1.0).card == 2**30
