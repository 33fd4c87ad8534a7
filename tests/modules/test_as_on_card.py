"""What a card does otherwise, played through on a processor: recorded steps, a shared prefix, batched decoding,
float16 with a wider format as the way out, and previews that arrive late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.checkpoints.way import Memory, Way
from modules.devices import Device, Snapshot
from modules.engine import Engine, Result
from modules.errors import RepriseError
from modules.extension.host import Host
from modules.nn.graphs import Replay
from modules.params.generation import GenerationParams
from modules.pipeline.plan import Batch, make_plan
from modules.pipeline.results import Progress, RunCallbacks
from modules.pipeline.run import StepReporter, Task, _decoded
from tests.modules.pipeline.test_networks import write_lora

CPU = Device(torch.device("cpu"), torch.float32)
PARAMS = GenerationParams(
    prompt="a red fox", negative_prompt="snow", width=64, height=64, steps=4, seed=7, subseed=1, sampler="Euler"
)


class Recorder:
    """Repeats what a function did, into the same tensor, as a card's recordings do; counts them."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, function: Replay) -> Replay:
        self.recorded += 1
        out = function()

        def replay() -> Tensor:
            self.replayed += 1
            return out.copy_(function())

        return replay


@dataclass(frozen=True)
class Recording(Device):
    """A processor that records."""

    made: Recorder = None  # type: ignore[assignment]

    def recorder(self) -> Callable[[Replay], Replay]:
        return self.made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "Stable-diffusion" / "tiny.safetensors", seed=5)
    write_lora(folder / "Lora" / "ink.safetensors", 100)
    return folder


def engine_of(models: Path, device: Device) -> Engine:
    host = Host()
    register(host, NetworkShelf(models))
    return Engine(ModelStore(models / "Stable-diffusion", device, Hashes(), default="tiny"), host, version="0.0")


def images(engine: Engine, callbacks: RunCallbacks = RunCallbacks(), **changes: Any) -> list[Result]:
    results: list[Result] = []
    engine.run(PARAMS.changed(**changes), results.append, callbacks)
    return results


def pixels(engine: Engine, **changes: Any) -> list[str]:
    return [result.recipe.pixels for result in images(engine, **changes)]


class TestRecordedSteps:
    @pytest.mark.parametrize(
        ("changes", "recordings"),
        [
            ({}, 1),
            ({"batch_size": 2}, 1),
            ({"prompt": "a red fox <lora:ink:1>"}, 1),
            ({"prompt": "a fox AND a boat"}, 1),
            ({"prompt": "[a red fox:" + "a very long prompt, " * 40 + ":0.5]"}, 2),
        ],
        ids=["plain", "batch", "LoRA", "AND", "lengths"],
    )
    def test_images_are_byte_for_byte_those_of_steps_that_are_not_recorded(
        self, models: Path, changes: dict[str, Any], recordings: int
    ) -> None:
        recorder = Recorder()
        engine = engine_of(models, Recording(CPU.device, CPU.dtype, made=recorder))
        expected = pixels(engine_of(models, CPU), **changes)
        assert pixels(engine, **changes) == expected
        assert recorder.recorded == recordings
        assert recorder.replayed > 0
        assert pixels(engine, **changes) == expected

    def test_a_lora_is_recorded_once_and_the_model_without_it_keeps_its_recording(self, models: Path) -> None:
        recorder = Recorder()
        engine = engine_of(models, Recording(CPU.device, CPU.dtype, made=recorder))
        plain, patched = pixels(engine), pixels(engine, prompt="a red fox <lora:ink:1>")
        assert plain != patched
        assert recorder.recorded == 2
        assert (pixels(engine), pixels(engine, prompt="a red fox <lora:ink:1>")) == (plain, patched)
        assert plain == pixels(engine_of(models, CPU))
        assert patched == pixels(engine_of(models, CPU), prompt="a red fox <lora:ink:1>")

    def test_a_strength_that_changes_at_every_step_is_right_wherever_its_weights_come_to_lie(
        self, models: Path
    ) -> None:
        recorder, prompt = Recorder(), "a red fox <lora:ink:1@0,0.2@1>"
        engine = engine_of(models, Recording(CPU.device, CPU.dtype, made=recorder))
        assert pixels(engine, prompt=prompt) == pixels(engine_of(models, CPU), prompt=prompt)


@pytest.mark.parametrize(
    "changes", [{}, {"batch_size": 2}, {"prompt": "a fox AND a boat"}, {"cfg_scale": 1.0}], ids=str
)
def test_a_shared_prefix_is_the_same_image_up_to_rounding(models: Path, changes: dict[str, Any]) -> None:
    apart = images(engine_of(models, CPU), **changes)
    shared = images(engine_of(models, replace(CPU, shares_prefix=True)), **changes)
    for one, other in zip(apart, shared, strict=True):
        levels = np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16))
        assert levels.max() <= 1


def fill(path: Path, value: float) -> None:
    """Write ``value`` into all weights of a UNet's last layer."""
    with safe_open(path, "pt") as file:
        weights, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    weights["model.diffusion_model.out.2.weight"].fill_(value)
    save_file(weights, path, metadata=metadata)


