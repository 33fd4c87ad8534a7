"""The generation text: what it keeps of a request, and what it does with bad text."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modules.builtin import register
from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.manifest import Refused
from modules.extension.modifier import Modifier, ModifierSpec
from modules.metadata.infotext import (
    MAX_LENGTH,
    RESERVED,
    Paste,
    keys,
    params_from,
    read,
    unquote,
    version_number,
    write,
)
from modules.params.generation import (
    MAX_SEED,
    GenerationParams,
    Hires,
    Init,
    Mask,
    Refiner,
    SoftInpainting,
    TiledUpscale,
)
from modules.params.options import Option, from_flat, option, options_of
from modules.params.options import read as read_options
from modules.prompt.styles import Style

HOST = Host()
register(HOST)
SAMPLERS, SCHEDULERS = HOST.samplers, HOST.schedulers


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


# What A1111's text can carry (tests/modules/metadata/test_image_text.py has the rest, which the recipe keeps):
lines = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n#")).map(str.strip), max_size=4)
prompts = (
    lines.map(lambda found: "\n".join(found).strip())
    .map(lambda text: "\n".join(part.strip() for part in text.split("\n")).strip())
    .filter(lambda text: not any(part.startswith("Negative prompt:") for part in text.split("\n")))
)


def values(option: Option) -> st.SearchStrategy[Any]:
    """What the declaration allows, the default often."""
    found: st.SearchStrategy[Any]
    if isinstance(option.choices, tuple):
        found = st.sampled_from(option.choices)
    elif option.type is bool:
        found = st.booleans()
    elif option.type is int:
        found = st.integers(int(option.lo or 0), int(option.hi or 0))
    else:
        found = st.floats(option.lo, option.hi, allow_nan=False)
    return st.just(option.default) | found


OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": prompts,
    "negative_prompt": prompts,
    "sampler": st.sampled_from(SAMPLERS.names()),
    "scheduler": st.sampled_from(SCHEDULERS.names()),
    "width": st.integers(8, 256).map(lambda n: 8 * n),
    "height": st.integers(8, 256).map(lambda n: 8 * n),
    "seed": st.integers(0, MAX_SEED),
    "subseed": st.integers(0, MAX_SEED),
    "checkpoint": st.just(""),
    "vae": st.just("Automatic"),
    "text_encoder": st.just("Automatic"),
    "face_restorer": st.sampled_from(("CodeFormer", "GFPGAN")),
}
requests = st.builds(
    GenerationParams,
    **{name: OTHERS[name] if name in OTHERS else values(o) for name, o in options_of(GenerationParams).items()},
)

DEFAULT = GenerationParams()
UNTOLD = (
    "batch_size",
    "batch_count",
    "kernels",
    "enable_quantization",
    "use_old_karras_scheduler_sigmas",
)
"""A1111's text has no word for them."""
TAKEN = ("s_churn", "s_tmin", "s_tmax", "s_noise", "uni_pc_order", "uni_pc_variant", "uni_pc_lower_order_final")
SCHEDULED = ("sigma_min", "sigma_max", "always_discard_next_to_last_sigma", "rho", "beta_dist_alpha", "beta_dist_beta")


def meant(params: GenerationParams) -> GenerationParams:
    """The same request without what has no effect on its image, or none that A1111's text tells."""
    spec = SAMPLERS.get(params.sampler)
    favourite = SCHEDULERS.get(params.scheduler).name == spec.default_scheduler
    used = SCHEDULERS.canonical(spec.default_scheduler) if spec.default_scheduler else "Automatic"
    used = used if params.scheduler == "Automatic" else params.scheduler
    idle = {*UNTOLD, *(name for name in TAKEN if name not in spec.takes)}
    idle |= {"uni_pc_skip_type"} if params.sampler != "UniPC" else set()
    if spec.own_schedule or used == "Automatic":
        idle |= {*SCHEDULED} - ({"always_discard_next_to_last_sigma"} if not spec.own_schedule else set())
    idle |= {"rho"} if params.rho == {"Karras": 7.0, "Polyexponential": 1.0}.get(used, params.rho) else set()
    idle |= {"beta_dist_alpha", "beta_dist_beta"} if used != "Beta" else set()
    idle |= {"always_discard_next_to_last_sigma"} if spec.discard_next_to_last else set()
    idle |= {"sgm_noise_multiplier"} if spec.unit_start else set()
    idle |= {"s_min_uncond_all"} if not params.s_min_uncond else set()
    idle |= {"pad_cond_uncond"} if params.pad_cond_uncond_v0 else set()
    idle |= (
        {"seed_resize_from_w", "seed_resize_from_h"}
        if not params.seed_resize_from_w * params.seed_resize_from_h
        else set()
    )
    idle |= {"face_restorer"} if not params.restore_faces else set()
    idle |= {"code_former_weight"} if not params.restore_faces or params.face_restorer != "CodeFormer" else set()
    idle |= {"eta"} if spec.eta != 1.0 or params.eta == 1.0 else set()
    idle |= {"eta_ddim"} if spec.eta != 0.0 or params.eta_ddim == 0.0 else set()
    idle |= {"ensd"} if not spec.marks_ensd or params.eta == 0 else set()
    texts = f"{params.prompt}{params.negative_prompt}"  # without edits these are the texts encoded
    idle |= {"emphasis"} if not set("([") & set(texts) else set()
    idle |= {"sd_vae_encode_method"}  # no picture is encoded
    idle |= {"use_old_scheduling"}  # nor does it change anything without them
    return params.changed(
        **{name: getattr(DEFAULT, name) for name in idle},
        **({} if params.subseed_strength else {"subseed": -1}),
        scheduler="Automatic" if favourite else params.scheduler,
        rng="NV" if params.rng == "GPU" else params.rng,
    )


