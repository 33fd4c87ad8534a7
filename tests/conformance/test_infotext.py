"""The generation text as A1111 1.10 writes and reads it."""

from __future__ import annotations

from typing import Any

import pytest

from modules.builtin import register
from modules.diffusion.names import resolve
from modules.extension.host import Host
from modules.metadata.infotext import quote, read, sampler_and_scheduler, unquote, write
from modules.params.generation import GenerationParams
from modules.prompt.styles import Style, apply
from tests.conformance.conftest import cases_of

Case = dict[str, Any]


HOST = Host()
register(HOST)

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
        scheduler=given.get("scheduler", "Automatic"),
        seed=given["seed"],
        subseed_strength=given.get("subseed_strength", 0.0),
        rng=fields.pop("rng", "GPU"),
        **fields,
    )
    version = given.get("version", "v1.10.1")
    # The reference writes eta when sampling starts, which these cases do not reach; ENSD depends on it even so.
    extra = extra_of(given) | given.get("extra_generation_params", {})
    extra |= {key: None for key in ("Eta", "Eta DDIM") if key not in extra}
    spec = HOST.samplers.get(params.sampler)
    eta = given.get("eta")

    def shown(setting: str, value: str) -> str:
        return value if options.get(setting, True) else ""

    text = write(
        params.changed(eta=eta, eta_ddim=eta),
        seed=params.seed,
        subseed=given.get("subseed", 0),
        sampler=spec,
        scheduler=params.scheduler,
        model_name=given.get("sd_model_name", "v1-5-pruned-emaonly")
        if options.get("add_model_name_to_info", True)
        else "",
        model_hash=given.get("sd_model_hash", "6ce0161689") if options.get("add_model_hash_to_info", True) else "",
        version=version if version != "<none>" and options.get("add_version_to_infotext", True) else "",
        user=given.get("user", ""),
        extra=extra,
    )
    assert text == case["infotext"]


@pytest.mark.golden("infotext.json", "generate")
def test_written_text_is_read_as_the_reference_reads_it(case: Case) -> None:
    assert read(case["infotext"]) == case["parsed"]


@pytest.mark.golden("infotext.json", "parse")
def test_text_is_read_as_the_reference_reads_it(case: Case) -> None:
    assert read(case["text"]) == case["parsed"]


@pytest.mark.golden("infotext.json", "parse", having="sampler_and_scheduler")
def test_old_sampler_names_are_split(case: Case) -> None:
    parsed = case["parsed"]
    pair = sampler_and_scheduler(parsed.get("Sampler", ""), parsed["Schedule type"], HOST.samplers, HOST.schedulers)
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


RUN: Case = {"sampler": "Euler", "steps": 6, "width": 64, "height": 64, "cfg_scale": 7.0, "rng": "NV"}
SETTINGS = {
    "randn_source": "rng",
    "eta_noise_seed_delta": "ensd",
    "eta_ancestral": "eta",
    "n_iter": "batch_count",
    "CLIP_stop_at_last_layers": "clip_skip",
}
"""The reference's names where they are not ours."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whole runs that have no second pass and start from no picture."""
    if "run" not in metafunc.fixturenames:
        return
    cases = cases_of(metafunc.config.getoption("golden") / "pipeline.json", "cases")
    elsewhere = {"enable_hr", "conditioning_key", "init"}
    ours = {name: case for name, case in cases.items() if not elsewhere & case["request"].keys()}
    metafunc.parametrize("run", list(ours.values()), ids=list(ours))


def test_texts_of_whole_runs_are_written_as_the_reference_writes_them(run: Case) -> None:
    request = run["request"]
    given = {**request, **request.get("options", {})}
    given |= {ours: given[theirs] for theirs, ours in SETTINGS.items() if theirs in given}
    if "eta" in request:
        given["eta_ddim"] = request["eta"]  # the request's eta is every sampler's
    given.pop("s_churn" if "s_churn" in request else "", None)  # told only where it is a setting
    params = GenerationParams(**RUN | {key: value for key, value in given.items() if key in KNOWN})
    sampler, scheduler, _ = resolve(
        given.get("sampler_name", "Euler"), given.get("scheduler", "Automatic"), HOST.samplers, HOST.schedulers
    )
    spec, label = HOST.samplers.get(sampler), scheduler
    if scheduler == "Automatic" and not spec.own_schedule:
        label = HOST.schedulers.canonical(spec.default_scheduler or "uniform")
    told = params.changed(sampler=sampler, scheduler=scheduler)
    subseeds = run["all_subseeds"] or run["all_seeds"]
    for seed, subseed, expected in zip(run["all_seeds"], subseeds, run["infotexts"], strict=True):
        facts: Case = {"model_name": "toy", "model_hash": "0123456789", "version": "v1.10.1"}
        assert write(told, seed=seed, subseed=subseed, sampler=spec, scheduler=label, **facts) == expected


KNOWN = GenerationParams().to_json().keys() - {"scheduler"}
