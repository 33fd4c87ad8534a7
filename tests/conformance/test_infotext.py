"""The generation text as A1111 1.10 writes and reads it."""

from __future__ import annotations

from typing import Any

import pytest

from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.infotext import quote, read, sampler_and_scheduler, unquote, write
from modules.params import GenerationParams
from modules.registry import Registry
from modules.styles import Style, apply

Case = dict[str, Any]


def sample(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is sampled here")


SAMPLERS: Registry[SamplerSpec] = Registry("sampler")
for name, alias, default, ensd in (
    ("DPM++ 2M", "k_dpmpp_2m", "karras", False),
    ("DPM++ SDE", "k_dpmpp_sde", "karras", False),
    ("DPM++ 2M SDE", "k_dpmpp_2m_sde", "exponential", False),
    ("Euler a", "k_euler_a", "", True),
    ("Euler", "k_euler", "", False),
    ("Heun", "k_heun", "", False),
    ("DPM fast", "k_dpm_fast", "", True),
    ("DDIM", "ddim", "", False),
    ("PLMS", "plms", "", False),
):
    SAMPLERS.add(name, SamplerSpec(name, sample, (alias,), default, eta=1.0, marks_ensd=ensd), (alias,))

SCHEDULERS: Registry[SchedulerSpec] = Registry("schedule type")
for key, label, aliases in (
    ("automatic", "Automatic", ()),
    ("uniform", "Uniform", ()),
    ("karras", "Karras", ()),
    ("exponential", "Exponential", ()),
    ("sgm_uniform", "SGM Uniform", ("SGMUniform",)),
    ("ddim", "DDIM", ()),
):
    SCHEDULERS.add(label, SchedulerSpec(key, label, None, aliases), (key, *aliases))

FIELDS = ("prompt", "negative_prompt", "steps", "cfg_scale", "width", "height")

OPTIONS = {
    "CLIP_stop_at_last_layers": "clip_skip",
    "eta_noise_seed_delta": "ensd",
    "randn_source": "rng",
}
"""A1111's settings that are parameters here."""


def extra_of(given: Case) -> Case:
    """What the reference works out from parts that we do not have; the text puts it where it belongs."""
    options = given.get("options", {})
    resize = given.get("seed_resize_from_w", 0), given.get("seed_resize_from_h", 0)
    extra: Case = {
        "Image CFG scale": given.get("image_cfg_scale"),
        "Face restoration": options.get("face_restoration_model", "CodeFormer") if given.get("restore_faces") else None,
        "FP8 weight": options.get("fp8_storage"),
        "Cache FP16 weight for LoRA": options.get("cache_fp16_weight"),
        "VAE hash": given.get("sd_vae_hash"),
        "VAE": given.get("sd_vae_name"),
        "Seed resize from": "{}x{}".format(*resize) if all(resize) else None,
        "Token merging ratio": given.get("token_merging_ratio"),
        "Token merging ratio hr": options.get("token_merging_ratio_hr"),
        "Init image hash": given.get("init_img_hash"),
        "Tiling": given.get("tiling"),
    }
    if given.get("is_using_inpainting_conditioning"):
        extra["Conditional mask weight"] = options.get("inpainting_mask_weight", 1.0)
    return extra


@pytest.mark.golden("infotext.json", "generate")
def test_text_is_written_as_the_reference_writes_it(case: Case) -> None:
    given = case["input"]
    options = given.get("options", {})
    fields = {
        name: given[name]
        for name in ("prompt", "negative_prompt", "steps", "cfg_scale", "width", "height")
        if name in given
    }
    fields |= {ours: options[theirs] for theirs, ours in OPTIONS.items() if theirs in options}
    params = GenerationParams(
        sampler=given.get("sampler_name", "DPM++ 2M"),
        seed=given["seed"],
        subseed_strength=given.get("subseed_strength", 0.0),
        rng=fields.pop("rng", "GPU"),
        **fields,
    )
    version = given.get("version", "v1.10.1")
    extra = extra_of(given) | given.get("extra_generation_params", {})
    spec = SAMPLERS.get(params.sampler)
    eta = given.get("eta")

    def shown(setting: str, value: str) -> str:
        return value if options.get(setting, True) else ""

    text = write(
        # The reference writes eta when sampling starts, which these cases do not reach; ENSD depends on it even so.
        params.changed(eta=eta if eta == 0 else None),
        seed=params.seed,
        subseed=given.get("subseed", 0),
        sampler=spec,
        scheduler="Automatic",
        model_name=given.get("sd_model_name", "v1-5-pruned-emaonly")
        if options.get("add_model_name_to_info", True)
        else "",
        model_hash=given.get("sd_model_hash", "6ce0161689") if options.get("add_model_hash_to_info", True) else "",
        version=version if version != "<none>" and options.get("add_version_to_infotext", True) else "",
        user=given.get("user", ""),
        extra=extra,
    )
    assert text.replace(", Eta: 0.0", "") == case["infotext"]


@pytest.mark.golden("infotext.json", "generate")
def test_written_text_is_read_as_the_reference_reads_it(case: Case) -> None:
    assert read(case["infotext"]) == case["parsed"]


@pytest.mark.golden("infotext.json", "parse")
def test_text_is_read_as_the_reference_reads_it(case: Case) -> None:
    assert read(case["text"]) == case["parsed"]


@pytest.mark.golden("infotext.json", "parse", having="sampler_and_scheduler")
def test_old_sampler_names_are_split(case: Case) -> None:
    parsed = case["parsed"]
    pair = sampler_and_scheduler(parsed.get("Sampler", ""), parsed["Schedule type"], SAMPLERS, SCHEDULERS)
    assert list(pair) == case["sampler_and_scheduler"]


@pytest.mark.golden("infotext.json", "parse_with_styles")
def test_styles_are_found(case: Case, golden_file: Any) -> None:
    styles = [Style(*row) for row in golden_file["styles_csv_rows"]]
    mode = case["options"].get("infotext_styles", "Apply if any")
    assert read(case["text"], styles=styles, style_mode=mode) == case["parsed"]


@pytest.mark.golden("infotext.json", "quote")
def test_values_are_quoted(case: Case) -> None:
    assert quote(case["value"]) == str(case["quoted"])
    assert unquote(str(case["quoted"])) == str(case["unquoted"])


@pytest.mark.golden("infotext.json", "apply_styles")
def test_styles_are_applied(case: Case, golden_file: Any) -> None:
    styles = {row[0]: Style(*row) for row in golden_file["styles_csv_rows"]}
    chosen = [styles[case["style"]]] if case["style"] in styles else []
    assert list(apply(chosen, case["prompt"], case["negative_prompt"])) == case["result"]