@settings(max_examples=100, deadline=None)
@given(requests)
@example(
    GenerationParams(prompt='"a: b", c:\n\nSteps: 20, Sampler: "Euler", Seed: 3', negative_prompt='{"Size": "1x1"}')
)
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
    assert "Eta DDIM: 0.5," in text_of(GenerationParams(sampler="DDIM", eta=0.3, eta_ddim=0.5))
    assert "Eta" not in text_of(GenerationParams(sampler="Euler", eta=0.3, eta_ddim=0.5))
    extra = {"My script": 1, "Lora hashes": "a: 1", "Sigma churn": 2.0}
    text = text_of(GenerationParams(eta=0.5, profile="exact"), extra=extra)
    assert 'RNG: NV, My script: 1, Lora hashes: "a: 1", Eta: 0.5, Sigma churn: 2.0, Profile: exact, Version' in text


def test_profile_is_written_only_where_it_is_not_a1111() -> None:
    assert "Profile" not in text_of(GenerationParams())
    assert ", Profile: exact, Version" in text_of(GenerationParams(profile="exact"))


def test_our_version_switches_no_old_behaviour_on() -> None:
    parsed = read(text_of(GenerationParams(prompt="[a:b:3]", sampler="DDIM")))
    assert not {"Downcast alphas_cumprod", "Pad conds v0", "Old prompt editing timelines"} & parsed.keys()


def test_old_behaviours_are_switched_on_visibly_when_pasted() -> None:
    old = paste("a [b:c:3]\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x512, Version: v1.5.1")
    on = ("use_old_scheduling", "pad_cond_uncond_v0", "use_downcasted_alpha_bar")
    assert [old.changes[name] for name in on] == [True] * 3
    assert old.notes == ("as A1111 v1.5.1 did it: Old prompt editing timelines, Pad conds v0, Downcast alphas_cumprod",)
    new = paste("a [b:c:3]\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 512x512, Version: v1.10.1")
    assert [new.changes[name] for name in on] == [False] * 3
    assert new.notes == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sampler": "Euler", "s_churn": 5.0, "s_tmin": 0.1, "s_tmax": 8.0, "s_noise": 1.01},
            "Sigma churn: 5.0, Sigma tmin: 0.1, Sigma tmax: 8.0, Sigma noise: 1.01",
        ),
        ({"s_churn": 5.0, "s_noise": 1.01}, ""),  # Euler a takes none of them
        (
            {"scheduler": "Karras", "sigma_min": 0.1, "sigma_max": 10.0, "rho": 5.0},
            "Schedule min sigma: 0.1, Schedule max sigma: 10.0, Schedule rho: 5.0",
        ),
        ({"sigma_min": 0.1, "rho": 5.0}, ""),  # Automatic without a favourite makes its own
        ({"scheduler": "Karras", "rho": 7.0}, ""),
        ({"scheduler": "Exponential", "rho": 5.0}, ""),
        ({"scheduler": "Beta"}, "Beta schedule alpha: 0.6, Beta schedule beta: 0.6"),
        ({"always_discard_next_to_last_sigma": True}, "Discard penultimate sigma: True"),
        ({"sampler": "DPM2", "always_discard_next_to_last_sigma": True}, ""),  # it always does
        ({"sgm_noise_multiplier": True}, "SGM noise multiplier: True"),
        ({"sampler": "DDIM", "sgm_noise_multiplier": True}, ""),
        ({"prompt": "(a:1.2)", "emphasis": "No norm"}, "Emphasis: No norm"),
        ({"prompt": "a [b:c:2]", "emphasis": "No norm"}, ""),  # the texts that are encoded have no brackets
        ({"prompt": "[a:b:0.5]", "use_old_scheduling": True}, ""),  # the same either way
        ({"prompt": "[a:b:1.0]", "use_old_scheduling": True}, "Old prompt editing timelines: True"),
        (
            {"sd_noise_schedule": "Zero Terminal SNR", "use_downcasted_alpha_bar": True},
            "Downcast alphas_cumprod: True, Noise Schedule: Zero Terminal SNR",
        ),
        (
            {"skip_early_cond": 0.4, "s_min_uncond": 3.0, "s_min_uncond_all": True},
            "Skip Early CFG: 0.4, NGMS: 3.0, NGMS all steps: True",
        ),
        ({"pad_cond_uncond": True, "pad_cond_uncond_v0": True}, "Pad conds v0: True"),
        (
            {"sampler": "UniPC", "uni_pc_order": 2, "uni_pc_skip_type": "logSNR"},
            "UniPC skip type: logSNR, UniPC order: 2",
        ),
    ],
    ids=str,
)
def test_keys_are_written_where_a1111_writes_them(changes: dict[str, Any], said: str) -> None:
    written = line(text_of(GenerationParams(**changes)))
    assert written.partition("RNG: NV, ")[2].removesuffix("Version: Reprise 0.1.0").removesuffix(", ") == said


