"""Want of memory in the middle of a run: what is tried, what stays the same, what the recipe says and replay does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.memory import LOWVRAM, Budget, Residence
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.checkpoints.way import Memory, Way
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import OutOfMemory, UserError
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.metadata import recipe as recipes
from modules.metadata.verdict import difference
from modules.params.generation import GenerationParams, Hires, Init
from modules.replay import replay_recipe
from tests.byte_limit import ByteLimit
from tests.modules.checkpoints.test_memory import Account

CPU = Device(torch.device("cpu"), torch.float32)
PARAMS = GenerationParams(
    prompt="a red fox", width=96, height=96, steps=2, seed=7, subseed=1, sampler="Euler", batch_size=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "sd1.safetensors")
    return folder


def new_engine(folder: Path, residence: Residence | None = None) -> Engine:
    host = Host()
    register(host)
    store = ModelStore(folder, CPU, Hashes(), default="sd1", budget=2**30, residence=residence)
    return Engine(store, host, version="0.0", inputs=InputStore(folder / "inputs"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return new_engine(folder)


def make(engine: Engine, params: GenerationParams = PARAMS, **changes: Any) -> tuple[list[Result], list[str]]:
    results: list[Result] = []
    notes: list[str] = []
    engine.run(params.changed(**changes), results.append, RunCallbacks(on_note=notes.append))
    return results, notes


def limited(engine: Engine, limit: int, **changes: Any) -> tuple[list[Result], list[str]]:
    with ByteLimit(limit):
        return make(engine, **changes)


def pixels(results: list[Result]) -> list[str]:
    return [result.recipe.pixels for result in results]


class Sampling:
    """Counts the bytes of a run while its UNet is at work, and limits those alone."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: int = 2**62):
        self.counter = ByteLimit(limit)
        unet = engine.store.load().unet
        run = unet.run

        def limited_run(*args: Any, **more: Any) -> Any:
            with self.counter:
                return run(*args, **more)

        monkeypatch.setattr(unet, "run", limited_run)


