"""The generation text: what it keeps of a request, and what it does with bad text."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.errors import UserError
from modules.infotext import MAX_LENGTH, Paste, params_from, read, unquote, version_number, write
from modules.options import from_flat, options_of
from modules.options import read as read_options
from modules.params import MAX_SEED, GenerationParams, Hires, Init, Mask, Refiner
from modules.registry import Registry


def sample(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is sampled here")


SPECS = (
    SamplerSpec("Euler a", sample, ("k_euler_a",), eta=1.0, marks_ensd=True),
    SamplerSpec("Euler", sample, ("k_euler",)),
    SamplerSpec("DPM++ 2M", sample, ("k_dpmpp_2m",), default_scheduler="karras"),
    SamplerSpec("DDIM", sample, own_schedule=lambda n, table: [], eta=0.0),
)
SAMPLERS: Registry[SamplerSpec] = Registry("sampler")
for spec in SPECS:
    SAMPLERS.add(spec.name, spec, spec.aliases)

LABELS = ("Automatic", "Uniform", "Karras", "Exponential")
SCHEDULERS: Registry[SchedulerSpec] = Registry("schedule type", field="scheduler")
for label in LABELS:
    SCHEDULERS.add(label, SchedulerSpec(label.lower(), label, None), (label.lower(),))


def text_of(params: GenerationParams, **changes: Any) -> str:
    spec = SAMPLERS.get(params.sampler)
    used = params.scheduler
    if used == "Automatic" and not spec.own_schedule:
        used = SCHEDULERS.canonical(spec.default_scheduler or "uniform")
    facts: dict[str, Any] = {"version": "Reprise 0.1.0", "model_name": "mini, v1: a", "model_hash": "0123456789"}
    return write(params, seed=params.seed, subseed=params.subseed, sampler=spec, scheduler=used, **(facts | changes))


def paste(text: str, **changes: Any) -> Paste:
    return params_from(read(text), SAMPLERS, SCHEDULERS, **changes)


def line(text: str) -> str:
    return text.splitlines()[-1]


# What A1111's text can carry: no comments, lines without blanks at their ends, none a heading, the first one not empty.
lines = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n#")).map(str.strip), max_size=4)
prompts = (
    lines.map(lambda found: "\n".join(found).strip())
    .map(lambda text: "\n".join(part.strip() for part in text.split("\n")).strip())
    .filter(lambda text: not any(part.startswith("Negative prompt:") for part in text.split("\n")))
)


def numbers(name: str) -> st.SearchStrategy[float]:
    option = options_of(GenerationParams)[name]
    return st.floats(option.lo, option.hi, allow_nan=False)


requests = st.builds(
    GenerationParams,
    prompt=prompts,
    negative_prompt=prompts,
    sampler=st.sampled_from([spec.name for spec in SPECS]),
    scheduler=st.sampled_from(LABELS),
    steps=st.integers(1, 150),
    cfg_scale=numbers("cfg_scale"),
    width=st.integers(8, 256).map(lambda n: 8 * n),
    height=st.integers(8, 256).map(lambda n: 8 * n),
    seed=st.integers(0, MAX_SEED),
    subseed=st.integers(0, MAX_SEED),
    subseed_strength=numbers("subseed_strength"),
    eta=st.none() | numbers("eta"),
    ensd=st.integers(-MAX_SEED, MAX_SEED),
    clip_skip=st.integers(1, 12),
    rng=st.sampled_from(["NV", "CPU"]),
    profile=st.sampled_from(["a1111", "exact"]),
)


def meant(params: GenerationParams) -> GenerationParams:
    """The same request without what has no effect on its image, or none that A1111's text tells."""
    spec = SAMPLERS.get(params.sampler)
    eta = None if spec.eta is None or params.eta == spec.eta else params.eta
    told = spec.marks_ensd and eta != 0
    favourite = params.scheduler.lower() == spec.default_scheduler
    return params.changed(
        subseed=params.subseed if params.subseed_strength else -1,
        eta=eta,
        ensd=params.ensd if told else 0,
        scheduler="Automatic" if favourite else params.scheduler,
    )


@settings(max_examples=100, deadline=None)
@given(requests)
def test_a_text_gives_back_the_request_it_was_written_for(params: GenerationParams) -> None:
    pasted = paste(text_of(params))
    assert GenerationParams().changed(**pasted.changes) == meant(params)
    assert pasted.notes == ()


def test_text_of_a_plain_request() -> None:
    params = GenerationParams(prompt="a red fox", negative_prompt="blurry", seed=7)
    assert text_of(params) == (
        "a red fox\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.0, Seed: 7, Size: 512x512, "
        'Model hash: 0123456789, Model: "mini, v1: a", RNG: NV, Version: Reprise 0.1.0'
    )