def test_seed_resize_stands_among_the_seeds() -> None:
    params = GenerationParams(seed_resize_from_w=48, seed_resize_from_h=80)
    assert "Seed resize from: 48x80, RNG: NV" in text_of(params)
    assert "resize" not in text_of(params.changed(seed_resize_from_h=0))


def test_both_of_a1111_s_names_of_the_beta_schedule_are_read() -> None:
    for word in ("schedule", "scheduler"):
        text = f"x\nSteps: 20, Sampler: Euler, Seed: 1, Beta {word} alpha: 0.5, Beta {word} beta: 0.7"
        changes = paste(text).changes
        assert (changes["beta_dist_alpha"], changes["beta_dist_beta"]) == (0.5, 0.7)


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
    short = paste("x\nSteps: 20, Sampler: k_euler_ka, Seed: 1").changes
    assert (short["sampler"], short["scheduler"]) == ("Euler", "Karras")
    alias = paste("x\nSteps: 20, Sampler: k_dpmpp_2m, Seed: 1, Schedule type: karras").changes
    assert (alias["sampler"], alias["scheduler"]) == ("DPM++ 2M", "Automatic")


def test_what_cannot_be_followed_is_said_and_the_rest_is_done() -> None:
    pasted = paste("x\nSteps: 10000, Sampler: Eule a, CFG scale: warm, Seed: 5, Size: 1x64, Tiling: x")
    assert pasted.changes["seed"] == 5
    assert pasted.changes["height"] == 64
    assert not {"steps", "sampler", "cfg_scale", "width"} & pasted.changes.keys()
    assert pasted.notes == (
        "no sampler named 'Eule a'; it was left as it is",
        "Steps must be between 1 and 150, not '10000'; it was left as it is",
        "CFG scale must be a number, not 'warm'; it was left as it is",
        "Width must be between 64 and 2048, not '1'; it was left as it is",
        "not used here: Tiling: x",
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


def test_a_vae_is_found_by_name_and_one_that_is_not_here_is_said() -> None:
    text = "x\nSteps: 20, Sampler: Euler, Seed: 1, VAE hash: 735e4c3a44, VAE: fine.pt"
    found = paste(
        text, find_vae=lambda name, sha: "fine.safetensors" if (name, sha[:4]) == ("fine.pt", "735e") else None
    )
    assert (found.changes["vae"], found.notes) == ("fine.safetensors", ())
    lost = paste(text)
    assert "vae" not in lost.changes
    assert lost.notes == ("there is no VAE fine.pt here; it was left as it is",)
    assert paste(text[: text.index(", VAE")]).changes["vae"] == "Automatic"


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
    assert time.process_time() - start < 20.0  # a fraction of a second on a free core; by the square it would be hours


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


def test_soft_inpainting_is_told_in_a1111s_words_and_read() -> None:
    soft = SoftInpainting(preservation=2.0, mask_influence=0.25)
    start = Init(image="0" * 64, mask=Mask(image="1" * 64, blur=20, round=False, overlay=False, soft=soft))
    text = written(GenerationParams(prompt="x", init=start))
    assert (
        "Soft inpainting enabled: True, Soft inpainting schedule bias: 1, Soft inpainting preservation strength: 2, "
        "Soft inpainting transition contrast boost: 4, Soft inpainting mask influence: 0.25, "
        "Soft inpainting difference threshold: 0.5, Soft inpainting difference contrast: 2, Mask blur: 20"
    ) in text
    assert "Overlay original for inpaint: False" in text
    pasted = paste(text)
    assert not pasted.notes
    assert pasted.start["mask_soft"] is True
    found = read_options(Init, from_flat(Init, pasted.start | {"image": "0" * 64, "mask_image": "1" * 64}))
    assert found.mask
    assert (found.mask.soft, found.mask.overlay) == (soft, False)


def test_sd_upscale_is_told_and_read() -> None:
    start = Init(image="0" * 64, tiled=TiledUpscale(upscaler="Nearest", by=1.5, overlap=32))
    text = written(GenerationParams(prompt="x", init=start))
    assert "SD upscale overlap: 32, SD upscale upscaler: Nearest, SD upscale factor: 1.5" in text
    pasted = paste(text)
    assert not pasted.notes
    assert pasted.start["tiled"] is True
    found = read_options(Init, from_flat(Init, pasted.start | {"image": "0" * 64}))
    assert found.tiled == start.tiled


@pytest.mark.parametrize("hires", [SECOND, Hires(), Hires(scale=1.5, denoising_strength=0.5, extra_noise=0.1)])
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


WHOLE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 1125899906842624, 2**53 + 1, 6687881544318117707, 2**63, 2**64 - 1])
def test_seeds_of_other_programs_keep_all_their_digits(seed: int) -> None:
    found = paste(f"a fox\n{WHOLE.replace('Seed: 5', f'Seed: {seed}')}, Variation seed: {seed}")
    assert (found.changes["seed"], found.changes["subseed"], found.notes) == (seed, seed, ())


