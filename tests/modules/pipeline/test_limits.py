"""The largest request that is allowed."""

from __future__ import annotations

from typing import Any

import pytest

import app
from modules.cli.parser import said_limits
from modules.errors import UserError
from modules.params.generation import BY, TO, ExtrasParams, GenerationParams, Hires, Init, TiledUpscale
from modules.pipeline.limits import NO_LIMITS, Limits

LIMITS = Limits(512 * 512, 50)


def picture(key: str) -> tuple[int, int]:
    return {"a" * 64: (256, 128), "b" * 64: (400, 400)}[key]


def upscaled(key: str, by: float, upscaler: str = "Lanczos") -> GenerationParams:
    init = Init(key * 64, tiled=TiledUpscale(upscaler, by))
    return GenerationParams(width=64, height=64, init=init)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        (GenerationParams(width=512, height=512, steps=50), ""),
        (GenerationParams(width=512, height=520), "width"),
        (GenerationParams(width=256, height=256, hires=Hires(scale=2.0, steps=50)), ""),
        (GenerationParams(width=256, height=256, hires=Hires(scale=2.1)), "hires.scale"),
        (GenerationParams(width=64, height=64, hires=Hires(width=2048, height=64)), "hires.scale"),  # 2048x2048, cut
        (GenerationParams(width=1024, height=512, hires=Hires(width=256, height=128)), "width"),  # the first is larger
        (GenerationParams(width=64, height=64, steps=51), "steps"),
        (GenerationParams(width=64, height=64, hires=Hires(steps=51)), "hires.steps"),
        (upscaled("a", 2.0), ""),  # 512x256
        (upscaled("a", 4.0), "init.tiled.by"),  # 1024x512
        (upscaled("b", 1.5), "init.tiled.by"),  # 600x600
        (upscaled("b", 4.0, "None"), ""),  # keeps its size
    ],
)
def test_every_pass_is_held_against_the_limits(params: GenerationParams, field: str) -> None:
    NO_LIMITS.check(params, picture)
    if not field:
        return LIMITS.check(params, picture)
    with pytest.raises(UserError, match=r"at most (0\.262144 megapixels|50 steps)") as caught:
        LIMITS.check(params, picture)
    assert caught.value.field == field
    return None


@pytest.mark.parametrize(
    ("params", "size", "allowed"),
    [
        ({"resize": BY, "by": 2.0}, (256, 256), True),
        ({"resize": BY, "by": 2.0}, (256, 264), False),
        ({"resize": TO, "width": 512, "height": 512}, (64, 64), True),
        ({"resize": TO, "width": 512, "height": 512}, (64, 32), False),  # 1024x512, then cropped
        ({"resize": BY, "by": 8.0, "upscaler": "None"}, (256, 256), True),
    ],
)
def test_what_extras_enlarge_is_held_against_them_too(
    params: dict[str, Any], size: tuple[int, int], allowed: bool
) -> None:
    asked = ExtrasParams(**{"upscaler": "Lanczos", **params})
    NO_LIMITS.check_extras(asked, size)
    if allowed:
        return LIMITS.check_extras(asked, size)
    with pytest.raises(UserError, match="megapixels"):
        LIMITS.check_extras(asked, size)
    return None


def test_a_model_is_warmed_up_within_the_limits() -> None:
    allowed = {0: 1024, 10**7: 1024, 512 * 512: 512, 300 * 300: 256, 10_000: 64}
    assert {pixels: Limits(pixels).side(1024) for pixels in allowed} == allowed


@pytest.mark.parametrize("said", [[], ["--max-megapixels", "0.5", "--max-steps", "30"]])
def test_the_worker_process_knows_the_limits_of_the_server(said: list[str]) -> None:
    args = app.build_parser().parse_args(said)
    again = app.build_parser().parse_args(["worker", *said_limits(args)])
    assert app.limits_of(again) == app.limits_of(args) == (Limits(500_000, 30) if said else NO_LIMITS)