def test_comments_are_not_written() -> None:
    assert text_of(GenerationParams(prompt="a cat # mine\nin snow", negative_prompt="# all")).startswith(
        "a cat \nin snow\n"
    )


@pytest.mark.parametrize(
    ("prompt", "used"), [("(a)", True), ("[a]", True), ("(a:1.0)", False), (r"\(a\)", False), ("a BREAK b", False)]
)
def test_emphasis_is_noticed(prompt: str, used: bool) -> None:
    assert ("Emphasis" in read(prompt)) == used


def test_the_scheduler_used_is_named_where_the_sampler_has_a_favourite() -> None:
    assert "Schedule type: Karras," in text_of(GenerationParams(sampler="DPM++ 2M"))
    assert "Schedule type: Automatic," in text_of(GenerationParams(sampler="Euler"))
    assert "Schedule type: Exponential," in text_of(GenerationParams(sampler="DDIM", scheduler="Exponential"))


def test_eta_has_the_key_of_its_family_and_its_place_among_the_extra_keys() -> None:
    assert "Eta" not in text_of(GenerationParams(eta=1.0))
    assert "Eta DDIM: 0.5," in text_of(GenerationParams(sampler="DDIM", eta=0.5))
    extra = {"My script": 1, "Lora hashes": "a: 1", "Sigma churn": 2.0}
    text = text_of(GenerationParams(eta=0.5, profile="exact"), extra=extra)
    assert 'RNG: NV, My script: 1, Lora hashes: "a: 1", Eta: 0.5, Sigma churn: 2.0, Profile: exact, Version' in text


def test_profile_is_written_only_where_it_is_not_a1111() -> None:
    assert "Profile" not in text_of(GenerationParams())
    assert ", Profile: exact, Version" in text_of(GenerationParams(profile="exact"))


def test_our_version_switches_no_old_behaviour_on() -> None:
    parsed = read(text_of(GenerationParams(prompt="[a:b:3]", sampler="DDIM")))
    assert not {"Downcast alphas_cumprod", "Pad conds v0", "Old prompt editing timelines"} & parsed.keys()


def test_old_versions_are_visible_when_pasted() -> None:
    old = "a [b:c:3]\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x512, Version: v1.5.1"
    assert paste(old).notes == (
        "not used here: Old prompt editing timelines: True, Pad conds v0: True, Downcast alphas_cumprod: True",
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("v1.10.1", (1, 10, 1, 0)),
        ("1.4.0", (1, 4, 0, 0)),
        ("v1.7.0-225-gabcdef", (1, 7, 0, 225)),
        ("v1.6.0-RC-12-g1234567", (1, 6, 0, -1)),
        ("v1.8.0rc1", (1, 8, 0, -1)),
        ("f0.0.17v1.8.0rc-latest-277-g0af28699", None),
        ("Reprise 0.1.0", None),
        ("", None),
    ],
)
def test_versions_are_read_as_numbers(text: str, number: tuple[int, ...] | None) -> None:
    assert version_number(text) == number


def test_a_prompt_alone_changes_the_prompts_alone() -> None:
    assert paste("a fox\nNegative prompt: a dog").changes == {"prompt": "a fox", "negative_prompt": "a dog"}


def test_gpu_noise_becomes_its_software_twin() -> None:
    assert paste("x\nSteps: 20, Sampler: Euler, Seed: 1").changes["rng"] == "NV"
    assert paste("x\nSteps: 20, Sampler: Euler, Seed: 1, RNG: CPU").changes["rng"] == "CPU"


def test_old_sampler_names_and_aliases_are_understood() -> None:
    old = paste("x\nSteps: 20, Sampler: Euler Karras, Seed: 1").changes
    assert (old["sampler"], old["scheduler"]) == ("Euler", "Karras")
    alias = paste("x\nSteps: 20, Sampler: k_dpmpp_2m, Seed: 1, Schedule type: karras").changes
    assert (alias["sampler"], alias["scheduler"]) == ("DPM++ 2M", "Automatic")


def test_what_cannot_be_followed_is_said_and_the_rest_is_done() -> None:
    pasted = paste("x\nSteps: 10000, Sampler: Eule a, CFG scale: warm, Seed: 5, Size: 1x64, Face restoration: x")
    assert pasted.changes["seed"] == 5
    assert pasted.changes["height"] == 64
    assert not {"steps", "sampler", "cfg_scale", "width"} & pasted.changes.keys()
    assert pasted.notes == (
        "no sampler named 'Eule a'; it was left as it is",
        "Steps must be between 1 and 150, not '10000'; it was left as it is",
        "CFG scale must be a number, not 'warm'; it was left as it is",
        "Width must be between 64 and 2048, not '1'; it was left as it is",
        "not used here: Face restoration: x",
    )