class TestOverflow:
    """A model with numbers beyond 65504, the largest of float16."""

    @pytest.fixture
    def large(self, tmp_path: Path) -> Path:
        path = write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "large.safetensors", seed=5)
        write_tiny_checkpoint(tmp_path / "Stable-diffusion" / "tiny.safetensors", seed=5)
        fill(path, 60000.0)
        return tmp_path

    def test_it_is_made_in_a_wider_format_and_that_is_said_once(self, large: Path) -> None:
        engine, notes = engine_of(large, Device(CPU.device, torch.float16)), list[str]()
        (found,) = images(engine, RunCallbacks(on_note=notes.append), checkpoint="large")
        assert notes == ["large overflows in float16; the job goes on in a wider number format"]
        assert found.recipe.dtype == "bfloat16"
        (expected,) = images(engine_of(large, Device(CPU.device, torch.bfloat16)), checkpoint="large")
        assert found.recipe.pixels == expected.recipe.pixels
        (again,) = images(engine, RunCallbacks(on_note=notes.append), checkpoint="large")
        assert (len(notes), again.recipe.pixels) == (1, found.recipe.pixels)
        assert images(engine, checkpoint="tiny")[0].recipe.dtype == "float16"

    def test_without_a_wider_format_it_fails_with_a_way_out(self, large: Path) -> None:
        fill(large / "Stable-diffusion" / "large.safetensors", torch.nan)
        with pytest.raises(RepriseError, match=r"large.safetensors is damaged: weights of its UNet are no numbers"):
            images(engine_of(large, Device(CPU.device, torch.float16)), checkpoint="large")


class Decoder:
    """A model that decodes at most ``room`` images at once, and believes in more."""

    device = SimpleNamespace(gains_by_company=True)

    def __init__(self, room: int, believed: int, way: Way = Way()):
        self._room, self._believed = room, believed
        self.memory = Memory(way)
        self.calls: list[int] = []

    def decodes_at_once(self, latents: Tensor) -> int:
        return self._believed

    def decode_together(self, latents: Tensor) -> Tensor:
        self.calls.append(len(latents))
        if len(latents) > self._room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return latents[:, :3]

    decode = decode_together


def decoded(model: Decoder, numbers: list[int], kernels: str = "fast") -> list[tuple[int, Image.Image]]:
    latents = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 4, 8, 8) / 8
    batch = SimpleNamespace(params=PARAMS.changed(kernels=kernels), profile=SimpleNamespace(floor_pixels=True))
    return list(_decoded(cast(LatentDiffusion, model), cast(Batch, batch), latents, numbers))


class TestDecoding:
    def test_as_many_images_at_a_time_as_there_is_room_for(self) -> None:
        model = Decoder(room=3, believed=3)
        found = decoded(model, [0, 2, 3, 5, 6, 7, 1])
        assert model.calls == [3, 3, 1]
        assert [number for number, _ in found] == [0, 2, 3, 5, 6, 7, 1]
        alone = dict(decoded(Decoder(1, 1), list(range(8))))
        assert all(image.tobytes() == alone[number].tobytes() for number, image in found)

    def test_too_little_memory_after_all_means_one_by_one(self) -> None:
        model = Decoder(room=2, believed=4)
        assert [number for number, _ in decoded(model, [4, 1, 2, 0, 3])] == [4, 1, 2, 0, 3]
        assert model.calls == [4, 1, 1, 1, 1, 1]

    def test_no_room_for_a_single_one_and_other_errors_are_not_hidden(self) -> None:
        with pytest.raises(RuntimeError, match="out of memory"):
            decoded(Decoder(room=0, believed=2), [0, 1])
        model = Decoder(room=8, believed=8)
        model.decode_together = lambda latents: (_ for _ in ()).throw(RuntimeError("a kernel failed"))  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="a kernel failed"):
            decoded(model, [0, 1])

    def test_exact_images_are_decoded_one_by_one(self) -> None:
        model = Decoder(room=8, believed=8)
        decoded(model, [0, 1, 2], kernels="exact")
        assert model.calls == [1, 1, 1]

    def test_images_in_bands_are_decoded_one_by_one(self) -> None:
        model = Decoder(room=8, believed=8, way=Way(tiled_decode=64))
        decoded(model, [0, 1, 2])
        assert model.calls == [1, 1, 1]


class TestPreviews:
    def test_what_a_processor_computed_has_arrived(self) -> None:
        x = torch.randn(4, 8, 8)
        snapshot = Snapshot(x)
        assert snapshot.arrived
        assert torch.equal(snapshot.get(), x)

    def test_a_step_that_has_not_arrived_is_shown_with_the_next_one(self, models: Path) -> None:
        """Steps 2 and 3 are on their way when they are reported: step 1 and step 2 are shown for them."""
        arrived = {1.0: False, 2.0: False, 3.0: False, 4.0: True}
        waited: list[float] = []

        class Late(Snapshot):
            @property
            def arrived(self) -> bool:
                return arrived[float(self._copy.mean())]

            def get(self) -> Tensor:
                waited.append(float(self._copy.mean()))
                return self._copy

        engine = engine_of(models, CPU)
        (batch,) = make_plan(PARAMS, engine.host).batches
        shown: list[float] = []
        progress: list[Progress] = []
        model = SimpleNamespace(device=SimpleNamespace(snapshot=Late))
        task = cast(
            Task, SimpleNamespace(model=model, callbacks=RunCallbacks(progress.append), done=0, parts=1, images=1)
        )

        def show(latent: Tensor) -> Image.Image:
            shown.append(float(latent.mean()))
            return Image.new("RGB", (8, 8))

        report = StepReporter(task, batch, show)
        for step in range(4):
            report(step, torch.zeros(1), 1.0, torch.full((1, 4, 8, 8), step + 1.0))
            progress[-1].preview()
        assert shown == [1.0, 1.0, 2.0, 4.0]
        assert waited == [1.0, 1.0, 2.0, 4.0]
        assert [each.step for each in progress] == [1, 2, 3, 4]
