"""Decisions made before any weight is touched."""

from __future__ import annotations

from typing import Any

import pytest

from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.errors import UnknownName, UserError
from modules.extension.host import Host
from modules.params.generation import MAX_SEED, GenerationParams
from modules.pipeline.plan import check, fix_seeds, make_plan


def never(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("a plan computes nothing")


@pytest.fixture
def host() -> Host:
    host = Host()
    host.add_sampler(SamplerSpec("Euler a", never, aliases=("k_euler_a",)))
    host.add_sampler(SamplerSpec("Heun", never, second_order=True))
    host.add_sampler(SamplerSpec("DPM++ 2M", never, default_scheduler="karras"))
    host.add_sampler(SamplerSpec("DDIM", never, own_schedule=never))
    host.add_scheduler(SchedulerSpec("automatic", "Automatic", None))
    host.add_scheduler(SchedulerSpec("uniform", "Uniform", never))
    host.add_scheduler(SchedulerSpec("karras", "Karras", never))
    return host


def test_images_count_their_seeds_on_over_batches(host: Host) -> None:
    plan = make_plan(GenerationParams(seed=10, subseed=70, batch_size=2, batch_count=2), host)
    assert [batch.seeds for batch in plan.batches] == [(10, 11), (12, 13)]
    assert [batch.subseeds for batch in plan.batches] == [(70, 71), (72, 73)]
    assert [batch.first_image for batch in plan.batches] == [0, 2]
    assert plan.images == 4


def test_behind_the_last_seed_comes_the_first(host: Host) -> None:
    (batch,) = make_plan(GenerationParams(seed=MAX_SEED - 1, subseed=MAX_SEED, batch_size=3), host).batches
    assert (batch.seeds, batch.subseeds) == ((MAX_SEED - 1, MAX_SEED, 0), (MAX_SEED, 0, 1))


def test_a_variation_keeps_the_main_seed(host: Host) -> None:
    plan = make_plan(GenerationParams(seed=10, subseed=70, subseed_strength=0.2, batch_size=3), host)
    assert plan.batches[0].seeds == (10, 10, 10)
    assert plan.batches[0].subseeds == (70, 71, 72)


def test_random_seeds_are_drawn_once_and_kept(host: Host) -> None:
    fixed = fix_seeds(GenerationParams(subseed_strength=0.1))
    assert fixed.seed >= 0
    assert fixed.subseed >= 0
    assert make_plan(fixed, host).batches[0].seeds == (fixed.seed,)
    assert fix_seeds(fixed) == fixed
    assert fix_seeds(GenerationParams()).subseed == 0  # without strength it means nothing
    assert fix_seeds(GenerationParams()).seed != fixed.seed  # one chance in four thousand million to be equal


@pytest.mark.parametrize(
    ("sampler", "wanted", "used"),
    [
        ("DPM++ 2M", "Automatic", "karras"),
        ("Euler a", "Automatic", "uniform"),
        ("Euler a", "Karras", "karras"),
        ("DDIM", "Automatic", "automatic"),
    ],
)
def test_automatic_is_the_samplers_own_choice(host: Host, sampler: str, wanted: str, used: str) -> None:
    plan = make_plan(GenerationParams(sampler=sampler, scheduler=wanted), host)
    assert plan.batches[0].scheduler.name == used


def test_names_become_canonical(host: Host) -> None:
    params, _ = check(GenerationParams(sampler="k_euler_a", scheduler="KARRAS"), host)
    assert (params.sampler, params.scheduler) == ("Euler a", "Karras")


def test_second_order_samplers_double_the_prompts_steps_only_as_a1111_does(host: Host) -> None:
    params = GenerationParams(sampler="Heun", steps=10)
    assert make_plan(params, host).batches[0].schedule_steps == 20
    assert make_plan(params.changed(profile="exact"), host).batches[0].schedule_steps == 10


def test_sizes_are_rounded_to_multiples_of_eight_and_said_so(host: Host) -> None:
    plan = make_plan(GenerationParams(width=515, height=64), host)
    assert (plan.params.width, plan.params.height) == (512, 64)
    assert plan.notes == ("width 515 was rounded to 512, a multiple of 8",)


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"steps": 0}, "steps", "between 1 and 150"),
        ({"steps": 10_000}, "steps", "between 1 and 150"),
        ({"width": 7}, "width", "between 64 and 2048"),
        ({"height": 10**9}, "height", "between 64 and 2048"),
        ({"batch_size": 10**6}, "batch_size", "between 1 and 16"),
        ({"seed": -2}, "seed", "Seed must be between"),
        ({"cfg_scale": float("nan")}, "cfg_scale", "must be a number"),
        ({"prompt": "x" * 100_000}, "prompt", "100,000 characters and the limit is 20,000"),
        ({"profile": "mine"}, "profile", "one of a1111, exact"),
    ],
)
def test_impossible_request_is_one_sentence_that_names_its_field(
    host: Host, changes: dict[str, Any], field: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        make_plan(GenerationParams(**changes), host)
    assert error.value.field == field


def test_unknown_sampler_is_answered_with_the_nearest(host: Host) -> None:
    with pytest.raises(UnknownName, match=r"no sampler named 'Euler B'; did you mean 'Euler a'\?"):
        make_plan(GenerationParams(sampler="Euler B"), host)


def test_empty_prompt_is_a_request_like_any_other(host: Host) -> None:
    assert make_plan(GenerationParams(prompt=""), host).images == 1


@pytest.mark.parametrize(
    ("asked", "sampler", "scheduler", "note"),
    [
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras", "sampler DPM++ 2M Karras is DPM++ 2M with schedule type Karras"),
        ("Euler a uniform", "Euler a", "Uniform", "sampler Euler a uniform is Euler a with schedule type Uniform"),
        ("k_euler_a_ka", "Euler a", "Karras", "sampler k_euler_a_ka is Euler a with schedule type Karras"),
        ("k_euler_a", "Euler a", "Automatic", "sampler k_euler_a is Euler a"),
        ("euler A", "Euler a", "Automatic", ""),
    ],
)
def test_old_sampler_names_are_understood_and_said(
    host: Host, asked: str, sampler: str, scheduler: str, note: str
) -> None:
    params, notes = check(GenerationParams(sampler=asked), host)
    assert (params.sampler, params.scheduler) == (sampler, scheduler)
    assert notes == ((note,) if note else ())


def test_an_unknown_name_with_a_known_schedule_is_still_unknown(host: Host) -> None:
    with pytest.raises(UnknownName, match="no sampler named 'Eule a Karras'"):
        check(GenerationParams(sampler="Eule a Karras"), host)


def test_a_sampler_that_couples_a_batch_gets_one_image_at_a_time_where_kernels_are_exact(host: Host) -> None:
    host.add_sampler(SamplerSpec("DPM adaptive", never, couples_batch=True))
    params = GenerationParams(sampler="DPM adaptive", seed=3, batch_size=2, kernels="exact")
    assert [batch.seeds for batch in make_plan(params, host).batches] == [(3,), (4,)]
    assert [batch.seeds for batch in make_plan(params.changed(kernels="fast"), host).batches] == [(3, 4)]
