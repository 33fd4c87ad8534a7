"""Batches to images, without the engine around them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.diffusion.types import StopSampling
from modules.errors import Cancelled, UserError
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.imaging.latent_preview import Previews
from modules.imaging.tensors import to_images
from modules.params.generation import GenerationParams, Hires, Init, ModifierOptions, Refiner, TiledUpscale
from modules.pipeline.hooks import RequestHooks
from modules.pipeline.plan import Batch, make_plan
from modules.pipeline.prompt_encoder import PromptEncoder
from modules.pipeline.provenance import provenance_of
from modules.pipeline.results import BatchImage, Progress, RunCallbacks
from modules.pipeline.run import BatchRunner, StepReporter, Task, image_conditioning_facts

PARAMS = GenerationParams(prompt="a fox", width=64, height=64, steps=2, seed=7, subseed=1, sampler="Euler")


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host()
    register(host)
    host.add_face_restorer("Same", lambda image, weight: image)
    return host


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    write_tiny_checkpoint(folder / "other.safetensors", seed=1)
    return ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")


@pytest.fixture
def inputs(tmp_path: Any) -> InputStore:
    return InputStore(tmp_path)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def runner_of(store: ModelStore, host: Host, inputs: InputStore | None = None) -> BatchRunner:
    return BatchRunner(store, host, PromptEncoder(store), Previews(), inputs)


def images(
    runner: BatchRunner,
    store: ModelStore,
    host: Host,
    params: GenerationParams,
    numbers: Sequence[int] = (0,),
    callbacks: RunCallbacks = RunCallbacks(),
) -> list[BatchImage]:
    (batch,) = make_plan(params, host).batches
    hooks = RequestHooks(host, ModifierOptions()).of()
    with torch.inference_mode(), hooks.patching(lambda model, name, what: None):
        model = hooks.patched(store.load(params.checkpoint))
        task = Task(model, params.images, callbacks, hooks, hooks, lambda model, name, what: None)
        return list(runner.images(task, batch, runner.init_images(batch.params), numbers))


def test_only_the_images_that_are_wanted_are_decoded(store: ModelStore, host: Host) -> None:
    runner, params = runner_of(store, host), PARAMS.changed(batch_size=3)
    some = images(runner, store, host, params, (2, 0))
    assert [image.number for image in some] == [2, 0]
    assert some[0].image.tobytes() != some[1].image.tobytes()


def test_a_start_image_of_which_nothing_is_to_change_comes_out_as_it_is(
    store: ModelStore, host: Host, inputs: InputStore
) -> None:
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    init = Init(image=inputs.put(png(picture)), denoising_strength=0.0)
    (image,) = images(runner_of(store, host, inputs), store, host, PARAMS.changed(init=init))
    assert np.array_equal(np.asarray(image.image), np.asarray(picture))


def test_start_images_need_a_place(store: ModelStore, host: Host) -> None:
    params = PARAMS.changed(init=Init(image="0" * 64))
    with pytest.raises(UserError, match="there is no place for start pictures here"):
        runner_of(store, host).init_images(params)


def test_tiles_are_joined_to_one_image_of_the_larger_size(store: ModelStore, host: Host, inputs: InputStore) -> None:
    key = inputs.put(png(Image.new("RGB", (64, 64), "red")))
    tiled = TiledUpscale(upscaler="Lanczos", by=2.0, overlap=16)
    init = Init(image=key, denoising_strength=0.5, tiled=tiled)
    (image,) = images(runner_of(store, host, inputs), store, host, PARAMS.changed(init=init, steps=2))
    assert (image.number, image.image.size) == (0, (128, 128))


def test_a_batch_that_was_stopped_is_not_begun(store: ModelStore, host: Host) -> None:
    with pytest.raises(Cancelled):
        images(runner_of(store, host), store, host, PARAMS, callbacks=RunCallbacks(cancelled=lambda: True))


def test_a_face_restorer_that_finds_nothing_is_said(store: ModelStore, host: Host) -> None:
    notes: list[str] = []
    params = PARAMS.changed(restore_faces=True, face_restorer="Same", batch_size=2)
    images(runner_of(store, host), store, host, params, (0, 1), RunCallbacks(on_note=notes.append))
    assert notes == ["Same found no face in the picture"] * 2


def test_other_checkpoints_are_named_after_their_use(store: ModelStore, host: Host) -> None:
    params = PARAMS.changed(refiner=Refiner("other", 0.5), hires=Hires(checkpoint="other", steps=1))
    runner, model = runner_of(store, host), store.load()
    (batch,) = make_plan(params, host).batches
    found = provenance_of([image_conditioning_facts, runner.provenance], model, batch)
    sha256 = store.sha256(store.find("other").path)
    assert [(file.role, file.name, file.sha256) for file in found.files] == [
        ("refiner", "other.safetensors", sha256),
        ("hires checkpoint", "other.safetensors", sha256),
    ]
    assert found.infotext == {}  # no inpainting model


def reporter(callbacks: RunCallbacks, batch: Batch, host: Host, store: ModelStore, done: int = 0) -> StepReporter:
    hooks = RequestHooks(host, ModifierOptions()).of()
    task = Task(store.load(), 2, callbacks, hooks, hooks, lambda model, name, what: None)
    return StepReporter(task, batch, lambda latent: to_images(latent[None, :3], floor=True)[0], done)


def test_steps_count_on_through_both_passes_and_the_whole_request(store: ModelStore, host: Host) -> None:
    progress: list[Progress] = []
    params = PARAMS.changed(batch_count=2, hires=Hires(steps=3))
    x = torch.zeros(1, 4, 8, 8)
    for batch in make_plan(params, host).batches:
        first, second = batch.passes
        for steps, each, done in ((2, first, 0), (3, second, 2)):
            report = reporter(RunCallbacks(on_progress=progress.append), each, host, store, done)
            for step in range(steps):
                report(step, x, 1.0, x)
    assert [(p.first_image, p.step, p.steps) for p in progress] == [(i, s, 5) for i in (0, 1) for s in range(1, 6)]
    assert [p.fraction for p in progress] == pytest.approx([n / 10 for n in range(1, 11)])
    assert progress[0].preview().size == (8, 8)


def test_a_skip_ends_the_pass_after_the_step_was_told(store: ModelStore, host: Host) -> None:
    progress: list[Progress] = []
    (batch,) = make_plan(PARAMS, host).batches
    report = reporter(RunCallbacks(progress.append, skips=lambda: len(progress)), batch, host, store)
    with pytest.raises(StopSampling):
        report(0, torch.zeros(1, 4, 8, 8), 1.0, torch.zeros(1, 4, 8, 8))
    assert (report.skipped, len(progress)) == (1, 1)


def test_skips_of_an_earlier_batch_do_not_count_and_notes_are_told_once() -> None:
    notes: list[str] = []
    asked = [1, 2]
    callbacks = RunCallbacks(on_note=notes.append, skips=lambda: len(asked))
    later, note = callbacks.from_now(), callbacks.note_once()
    assert later.skips() == 0
    asked.append(3)
    assert later.skips() == 1
    for text in ("a", "b", "a"):
        note(text)
    assert notes == ["a", "b"]
