"""Samplers, schedules, upscalers and face restorers of extensions: no job that asks for one can go on without it, so
what fails in it fails the job, with the extension's name.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.errors import RepriseError, out_of_memory
from modules.imaging.files import check_given
from modules.restoration.faces import FaceRestorerSpec
from modules.restoration.upscale import UpscalerSpec

log = logging.getLogger(__name__)

F = TypeVar("F", bound="Callable[..., Any] | None")
Check = Callable[..., object]
"""Raises an error for an answer that will not do; it is given the answer, then the arguments."""

_OURS = str(Path(__file__).parents[1])


class ExtensionFailed(RepriseError):
    """A function of an extension failed that the job cannot do without."""


def sampler(spec: SamplerSpec, owner: str) -> SamplerSpec:
    named = functools.partial(_named, owner=owner, what=spec.name, kind="sampler")
    return replace(
        spec,
        sample=named(spec.sample, check=_same_shape),
        own_schedule=named(spec.own_schedule),
        levels=named(spec.levels),
        wrap=named(spec.wrap),
    )


def scheduler(spec: SchedulerSpec, owner: str) -> SchedulerSpec:
    return replace(spec, schedule=_named(spec.schedule, owner, spec.label, "schedule type", _sigmas))


def upscaler(spec: UpscalerSpec, owner: str) -> UpscalerSpec:
    return replace(spec, enlarge=_named(spec.enlarge, owner, spec.name, "upscaler", _picture))


def face_restorer(spec: FaceRestorerSpec, owner: str) -> FaceRestorerSpec:
    return replace(spec, restore=_named(spec.restore, owner, spec.name, "face restorer", _same_size))


def _named(function: F, owner: str, what: str, kind: str, check: Check = lambda answer, *given: None) -> F:
    """``function``, whose own errors are told with the extension's name; those of ours that it calls pass."""
    if function is None:
        return function
    inner = function

    @functools.wraps(inner)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            answer = inner(*arguments, **options)
            check(answer, *arguments)
            return answer
        except RepriseError:
            raise
        except Exception as error:
            if out_of_memory(error) or any(map(_is_ours, _frames(error.__traceback__))):
                raise
            line = next(iter(str(error).splitlines()), "")[:300]
            reason = f"{type(error).__name__}: {line}" if line else type(error).__name__
            log.warning("extension %s failed in %s", owner, what, exc_info=error)
            raise ExtensionFailed(
                f"extension {owner} failed in {what} ({reason})", hint=f"choose another {kind}, and tell its author"
            ) from error

    return call  # type: ignore[return-value]


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    while traceback:
        yield traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next


def _is_ours(file: str) -> bool:
    return file.startswith(_OURS) and file not in (__file__, check_given.__code__.co_filename)


def _same_shape(answer: Any, denoise: Any, x: Any, *given: Any) -> None:
    if getattr(answer, "shape", None) != x.shape:
        raise TypeError(f"it must answer a tensor of shape {tuple(x.shape)}")


def _sigmas(answer: Any, n: int, *given: Any) -> None:
    sigmas = [float(sigma) for sigma in answer]
    if len(sigmas) != n + 1 or not all(math.isfinite(sigma) and sigma >= 0 for sigma in sigmas):
        raise ValueError(f"it must answer {n} sigmas and 0")


def _picture(answer: Any, *given: Any) -> None:
    check_given(answer)


def _same_size(answer: Any, image: Any, *given: Any) -> None:
    if check_given(answer).size != image.size:
        raise ValueError(f"it must give a picture of {image.width} x {image.height} pixels")
