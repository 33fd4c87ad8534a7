"""Axes: every declared option by a name of its own, and requests that differ in it alone."""

from __future__ import annotations

import pytest

from modules.errors import UserError
from modules.extension.script import axes_of_params, axis_names
from modules.params.generation import GenerationParams, Hires, Init
from modules.params.options import flat_of


def test_every_option_but_pictures_is_an_axis() -> None:
    axes = axes_of_params()
    assert len(axes) == len(flat_of(GenerationParams)) - 2
    assert [axis.label for axis in axes.values()] == list(axes)
    assert axis_names(axes)[0] == "Nothing"


@pytest.mark.parametrize(
    ("label", "value", "wanted"),
    [
        ("Steps", "30", GenerationParams(steps=30)),
        ("CFG scale", 3, GenerationParams(cfg_scale=3.0)),
        ("Upscale by", "1.5", GenerationParams(hires=Hires(scale=1.5))),
        ("Hires fix: denoising strength", 0.4, GenerationParams(hires=Hires(denoising_strength=0.4))),
    ],
)
def test_an_axis_changes_its_option_and_nothing_else(label: str, value: object, wanted: GenerationParams) -> None:
    assert axes_of_params()[label].set(GenerationParams(), value) == wanted


def test_an_axis_within_a_group_leaves_the_rest_of_the_group() -> None:
    params = GenerationParams(init=Init(image="0" * 64, resize_mode="Crop and resize"))
    changed = axes_of_params()["Denoising strength"].set(params, 0.3)
    assert changed.init == Init(image="0" * 64, resize_mode="Crop and resize", denoising_strength=0.3)


def test_a_value_out_of_range_is_refused_with_its_field() -> None:
    with pytest.raises(UserError, match="Steps must be between 1 and 150"):
        axes_of_params()["Steps"].set(GenerationParams(), 0)
