"""A1111's request fields: all of them are here with A1111's defaults, and each does what it says."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modules.errors import RepriseError
from modules.params.generation import ExtrasParams, GenerationParams
from modules.params.options import flat_of, to_flat
from modules.prompt.styles import Style, StyleBook
from webui.api.sdapi.asking import Asked, read_request
from webui.api.sdapi.extras import EXTRAS, extras_params
from webui.api.sdapi.fields import IMG2IMG, TXT2IMG, Field, with_defaults, without_effect
from webui.api.sdapi.options import KNOWN, parameters_of, unheeded, values_from
from webui.services import Services

API = json.loads((Path(__file__).parents[1] / "golden" / "api.json").read_text(encoding="utf-8"))
TABLES = {"txt2img": TXT2IMG, "img2img": IMG2IMG}


def picture(colour: str = "red", size: tuple[int, int] = (64, 64)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def asked(given: Services, tab: str, body: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> Asked:
    start = {"init_images": [picture()]} if tab == "img2img" else {}
    return read_request(given, tab, {**start, **body}, chosen or {})


def flat(params: GenerationParams) -> dict[str, Any]:
    return to_flat(GenerationParams, params.to_json())


@pytest.mark.parametrize("tab", TABLES)
def test_every_field_of_a1111_is_here_with_its_default_and_no_other(tab: str) -> None:
    golden = API[f"{tab}_fields"]
    assert {name: field.default for name, field in TABLES[tab].items()} == {
        name: about["default"] for name, about in golden.items()
    }
    kinds = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict}
    for name, about in golden.items():
        if about["type"] in kinds:
            assert TABLES[tab][name].kind is kinds[about["type"]], name


def test_every_field_of_extras_is_here_with_its_default_and_no_other() -> None:
    golden = API["models"]["ExtrasBaseRequest"]["fields"]
    assert {name: field.default for name, field in EXTRAS.items()} == {
        name: about["default"] for name, about in golden.items()
    }


VALUES: dict[str, tuple[Any, str, Any]] = {
    "prompt": ("a fox", "prompt", "a fox"),
    "negative_prompt": ("snow", "negative_prompt", "snow"),
    "seed": (7, "seed", 7),
    "subseed": (8, "subseed", 8),
    "subseed_strength": (0.5, "subseed_strength", 0.5),
    "seed_resize_from_h": (128, "seed_resize_from_h", 128),
    "seed_resize_from_w": (192, "seed_resize_from_w", 192),
    "sampler_name": ("DPM++ 2M Karras", "scheduler", "Karras"),
    "sampler_index": ("Heun", "sampler", "Heun"),
    "scheduler": ("karras", "scheduler", "Karras"),
    "batch_size": (3, "batch_size", 3),
    "n_iter": (2, "batch_count", 2),
    "steps": (9, "steps", 9),
    "cfg_scale": (4, "cfg_scale", 4.0),
    "width": (128, "width", 128),
    "height": (256, "height", 256),
    "restore_faces": (True, "restore_faces", True),
    "eta": (0.3, "eta", 0.3),
    "s_min_uncond": (1.5, "s_min_uncond", 1.5),
    "s_churn": (2, "s_churn", 2.0),
    "s_tmax": (5, "s_tmax", 5.0),
    "s_tmin": (0.1, "s_tmin", 0.1),
    "s_noise": (1.05, "s_noise", 1.05),
    "override_settings": ({"CLIP_stop_at_last_layers": 2}, "clip_skip", 2),
    "infotext": ("a hen\nSteps: 11, Sampler: Euler a, CFG scale: 3, Seed: 5, Size: 64x64", "steps", 11),
    "alwayson_scripts": ({"Seed": {"args": [12]}}, "seed", 12),
    "disable_extra_networks": (True, "prompt", "a fox"),
    "styles": (["ink"], "prompt", "ink drawing"),
}
"""A value that a client may send, and the parameter that it changes to which value."""
OF_TXT2IMG: dict[str, tuple[Any, str, Any]] = {
    "enable_hr": (True, "hires", True),
    "firstphase_width": (64, "hires_width", 512),
    "firstphase_height": (64, "hires_height", 512),
    "denoising_strength": (0.4, "hires_denoising_strength", 0.4),
    "hr_scale": (1.5, "hires_scale", 1.5),
    "hr_upscaler": ("Lanczos", "hires_upscaler", "Lanczos"),
    "hr_second_pass_steps": (6, "hires_steps", 6),
    "hr_resize_x": (640, "hires_width", 640),
    "hr_resize_y": (704, "hires_height", 704),
    "hr_checkpoint_name": ("another.safetensors", "hires_checkpoint", "another.safetensors"),
    "hr_sampler_name": ("Heun", "hires_sampler", "Heun"),
    "hr_scheduler": ("Karras", "hires_scheduler", "Karras"),
    "hr_prompt": ("large", "hires_prompt", "large"),
    "hr_negative_prompt": ("small", "hires_negative_prompt", "small"),
}
OF_IMG2IMG: dict[str, tuple[Any, str, Any]] = {
    "image_cfg_scale": (2.0, "image_cfg_scale", 2.0),
    "denoising_strength": (0.4, "denoising_strength", 0.4),
    "resize_mode": (2, "resize_mode", "Resize and fill"),
    "mask": (picture("white"), "mask", True),
    "mask_blur": (9, "mask_blur", 9),
    "mask_blur_x": (6, "mask_blur", 6),
    "mask_blur_y": (5, "mask_blur", 5),
    "mask_round": (False, "mask_round", False),
    "inpainting_fill": (2, "mask_content", "latent noise"),
    "inpaint_full_res": (False, "mask_only_masked", False),
    "inpaint_full_res_padding": (24, "mask_padding", 24),
    "inpainting_mask_invert": (1, "mask_invert", True),
    "initial_noise_multiplier": (1.1, "noise_multiplier", 1.1),
}
REFINER: dict[str, tuple[Any, str, Any]] = {
    "refiner_checkpoint": ("another.safetensors", "refiner_checkpoint", "another.safetensors"),
    "refiner_switch_at": (0.6, "refiner_switch_at", 0.6),
}
ELSEWHERE = {
    "init_images",
    "override_settings_restore_afterwards",
    "force_task_id",
    "include_init_images",
    "script_name",
    "script_args",
    "send_images",
    "save_images",
}
"""Fields of which the answer tells; `test_sdapi.py` sends them."""


def company(name: str) -> dict[str, Any]:
    """What a field needs beside it in order to mean something."""
    found: dict[str, Any] = {}
    if name in OF_TXT2IMG and name not in OF_IMG2IMG and name != "enable_hr":
        found["enable_hr"] = True
    if name.startswith(("mask_", "inpaint")):
        found["mask"] = picture("white")
    if name == "disable_extra_networks":
        found["prompt"] = "a fox<lora:ink:1>"
    if name == "refiner_switch_at":
        found["refiner_checkpoint"] = "another.safetensors"
    return found


@pytest.mark.parametrize(
    ("tab", "name"), [(tab, name) for tab, table in TABLES.items() for name in table if name not in ELSEWHERE]
)
def test_each_field_changes_what_it_should_or_is_named_as_without_effect(given: Services, tab: str, name: str) -> None:
    StyleBook(given.data_dir / "styles.csv").save(Style("ink", "ink drawing", ""))
    samples = VALUES | REFINER | (OF_TXT2IMG if tab == "txt2img" else OF_IMG2IMG)
    field = TABLES[tab][name]
    if field.reason:
        value = {str: "x", int: 1, float: 1.5, bool: True, list: ["x"], dict: {"x": 1}}[field.kind]
        found = asked(given, tab, {name: value})
        assert any(note.startswith(f"{name} has no effect: ") for note in found.notes)
        assert flat(found.params) == flat(asked(given, tab, {}).params)
        return
    value, parameter, expected = samples[name]
    beside = company(name) | ({"enable_hr": True} if tab == "txt2img" and name == "denoising_strength" else {})
    found, before = asked(given, tab, {**beside, name: value}), asked(given, tab, beside)
    assert flat(found.params)[parameter] == expected
    assert flat(before.params).get(parameter) != expected
    assert not [note for note in found.notes if "no effect" in note and name in note and name != "mask_blur_y"]


@pytest.mark.parametrize("tab", TABLES)
def test_fields_that_are_null_mean_their_defaults_as_clients_send_all_of_them(given: Services, tab: str) -> None:
    nothing = dict.fromkeys(TABLES[tab]) | ({"init_images": [picture()]} if tab == "img2img" else {})
    assert flat(asked(given, tab, nothing).params) == flat(asked(given, tab, {}).params)


def test_defaults_of_a_request_are_those_of_the_api_and_not_of_the_page(given: Services) -> None:
    params = asked(given, "txt2img", {}).params
    assert (params.steps, params.sampler, params.width, params.cfg_scale) == (50, "Euler", 512, 7.0)
    assert (params.hires, params.refiner, params.init) == (None, None, None)
    start = asked(given, "img2img", {"mask": picture("white")}).params.init
    assert start and start.mask
    assert (start.denoising_strength, start.mask.content, start.mask.padding) == (0.75, "fill", 0)
    assert start.mask.only_masked


def test_a_field_of_the_request_wins_over_the_infotext_and_override_settings_over_both(given: Services) -> None:
    text = "a hen\nSteps: 11, Sampler: Heun, Schedule type: Karras, CFG scale: 3, Seed: 5, Size: 64x72, Clip skip: 3"
    found = asked(
        given, "txt2img", {"infotext": text, "steps": 4, "override_settings": {"CLIP_stop_at_last_layers": 2}}
    )
    params = found.params
    assert (params.prompt, params.steps, params.sampler, params.scheduler) == ("a hen", 4, "Heun", "Karras")
    assert (params.seed, params.width, params.height, params.clip_skip) == (5, 64, 72, 2)


def test_an_infotext_with_a_second_pass_makes_one_unless_the_request_says_no(given: Services) -> None:
    text = (
        "a hen\nSteps: 11, Sampler: Heun, CFG scale: 3, Seed: 5, Size: 64x64, Denoising strength: 0.4, Hires upscale: 2"
    )
    hires = asked(given, "txt2img", {"infotext": text}).params.hires
    assert hires and (hires.scale, hires.denoising_strength) == (2.0, 0.4)
    assert asked(given, "txt2img", {"infotext": text, "enable_hr": False}).params.hires is None


def test_a_schedule_in_the_samplers_name_holds_where_the_request_names_none(given: Services) -> None:
    alone = asked(given, "txt2img", {"sampler_name": "DPM++ 2M Karras"}).params
    both = asked(given, "txt2img", {"sampler_name": "DPM++ 2M Karras", "scheduler": "exponential"}).params
    assert (alone.sampler, alone.scheduler) == ("DPM++ 2M", "Karras")
    assert (both.sampler, both.scheduler) == ("DPM++ 2M", "Exponential")


SETTINGS = [(name, about) for name, about in KNOWN.items() if parameters_of(name)]


def test_the_settings_are_a1111s_with_their_defaults() -> None:
    assert {name: about["default"] for name, about in KNOWN.items()} == {
        name: about["default"] for name, about in API["options"].items()
    }


@pytest.mark.parametrize("name", [name for name, _ in SETTINGS])
def test_a_setting_with_a_meaning_is_a_parameter_that_there_is(name: str) -> None:
    assert set(parameters_of(name)) <= flat_of(GenerationParams).keys()


def test_settings_reach_the_parameters_whose_key_their_texts_have() -> None:
    assert values_from({"CLIP_stop_at_last_layers": 2, "randn_source": "GPU", "eta_noise_seed_delta": 31337}) == {
        "clip_skip": 2,
        "rng": "NV",
        "ensd": 31337,
    }
    assert values_from({"sd_model_checkpoint": "a/b.safetensors [0123456789]"}) == {"checkpoint": "a/b.safetensors"}
    assert unheeded({"font": "x", "nobody": 1, "s_churn": 2.0, "samples_format": "jpg"}) == ["font", "nobody"]


@pytest.mark.parametrize(
    ("settings", "every", "kind"),
    [
        ({}, None, ""),
        ({"live_previews_enable": True}, None, ""),
        ({"live_previews_enable": False, "show_progress_every_n_steps": 5}, 0, ""),
        ({"show_progress_every_n_steps": 5}, 5, ""),
        ({"show_progress_every_n_steps": -1}, 0, ""),
        ({"show_progress_every_n_steps": 0}, 1, ""),
        ({"show_progress_type": "Approx NN"}, None, "Approx cheap"),
        *[({"show_progress_type": kind}, None, kind) for kind in ("Full", "TAESD", "Approx cheap")],
    ],
)
def test_previews_are_as_the_settings_say(
    given: Services, settings: dict[str, Any], every: int | None, kind: str
) -> None:
    """Those of the account, and those of the request, which win."""
    for found in (
        asked(given, "txt2img", {}, settings),
        asked(given, "img2img", {"override_settings": settings}, {"show_progress_type": "Full"} if kind else {}),
    ):
        origin = found.spec("txt2img").origin
        assert (origin.preview_every, origin.preview_type) == (every, kind)
        assert not [note for note in found.notes if "has no effect" in note]


@pytest.mark.parametrize(
    ("name", "value", "may"),
    [
        ("show_progress_type", "Fuller", "Full, Approx NN, Approx cheap, TAESD"),
        ("show_progress_type", 3, "Full, Approx NN, Approx cheap, TAESD"),
        ("show_progress_every_n_steps", "ten", "-1 to 150"),
        ("show_progress_every_n_steps", 2.5, "-1 to 150"),
        ("show_progress_every_n_steps", 10**30, "-1 to 150"),
        ("show_progress_every_n_steps", None, "-1 to 150"),
        ("live_previews_enable", "no", "true or false"),
    ],
)
def test_a_setting_of_previews_that_means_nothing_is_named(given: Services, name: str, value: Any, may: str) -> None:
    found = asked(given, "txt2img", {"override_settings": {name: value}})
    origin = found.spec("txt2img").origin
    assert (origin.preview_every, origin.preview_type) == (None, "")
    assert f"the setting {name} has no effect: it may be {may}" in found.notes
    assert unheeded({name: value}) == [name]


def test_the_accounts_settings_hold_for_a_request_that_says_nothing_else(given: Services) -> None:
    chosen = {"CLIP_stop_at_last_layers": 3, "s_churn": 4.0, "face_restoration": True}
    params = asked(given, "txt2img", {"s_churn": 1.0}, chosen).params
    assert (params.clip_skip, params.s_churn, params.restore_faces) == (3, 1.0, True)


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("gfpgan_visibility", 0.5, {"gfpgan_visibility": 0.5}),
        ("codeformer_visibility", 0.5, {"codeformer_visibility": 0.5}),
        ("codeformer_weight", 0.5, {"codeformer_weight": 0.5}),
        ("upscaling_resize", 3, {"by": 3.0}),
        ("upscaler_1", "Lanczos", {"upscaler": "Lanczos"}),
        ("upscaler_2", "Nearest", {"upscaler_2": "Nearest"}),
        ("extras_upscaler_2_visibility", 0.5, {"upscaler_2_visibility": 0.5}),
        ("upscaling_crop", False, {"crop": False}),
        ("resize_mode", 1, {"resize": "Scale to", "width": 512, "height": 512}),
    ],
)
def test_each_field_of_extras_changes_what_it_should(name: str, value: Any, ours: dict[str, Any]) -> None:
    plain, changed = ExtrasParams.to_json(extras_params({})), ExtrasParams.to_json(extras_params({name: value}))
    assert {key: changed[key] for key in changed if changed[key] != plain[key]} == ours


@pytest.mark.parametrize("value", ["x", True, [1], {}, 1.5])
def test_a_value_of_another_type_is_refused_with_the_fields_name(given: Services, value: Any) -> None:
    with pytest.raises(RepriseError) as caught:
        asked(given, "txt2img", {"steps": value})
    assert caught.value.field == "steps"


def test_a_default_is_told_for_what_was_not_given_and_only_for_that() -> None:
    field = Field("steps", int, 50, "steps")
    assert with_defaults({"steps": field}, {}) == {"steps": 50}
    assert with_defaults({"steps": field}, {"steps": 3}) == {"steps": 3}
    assert without_effect({"steps": field}, {"steps": 3}) == []