def test_the_checkpoint_is_found_by_name_and_hash() -> None:
    asked = []

    def find(name: str, sha: str) -> str | None:
        asked.append((name, sha))
        return "mini" if sha == "abcdef0123" else None

    text = "x\nSteps: 20, Sampler: Euler, Seed: 1, Model hash: abcdef0123, Model: other"
    assert paste(text, find_checkpoint=find).changes["checkpoint"] == "mini"
    assert "checkpoint" not in paste(text.replace("abcdef", "000000"), find_checkpoint=find).changes
    assert asked == [("other", "abcdef0123"), ("other", "0000000123")]


@pytest.mark.parametrize("text", ['"', '""', '"a', '"\\"', '"\\x"', 'a"'])
def test_what_is_no_json_string_is_kept(text: str) -> None:
    assert unquote(text) == ("" if text == '""' else text)


HOSTILE = {
    "word": "a",
    "blank": " ",
    "pair": "aa:",
    "open quote": 'aa: "',
    "escapes": '"\\',
    "quote pairs": 'aa: "\\", ',
    "colons": ":",
    "negative": "Negative prompt:\n",
    "brackets": "[(",
    "lines": "\n\n ",
    "numbers": "9",
    "commas": "aa: 1,",
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_read_in_time_proportional_to_its_length(piece: str) -> None:
    text = f"x\nSteps: 1, Size: {piece * MAX_LENGTH}"[:MAX_LENGTH]
    start = time.process_time()
    paste(text)
    paste(piece * (MAX_LENGTH // len(piece)))
    assert time.process_time() - start < 1.0


def test_text_over_the_limit_is_refused() -> None:
    with pytest.raises(UserError, match="65,537 characters and the limit is 65,536"):
        read("x" * (MAX_LENGTH + 1))


PIECES = [
    "Steps",
    "Size",
    "Version",
    "Hypernet",
    "First pass size",
    ": ",
    "9x9",
    "0x0",
    "v1.2.3",
    '"',
    "\\",
    ",",
    "\n",
    "猫",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(st.characters(), max_size=50))
def test_any_text_is_read_and_pasted(text: str) -> None:
    assert isinstance(paste(text), Paste)


# ------------------------------------------------------------------------------------------------- pictures and passes

START = Init(
    image="0" * 64,
    denoising_strength=0.4,
    resize_mode="Crop and resize",
    exact_steps=True,
    noise_multiplier=0.9,
    extra_noise=0.1,
    colour_correction=True,
    mask=Mask(image="1" * 64, blur=8, invert=True, content="latent noise", only_masked=True, padding=16),
)
SECOND = Hires(
    width=1024,
    height=768,
    upscaler="Lanczos",
    steps=7,
    denoising_strength=0.3,
    sampler="Euler",
    scheduler="Karras",
    prompt="a, b: c",
    negative_prompt="d",
    cfg_scale=4.0,
    checkpoint="other",
)


def written(params: GenerationParams) -> str:
    return write(params, seed=1, subseed=2, sampler=SAMPLERS.get(params.sampler), scheduler="Uniform")


def test_a_start_picture_and_its_mask_are_told_and_read() -> None:
    text = written(GenerationParams(prompt="x", init=START))
    assert "Denoising strength: 0.4" in text
    assert "Mask mode: Inpaint not masked, Mask blur: 8, Inpaint area: Only masked, Masked area padding: 16" in text
    assert "Masked content: latent noise" in text
    pasted = paste(text)
    assert not pasted.notes
    found = from_flat(Init, pasted.start | {"image": "0" * 64, "mask_image": "1" * 64})
    assert read_options(Init, found) == START
    assert pasted.changes["hires"] is None


@pytest.mark.parametrize("hires", [SECOND, Hires(), Hires(scale=1.5, denoising_strength=0.5)])
def test_a_second_pass_is_told_and_read(hires: Hires) -> None:
    params = GenerationParams(prompt="x", hires=hires)
    pasted = paste(written(params))
    assert not pasted.notes
    assert GenerationParams.from_json(params.to_json() | pasted.changes).hires == hires
    assert pasted.start == {}


def test_a_refiner_is_told_and_read() -> None:
    refiner = Refiner(checkpoint="finer", switch_at=0.6)
    text = written(GenerationParams(prompt="x", refiner=refiner))
    assert "Refiner: finer, Refiner switch at: 0.6" in text
    assert GenerationParams.from_json(paste(text).changes).refiner == refiner


def test_a_text_of_a_plain_picture_takes_the_second_pass_out() -> None:
    pasted = paste(written(GenerationParams(prompt="x")))
    assert pasted.changes["hires"] is None
    assert pasted.changes["refiner"] is None
    assert pasted.start == {}
