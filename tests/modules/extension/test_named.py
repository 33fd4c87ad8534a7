"""Samplers, schedules, upscalers and face restorers of extensions fail with the name of their extension."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from modules.diffusion.samplers.ode import euler
from modules.diffusion.types import SamplerSpec, SchedulerSpec, StopSampling
from modules.errors import Cancelled, OutOfMemory
from modules.extension.host import Host, Owner
from modules.extension.named import ExtensionFailed
from modules.pipeline.hooks import HookFailed
from modules.restoration.upscale import UpscalerSpec, Work

TABLES = frozenset({"sampler", "scheduler", "upscaler", "face_restorer"})
PICTURE = Image.new("RGB", (8, 8))
X = torch.ones(1, 4, 2, 2)


def host() -> Host:
    return Host(Owner("mine", "1.0", permissions=TABLES))


def sampled(sample: Callable[..., Any], denoise: Callable[..., Any] = lambda x, sigma, step: x) -> Any:
    made = host()
    made.add_sampler(SamplerSpec("Odd", sample))
    return made.samplers.get("Odd").sample(denoise, X, [1.0, 0.0], noise=None, on_step=lambda *_: None)


def scheduled(schedule: Callable[..., Any]) -> Any:
    made = host()
    made.add_scheduler(SchedulerSpec("odd", "Odd", schedule))
    found = made.schedulers.get("Odd").schedule
    assert found
    return found(2, 0.1, 10.0)


def enlarged(enlarge: Callable[..., Any]) -> Any:
    made = host()
    made.add_upscaler(UpscalerSpec("Odd", enlarge))
    return made.upscalers.get("Odd").enlarge(PICTURE, 2.0, Work())


def restored(restore: Callable[..., Any]) -> Any:
    made = host()
    made.add_face_restorer("Odd", restore)
    return made.face_restorers.get("Odd").restore(PICTURE, 0.5)


@pytest.mark.parametrize(
    ("run", "function", "reason"),
    [
        (sampled, lambda *given, **options: 1 / 0, "ZeroDivisionError: division by zero"),
        (sampled, lambda denoise, x, sigmas: x, "TypeError: <lambda>() got an unexpected keyword argument 'noise'"),
        (sampled, lambda *given, **options: X[..., :1], "TypeError: it must answer a tensor of shape (1, 4, 2, 2)"),
        (sampled, lambda denoise, *given, **options: denoise(), "TypeError: "),
        (scheduled, lambda n, low, high: [high, float("nan"), 0.0], "ValueError: it must answer 2 sigmas and 0"),
        (scheduled, lambda n, low, high: [high, 0.0], "ValueError: it must answer 2 sigmas and 0"),
        (scheduled, lambda n, low, high: None, "TypeError: 'NoneType' object is not iterable"),
        (enlarged, lambda image, scale, work: None, "TypeError: it must give a picture, not NoneType"),
        (enlarged, lambda image, scale, work: image.convert("F"), "TypeError: it must give a picture of mode RGB, "),
        (restored, lambda image, weight: image.resize((4, 4)), "ValueError: it must give a picture of 8 x 8 pixels"),
        (restored, lambda image, weight: image.open("none"), "AttributeError"),
    ],
)
def test_what_fails_in_it_is_told_with_its_name_and_a_way_out(
    run: Callable[..., Any], function: Callable[..., Any], reason: str
) -> None:
    with pytest.raises(ExtensionFailed) as error:
        run(function)
    assert error.value.message.startswith(f"extension mine failed in Odd ({reason}")
    assert error.value.hint.startswith("choose another ") and error.value.hint.endswith(", and tell its author")


@pytest.mark.parametrize(
    "error", [Cancelled(), StopSampling(), HookFailed("other", "on_step", ValueError()), OSError()]
)
def test_what_the_program_raises_within_it_is_let_through(error: Exception) -> None:
    def denoise(x: Any, sigma: float, step: int) -> Any:
        raise error

    # `euler` stands for our code here: an error that passed through it is no fault of the extension.
    def sample(_: Any, x: Any, sigmas: Any, **options: Any) -> Any:
        return euler(denoise, x, sigmas, **options)

    with pytest.raises(type(error)) as raised:
        sampled(sample)
    assert raised.value is error


def test_memory_that_runs_out_within_it_is_told_as_such() -> None:
    with pytest.raises(MemoryError):
        sampled(lambda *given, **options: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(OutOfMemory):
        sampled(lambda *given, **options: (_ for _ in ()).throw(OutOfMemory("no room")))


def test_what_does_its_work_is_as_it_was() -> None:
    def sample(denoise: Any, x: Any, sigmas: Any, *, noise: Any, on_step: Any, eta: float = 1.0) -> Any:
        return denoise(x, sigmas[0], 0)

    made = host()
    made.add_sampler(SamplerSpec("Odd", sample))
    spec = made.samplers.get("Odd")
    assert inspect.signature(spec.sample) == inspect.signature(sample)
    assert spec.arguments(eta=0.5, s_noise=1.0) == {"eta": 0.5}
    assert (spec.own_schedule, spec.levels, spec.wrap) == (None, None, None)
    assert sampled(sample) is X
    assert scheduled(lambda n, low, high: (high, low, 0)) == (10.0, 0.1, 0)
    assert restored(lambda image, weight: image) is PICTURE
    ours = Host()
    ours.add_sampler(SamplerSpec("Odd", sample))
    assert ours.samplers.get("Odd").sample is sample