@pytest.mark.parametrize("seed", [2**64, -2, 10**30])
def test_seeds_that_no_generator_takes_are_told(seed: int) -> None:
    found = paste(f"a fox\n{WHOLE.replace('Seed: 5', f'Seed: {seed}')}")
    assert "Seed must be between -1 and 18446744073709551615" in found.notes[0]
    assert "seed" not in found.changes


@pytest.mark.parametrize(
    ("behind", "value"),
    [
        ("Template: a\nb {x|y}", "a\nb {x|y}"),
        ("Template: a\nb: c, Version: v1.6.0", "a\nb: c"),
        ('Template: "a, \nb", Version: v1.6.0', "a, \nb"),
        ("Template: a\n\n\nb", "a\n\n\nb"),
        ("Template: a\nwide: b, deep: c, high: d", "a\nwide: b"),
    ],
)
def test_a_value_may_have_line_breaks(behind: str, value: str) -> None:
    parsed = read(f"a fox\nin snow\nNegative prompt: bad\n{WHOLE}, {behind}")
    assert (parsed["Prompt"], parsed["Negative prompt"]) == ("a fox\nin snow", "bad")
    assert (parsed["Steps"], parsed["Seed"], parsed["Size-2"]) == ("20", "5", "512")
    assert parsed["Template"] == value


def test_words_behind_the_parameters_are_no_part_of_them() -> None:
    parsed = read(f"a fox\n{WHOLE}\nseen at a fair")
    assert (parsed["Prompt"], parsed["Size-1"], parsed["Size-2"]) == ("a fox", "512", "512")


def test_the_last_of_several_lines_of_steps_counts() -> None:
    parsed = read(f"a fox\nSteps: 9, Seed: 9, Size: 9x9\nNegative prompt: bad\n{WHOLE}, Template: a\nb")
    assert (parsed["Prompt"], parsed["Steps"]) == ("a fox\nSteps: 9, Seed: 9, Size: 9x9", "20")


JSON_VALUE = '[{"type":"checkpoint","Seed":77,"name":"a, b","Steps":[1,2]},{"Model":"x"}]'


@pytest.mark.parametrize("value", [JSON_VALUE, "{}", "[]", '{"a": {"Size": "8x8", "Seed: ": "1, 2"}}', "[1,\n 2]"])
def test_json_in_brackets_is_one_value(value: str) -> None:
    parsed = read(f"a fox\n{WHOLE}, Civitai resources: {value}, Model: mini")
    assert (parsed["Civitai resources"], parsed["Model"], parsed["Steps"], parsed["Seed"]) == (value, "mini", "20", "5")


