"""What checkpoints of a kind are used with, by their names."""

from __future__ import annotations

import pytest

from modules.checkpoints.presets import Preset, distilled, preset_from, suggested

NAMES = {
    "sd_xl_turbo_1.0_fp16": "Turbo",
    "DreamShaperXL_Turbo_v2_1": "Turbo",
    "sdxl_lightning_4step": "Lightning",
    "dreamshaperXL_lightningDPMSDE": "Lightning",
    "juggernautXL_juggXILightningByRD": "Lightning",
    "Hyper-SDXL-8steps": "Hyper",
    "realvisxlV40_v40Hyper": "Hyper",
    "HyperSD15-4step": "Hyper",
    "LCM_Dreamshaper_v7": "LCM",
    "photonLCM_v10": "LCM",
    "hyperrealism_v3": "",
    "illustriousXL_v01": "",
    "noobaiXLNAIXL_vPred10": "",
    "calcmodel": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_as_people_download_them_tell_few_step_models(name: str) -> None:
    kind = distilled(name)
    assert (kind.name if kind else "") == NAMES[name]


def test_a_title_tells_too() -> None:
    kind = distilled("model", "SDXL Lightning 4 step")
    assert kind is not None and kind.name == "Lightning"


@pytest.mark.parametrize("name", [name for name, kind in NAMES.items() if kind])
def test_few_step_models_begin_with_few_steps_and_hardly_any_guidance(name: str) -> None:
    found = suggested(name, "", 1024)
    assert found.steps is not None and 1 <= found.steps <= 8
    assert found.cfg_scale is not None and 1.0 <= found.cfg_scale <= 1.5


@pytest.mark.parametrize(
    ("name", "steps", "side"),
    [
        ("sdxl_lightning_2step", 2, 1024),
        ("Hyper-SDXL-8steps-CFG-lora", 8, 1024),
        ("sd_xl_turbo_1.0", 4, 512),  # trained for 512
        ("dreamshaperXL_turbo", 4, 1024),
        ("plain", None, 1024),
    ],
)
def test_steps_are_those_of_the_name_and_turbo_has_its_size(name: str, steps: int | None, side: int) -> None:
    found = suggested(name, "", 1024)
    assert (found.steps, found.width, found.height) == (steps, side, side)


def test_what_is_no_value_of_a_request_is_left_out() -> None:
    said = {"steps": True, "width": 8, "height": "x", "cfg_scale": 99, "clip_skip": 2, "sampler": 3, "other": 1}
    assert preset_from(said) == Preset(clip_skip=2)


def test_one_preset_lies_over_another() -> None:
    assert Preset(steps=5).over(Preset(steps=9, width=64)) == Preset(steps=5, width=64)