def test_images_go_one_by_one_first_which_keeps_every_byte(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = make(engine, kernels="exact")
    # Where they may go together they would have to be equal anyway; here they go together whatever comes of it.
    monkeypatch.setattr("modules.pipeline.sample.needs_single_image_batches", lambda *_, **__: False)
    sampling = Sampling(engine, monkeypatch)
    make(engine, kernels="exact")
    sampling.counter.limit = sampling.counter.peak * 2 // 3
    results, notes = make(engine, kernels="exact")
    assert notes == ["there was too little memory for all images together, so they are made one by one"]
    assert pixels(results) == pixels(expected)
    assert [result.recipe.memory for result in results] == [{"one_by_one": True}] * 2
    read = recipes.read(str(results[1].recipe))
    assert read == results[1].recipe
    sampling.counter.limit = 2**62
    again = replay_recipe(engine, read)
    assert again.verdict.kind == "identical"
    assert again.result and again.result.recipe.memory == {"one_by_one": True}


def test_attention_in_slices_is_the_last_way_and_replay_takes_it_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = make(engine, batch_size=1)
    sampling = Sampling(engine, monkeypatch)
    make(engine, batch_size=1)
    sampling.counter.limit = sampling.counter.peak * 2 // 3
    (result,), notes = make(engine, batch_size=1)
    assert notes == ["there was too little memory, so attention is computed in slices"]
    assert result.recipe.memory == {"sliced": True}
    apart = difference(expected[0].image, result.image)
    assert apart and apart.mean < 0.5
    sampling.counter.limit = 2**62  # a machine with more memory makes it in the same way
    assert replay_recipe(engine, recipes.read(str(result.recipe))).verdict.kind == "identical"


def test_a_picture_that_does_not_fit_is_decoded_in_bands_and_sampled_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.nn.banded_vae.Banded.band", 2**14)
    changes: dict[str, Any] = {"batch_size": 1, "width": 256, "height": 256}
    expected, _ = make(engine, **changes)
    steps: list[int] = []

    def run() -> Result:
        results: list[Result] = []
        steps.clear()
        callbacks = RunCallbacks(on_progress=lambda progress: steps.append(progress.step))
        engine.run(PARAMS.changed(**changes), results.append, callbacks)
        return results[0]

    with ByteLimit() as counter:
        run()
    vae = engine.store.load().vae
    decode = vae.decode
    small = ByteLimit(counter.peak)

    def limited_decode(z: Any) -> Any:
        with small:
            return decode(z)

    monkeypatch.setattr(vae, "decode", limited_decode)
    small.limit = 5 * 2 * 256 * 256 * 4
    result = run()
    assert small.failures and steps == [1, 2]
    assert result.recipe.memory == {"tiled_decode": 32 * 32}
    apart = difference(expected[0].image, result.image)
    assert apart and apart.largest <= 1  # of 255; rounding alone
    small.limit = 2**62
    again = replay_recipe(engine, recipes.read(str(result.recipe)))
    assert again.verdict.kind == "identical"
    assert again.result and again.result.recipe.memory == result.recipe.memory


def test_what_would_not_fit_is_not_even_tried(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    make(engine, batch_size=1)
    monkeypatch.setattr(Device, "memory", lambda self: (50_000, 2**30))
    (result,), notes = make(engine, batch_size=1)
    assert result.recipe.memory == {"tiled_decode": 12 * 12}
    assert notes == []


def test_bands_can_be_asked_for_and_hold_for_all_that_is_encoded_and_decoded(engine: Engine) -> None:
    plain, _ = make(engine, batch_size=1)
    assert engine.inputs
    init = Init(image=engine.inputs.put(plain[0].image), denoising_strength=0.5)
    whole, bands = (make(engine, batch_size=1, init=init, tiled_vae=tiled)[0][0] for tiled in (False, True))
    assert "Tiled VAE: True" in bands.infotext and "Tiled VAE" not in whole.infotext
    assert bands.recipe.memory == {"tiled_encode": 1, "tiled_decode": 1}
    apart = difference(whole.image, bands.image)
    assert apart and apart.largest <= 2
    assert replay_recipe(engine, bands.recipe).verdict.kind == "identical"


def test_when_nothing_helps_one_sentence_says_so_and_the_next_job_works(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = make(engine)
    with pytest.raises(OutOfMemory, match=r"^[^.;]+; make the picture or the batch smaller$") as caught:
        limited(engine, 50_000)
    assert caught.value.__cause__ is None  # nothing holds what was computed
    assert pixels(make(engine)[0]) == pixels(expected)
    monkeypatch.setattr("modules.nn.banded_vae.Banded.decode", lambda self, z: torch.empty(2**60))
    with pytest.raises(OutOfMemory):
        make(engine, tiled_vae=True)
    monkeypatch.undo()
    assert pixels(make(engine)[0]) == pixels(expected)


def test_on_a_card_networks_make_room_before_anything_is_rounded_otherwise(folder: Path) -> None:
    """The card's limit counts the weights that lie there: the UNet fits beside its maps, and not beside the others."""
    account = Account()
    engine = new_engine(folder, Residence(CPU, Budget(2**30, 2**30), mover=account))
    expected, _ = make(engine)
    with ByteLimit(extra=lambda: account.nbytes) as unlimited:
        make(engine)
    with ByteLimit(unlimited.peak - 100_000, extra=lambda: account.nbytes) as limit:
        results, notes = make(engine)
    assert limit.failures and notes == []
    assert pixels(results) == pixels(expected)
    assert [result.recipe.memory for result in results] == [{}] * 2


def test_then_the_weights_come_block_by_block(folder: Path) -> None:
    memory = Memory(can_stream=True)
    sentences = []
    while sentence := memory.climb(images=4):
        sentences.append(sentence)
    assert list(memory.way.to_json()) == ["one_by_one", "streamed", "sliced"]
    assert len(sentences) == 3
    account = Account()
    engine = new_engine(folder, Residence(CPU, Budget(2**30, 2**30), mover=account))
    expected, _ = make(engine, batch_size=1)
    results: list[Result] = []
    engine.run(PARAMS.changed(batch_size=1), results.append, way=Way(streamed=True))
    assert results[0].recipe.memory == {"streamed": True}
    assert pixels(results) == pixels(expected)
    assert "-UNet" in account.moved


@pytest.mark.parametrize("offload", ["auto", "medvram", LOWVRAM])
def test_every_way_to_share_a_card_makes_the_same_bytes(engine: Engine, folder: Path, offload: str) -> None:
    changes: dict[str, Any] = {"hires": Hires(upscaler="Lanczos", scale=1.5), "batch_size": 1}
    expected, _ = make(engine, **changes)
    account = Account()
    moving = new_engine(folder, Residence(CPU, Budget(2**30, 1_500_000), offload, account))
    results, _ = make(moving, **changes)
    assert pixels(results) == pixels(expected)
    assert results[0].recipe.memory == {}
    assert "-CLIPText" in account.moved


def test_a_card_with_no_room_for_a_whole_picture_gives_it_in_bands_and_says_so(engine: Engine, folder: Path) -> None:
    changes: dict[str, Any] = {"hires": Hires(upscaler="Lanczos", scale=1.5), "batch_size": 1}
    expected, _ = make(engine, **changes)
    (found,), _ = make(new_engine(folder, Residence(CPU, Budget(2**30, 2**20), mover=Account())), **changes)
    assert found.recipe.memory == {"tiled_encode": 18 * 18, "tiled_decode": 18 * 18}
    apart = difference(expected[0].image, found.image)
    assert apart is None or apart.largest <= 1


def test_weights_in_8_bits_make_another_picture_which_text_and_recipe_tell(engine: Engine) -> None:
    plain, _ = make(engine, batch_size=1)
    (small,), _ = make(engine, batch_size=1, fp8_storage="Enable")
    assert small.recipe.pixels != plain[0].recipe.pixels
    assert "FP8 weight: Enable" in small.infotext
    assert replay_recipe(engine, small.recipe).verdict.kind == "identical"
    assert pixels(make(engine, batch_size=1)[0]) == pixels(plain)


def test_a_recipe_with_an_unknown_measure_is_refused() -> None:
    assert Way.from_json(Way(sliced=True, tiled_decode=4).to_json()) == Way(sliced=True, tiled_decode=4)
    for values in ({"folded": True}, {"sliced": 3}, {"tiled_decode": True}):
        with pytest.raises(UserError, match="this recipe was computed with"):
            Way.from_json(values)