@pytest.mark.parametrize("value", ["[half", "{x|y}", "[a] b", "[1] 2", "[" * 30_000])
def test_brackets_that_are_no_json_are_read_as_ever(value: str) -> None:
    parsed = read(f"a fox\n{WHOLE}, Refiner: {value}, Model: mini")
    assert (parsed["Refiner"], parsed["Model"]) == (value, "mini")


@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_keys_are_known_in_other_capitals(spelling: Any) -> None:
    keys = ("Steps", "Sampler", "CFG scale", "Seed", "Size", "Clip skip", "Negative prompt", "Denoising strength")
    text = f"a fox\nNegative prompt: bad\n{WHOLE}, Clip skip: 2, Denoising strength: 0.5, Hires upscale: 2"
    for key in (*keys, "Hires upscale"):
        text = text.replace(f"{key}:", f"{spelling(key)}:")
    changes = paste(text).changes
    assert (
        changes
        == paste(
            f"a fox\nNegative prompt: bad\n{WHOLE}, Clip skip: 2, Denoising strength: 0.5, Hires upscale: 2"
        ).changes
    )
    assert (changes["negative_prompt"], changes["clip_skip"], changes["hires"]["scale"]) == ("bad", 2, 2.0)


def test_a_key_as_a1111_writes_it_counts_before_one_in_other_capitals() -> None:
    parsed = read(f"seed: 3, steps: 4\nNegative prompt: b\nnegative prompt: c\nsteps: 1, seed: 2, {WHOLE}")
    assert (parsed["Steps"], parsed["Seed"], parsed["Negative prompt"]) == ("20", "5", "b\nnegative prompt: c")


@pytest.mark.parametrize(
    ("version", "found"),
    [("v1.7.0", True), ("v1.8.0", True), ("v1.8.0-139-gabc", True), ("v1.8.0-140-gabc", False), ("v1.10.1", False)],
)
def test_before_1_8_the_second_pass_had_no_styles_to_agree_with(version: str, found: bool) -> None:
    styles = [Style("nice", "{prompt}, very nice", "")]
    text = f"a fox, very nice\n{WHOLE}, Hires prompt: a fox in snow, Version: {version}"
    parsed = read(text, styles=styles)
    assert parsed["Prompt"] == ("a fox" if found else "a fox, very nice")
    assert parsed["Hires prompt"] == "a fox in snow"
    assert parsed.get("Styles array") == (["nice"] if found else None)


# ------------------------------------------------------------------------------------------------------------- keys


def test_every_declared_key_is_written_or_is_a_prompt() -> None:
    groups = [keys.name_of(option) for group in keys.GROUPS for option in options_of(group.cls).values() if option.key]
    assert set(groups) - {"Prompt", "Negative prompt"} <= keys.RESERVED


def test_what_a_missing_key_means_is_said_of_keys_that_there_are() -> None:
    named = {key.removesuffix("-1").removesuffix("-2") for key in (*keys.DEFAULTS, *keys.OLD_BEHAVIOURS)}
    assert named <= keys.RESERVED


@dataclass(frozen=True)
class Later:
    brightness: float = option(0.5, "Brightness", lo=0.0, hi=1.0, key="Brightness")
    upside_down: bool = option(False, "Upside down", key="Turned", words=("No", "Yes"))
    silent: int = option(1, "Silent", lo=0, hi=9)


def test_an_option_that_no_table_places_is_written_last_where_it_is_not_the_default() -> None:
    def texts(later: Later) -> list[Any]:
        table = keys.completed([("First", lambda f: 1)], [keys.Group(Later, lambda params: later)], before=["Before"])
        assert list(table) == ["First", "Brightness", "Turned"]
        facts = keys.Facts(GenerationParams(), 1, 1, SAMPLERS.get("Euler"), "Karras")
        return [value(facts) for value in table.values()]

    assert texts(Later()) == [1, None, None]
    assert texts(Later(0.75, True, 3)) == [1, 0.75, "Yes"]


def test_no_modifier_takes_a_label_that_the_text_uses_for_something_else() -> None:
    host = Host(reserved=RESERVED)
    for label in ("Steps", "Mask blur", "Refiner", "Profile", "x"):
        with pytest.raises(Refused, match="cannot say"):
            host.add_modifier(ModifierSpec("mine", label, Later, lambda options: Modifier()))
    host.add_modifier(ModifierSpec("mine", "Steps of mine", Later, lambda options: Modifier()))
