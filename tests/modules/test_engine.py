"""Params in, images out, on a tiny random model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
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
from modules.diffusion.types import SamplerSpec
from modules.engine import Engine, Progress, Result, RunCallbacks
from modules.errors import Cancelled, OutOfMemory, UnknownName, UserError
from modules.extension.host import Host, TagSpec
from modules.extension.modifier import Modifier, ModifierSpec
from modules.metadata import infotext
from modules.metadata.recipe import pixel_hash, read
from modules.params.generation import GenerationParams, Hires
from modules.pipeline.limits import Limits
from modules.replay import replay_recipe

PARAMS = GenerationParams(prompt="a red fox", negative_prompt="snow", width=64, height=64, steps=4, seed=7, subseed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    write_tiny_checkpoint(folder / "other.safetensors", seed=1)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    host = Host()
    register(host)
    device = Device(torch.device("cpu"), torch.float32)
    return Engine(ModelStore(folder, device, Hashes(), default="tiny"), host, version="0.0")


def run(engine: Engine, params: GenerationParams = PARAMS, **changes: Any) -> list[Result]:
    results: list[Result] = []
    engine.run(params.changed(**changes), results.append)
    return results


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image, np.int16)


@pytest.mark.parametrize("sampler", ["Euler a", "Euler", "Heun", "DPM++ 2M", "DDIM"])
def test_same_request_gives_the_same_bytes(engine: Engine, sampler: str) -> None:
    first, again = (run(engine, sampler=sampler)[0] for _ in range(2))
    assert first.image.size == (64, 64)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.recipe == again.recipe
    assert first.recipe.pixels == pixel_hash(first.image)
    assert len(np.unique(pixels(first.image))) > 8  # a picture, not a plain colour


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a blue fox"},
        {"prompt": "(a red fox:1.4)"},
        {"prompt": "[a red fox:a dog:2]"},
        {"prompt": "a red fox AND a dog"},
        {"negative_prompt": ""},
        {"seed": 8},
        {"cfg_scale": 3.0},
        {"steps": 5},
        {"sampler": "Heun"},
        {"scheduler": "Karras"},
        {"subseed_strength": 0.3},
        {"eta": 0.5},
        {"ensd": 31337},
        {"clip_skip": 2},
        {"rng": "CPU"},
        {"checkpoint": "other"},
        {"prompt": "(a red fox:1.4)", "emphasis": "No norm"},
        {"sampler": "Euler", "s_churn": 5.0},
        {"scheduler": "Karras", "sigma_max": 10.0},
        {"scheduler": "Karras", "use_old_karras_scheduler_sigmas": True},
        {"always_discard_next_to_last_sigma": True},
        {"sampler": "UniPC", "uni_pc_order": 1},
        {"seed_resize_from_w": 96, "seed_resize_from_h": 64},
        {"sd_noise_schedule": "Zero Terminal SNR"},
        {"sgm_noise_multiplier": True},
        {"use_downcasted_alpha_bar": True},
        {"cfg_rescale": 0.7},
        {"skip_early_cond": 0.3},
        {"s_min_uncond": 15.0},
        {"prompt": "[a red fox:a dog:1.0]", "use_old_scheduling": True},
    ],
    ids=str,
)
def test_every_parameter_matters(engine: Engine, changes: dict[str, Any]) -> None:
    assert run(engine)[0].recipe.pixels != run(engine, **changes)[0].recipe.pixels


def test_padding_matters_and_is_told_only_where_lengths_differ(engine: Engine) -> None:
    long = "snow, " * 60
    plain = run(engine, negative_prompt=long)[0]
    found = {plain.recipe.pixels}
    for name, key in (("pad_cond_uncond", "Pad conds"), ("pad_cond_uncond_v0", "Pad conds v0")):
        padded = run(engine, PARAMS.changed(negative_prompt=long, **{name: True}))[0]
        assert f"{key}: True" in padded.infotext
        found.add(padded.recipe.pixels)
        short = run(engine, PARAMS.changed(**{name: True}))[0]
        assert "Pad" not in short.infotext
        assert short.recipe.pixels == run(engine)[0].recipe.pixels
    assert len(found) == 3


def test_image_does_not_depend_on_its_company(engine: Engine) -> None:
    batch = run(engine, batch_size=3)
    for i, result in enumerate(batch):
        alone = run(engine, seed=7 + i)[0]
        assert result.recipe.seed == alone.recipe.seed == 7 + i
        assert np.abs(pixels(result.image) - pixels(alone.image)).max() <= 1
    counted = run(engine, batch_count=3)
    assert [r.recipe.seed for r in counted] == [7, 8, 9]


def test_negative_prompt_does_not_matter_at_scale_one(engine: Engine) -> None:
    one, other = run(engine, cfg_scale=1.0), run(engine, cfg_scale=1.0, negative_prompt="anything")
    assert one[0].image.tobytes() == other[0].image.tobytes()


def test_sizes_that_the_networks_do_not_divide_are_made(engine: Engine) -> None:
    assert run(engine, width=72, height=104)[0].image.size == (72, 104)


def test_long_prompt_is_made(engine: Engine) -> None:
    assert run(engine, prompt="a red fox, " * 60)[0].image.size == (64, 64)


def test_generation_text_says_what_was_done(engine: Engine) -> None:
    result = run(engine, batch_size=2)[1]
    parsed = infotext.read(result.infotext)
    assert (parsed["Prompt"], parsed["Negative prompt"]) == ("a red fox", "snow")
    assert (parsed["Seed"], parsed["Steps"], parsed["Model"]) == ("8", "4", "tiny")
    assert parsed["Model hash"] == result.recipe.files[0].sha256[:10]


def test_progress_comes_with_every_step_and_a_preview(engine: Engine) -> None:
    seen: list[Progress] = []
    engine.run(PARAMS.changed(batch_count=2), lambda _: None, RunCallbacks(on_progress=seen.append))
    assert [(p.first_image, p.step) for p in seen] == [(i, s) for i in (0, 1) for s in (1, 2, 3, 4)]
    assert [p.fraction for p in seen] == [n / 8 for n in range(1, 9)]
    assert seen[0].preview().size == (64, 64)


def test_stopping_ends_at_the_next_step_and_keeps_what_is_made(engine: Engine) -> None:
    results: list[Result] = []
    seen: list[Progress] = []
    watcher = RunCallbacks(seen.append, cancelled=lambda: len(seen) >= 6)
    with pytest.raises(Cancelled):
        engine.run(PARAMS.changed(batch_count=3), results.append, watcher)
    assert len(seen) == 6
    assert len(results) == 1


def test_interrupting_makes_the_image_at_hand_of_what_there_is_and_no_other(engine: Engine) -> None:
    results: list[Result] = []
    seen: list[Progress] = []
    watcher = RunCallbacks(seen.append, interrupted=lambda: len(seen) >= 6)
    with pytest.raises(Cancelled):
        engine.run(PARAMS.changed(batch_count=3), results.append, watcher)
    assert [result.recipe.skipped for result in results] == [0, 2]
    assert (len(seen), results[1].image.size) == (6, (64, 64))
    again = replay_recipe(engine, results[1].recipe)
    assert again.verdict.kind == "identical"
    seen.clear()
    with pytest.raises(Cancelled):  # nothing is sampled yet, so there is nothing to keep
        engine.run(PARAMS, results.append, RunCallbacks(seen.append, interrupted=lambda: True))
    assert (len(seen), len(results)) == (0, 2)


def skipped_after(step: int, engine: Engine, **changes: Any) -> list[Result]:
    """The images of a request whose owner skips the first one after ``step``."""
    results: list[Result] = []
    asked: list[int] = []

    def on_progress(progress: Progress) -> None:
        if progress.step == step and not asked:
            asked.append(step)

    engine.run(PARAMS.changed(**changes), results.append, RunCallbacks(on_progress, skips=lambda: len(asked)))
    return results


def test_a_skipped_image_is_made_from_what_there_is_and_the_next_are_as_ever(engine: Engine) -> None:
    first, *others = skipped_after(1, engine, sampler="Euler", scheduler="Karras", batch_count=3, cfg_scale=9)
    assert [result.recipe.skipped for result in (first, *others)] == [1, 0, 0]
    ever = run(engine, sampler="Euler", scheduler="Karras", batch_count=3, cfg_scale=9)
    assert [one.image.tobytes() for one in others] == [one.image.tobytes() for one in ever[1:]]
    assert "skipped" not in str(others[0].recipe)
    # One step of Euler from the highest sigma to 0 lands on the estimate; at scale 1 it is the positive prompt's.
    (oracle,) = run(engine, sampler="Euler", scheduler="Karras", steps=1, cfg_scale=1)
    assert np.abs(pixels(first.image) - pixels(oracle.image)).max() <= 1
    assert np.abs(pixels(first.image) - pixels(ever[0].image)).mean() > 1


def test_a_skip_leaves_out_the_second_pass_or_cuts_it_short(engine: Engine) -> None:
    hires: dict[str, Any] = {"hires": Hires(scale=2.0, upscaler="Latent", denoising_strength=0.7)}
    assert skipped_after(2, engine, **hires)[0].image.size == (64, 64)
    (late,) = skipped_after(6, engine, **hires)
    assert (late.image.size, late.recipe.skipped) == ((128, 128), 6)
    assert late.image.tobytes() != run(engine, **hires)[0].image.tobytes()


def test_what_was_skipped_is_skipped_again_by_a_replay(engine: Engine) -> None:
    for step, changes in ((2, {"batch_count": 2}), (3, {"batch_size": 2, "sampler": "DDIM"})):
        for result in skipped_after(step, engine, **changes):
            again = replay_recipe(engine, read(str(result.recipe)))
            assert again.verdict.kind == "identical", again.verdict
            assert again.result
            assert again.result.image.tobytes() == result.image.tobytes()


def test_images_that_exist_are_not_made_again(engine: Engine) -> None:
    whole = run(engine, batch_size=2, batch_count=2)
    rest: list[Result] = []
    engine.run(PARAMS.changed(batch_size=2, batch_count=2), rest.append, made=3)
    assert [r.recipe for r in rest] == [whole[3].recipe]


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"steps": 0}, UserError), ({"sampler": "Eular"}, UnknownName), ({"prompt": "x" * 20_001}, UserError)],
)
def test_bad_request_touches_no_weight(folder: Path, changes: dict[str, Any], error: type[Exception]) -> None:
    host = Host()
    register(host)
    store = ModelStore(folder / "absent", Device(torch.device("cpu"), torch.float32), Hashes())
    with pytest.raises(error):
        run(Engine(store, host, version="0.0"), **changes)


def test_unknown_checkpoint_is_one_sentence(engine: Engine) -> None:
    with pytest.raises(UnknownName, match=r"no checkpoint named 'sd_xl'; there are 'other', 'tiny'"):
        run(engine, checkpoint="sd_xl")


def test_warming_up_leaves_no_trace_in_what_follows(engine: Engine) -> None:
    before = run(engine)[0].recipe
    assert engine.warm_up().name == "tiny"
    assert run(engine)[0].recipe == before


def test_networks_that_nothing_applies_are_said(folder: Path) -> None:
    host = Host()
    register(host)
    for name in host.tags.names():
        host.tags.remove(name)
    store = ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")
    engine, notes = Engine(store, host, version="0.0"), list[str]()
    params = PARAMS.changed(prompt="a fox <lora:ink:1> <lora:ink:2>", negative_prompt="<lora:b:1>", batch_count=2)
    engine.run(
        params.changed(hires=Hires(prompt="<lyco:c>", steps=1)), lambda _: None, RunCallbacks(on_note=notes.append)
    )
    said = "these networks of the prompt were not applied, as nothing here handles their kind: lora ink, lyco c"
    assert notes == [said]
    notes.clear()
    host.add_tag(TagSpec("lora", "nobody", lambda tags: {}))
    engine.run(params, lambda _: None, RunCallbacks(on_note=notes.append))
    assert notes == []


def test_memory_that_runs_out_is_one_sentence_and_the_next_request_is_made(folder: Path) -> None:
    def greedy(denoise: object, x: torch.Tensor, sigmas: object, **_: object) -> torch.Tensor:
        return x + torch.empty(2**50)

    host = Host()
    register(host)
    host.add_sampler(SamplerSpec("Greedy", greedy))
    store = ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")
    engine = Engine(store, host, version="0.0")
    with pytest.raises(OutOfMemory) as found:
        run(engine, sampler="Greedy")
    assert str(found.value) == "this machine has too little memory for this; make the picture or the batch smaller"
    assert len(run(engine)) == 1


def test_rounded_sizes_are_said(engine: Engine) -> None:
    notes: list[str] = []
    engine.run(PARAMS.changed(width=70), lambda _: None, RunCallbacks(on_note=notes.append))
    assert notes == ["width 70 was rounded to 64, a multiple of 8"]


def test_limits_hold_for_what_extensions_make_of_a_request_and_for_replays(folder: Path) -> None:
    @dataclass(frozen=True)
    class Nothing:
        """No options."""

    class Larger(Modifier):
        def revise(self, params: GenerationParams) -> GenerationParams:
            return params.changed(width=128, height=128)

    host = Host()
    register(host)
    host.add_modifier(ModifierSpec("larger", "Larger", Nothing, lambda _: Larger()))
    host.add_tag(TagSpec("large", "larger", lambda tags: {}))
    store = ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")
    engine = Engine(store, host, version="0.0", limits=Limits(64 * 64, 4))
    engine.warm_up()
    (made,) = run(engine)
    with pytest.raises(UserError, match=r"at most 0\.004096 megapixels"):
        run(engine, prompt="a fox <large:1>")
    recorded = replace(made.recipe, request=made.recipe.request.changed(steps=9))
    with pytest.raises(UserError, match="at most 4 steps"):
        replay_recipe(engine, recorded)
    assert replay_recipe(engine, made.recipe).verdict.kind == "identical"
