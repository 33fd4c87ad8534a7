"""The fields of A1111's requests for images: their types, their defaults, and what each of them is here.

A field either gives the value of one of our parameters, by its name among all options side by side (`flat_of`), or is
read by name (`READ`), or has no effect, and then says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.errors import UserError
from modules.params.generation import GenerationParams
from modules.params.options import flat_of

READ = "read"
"""Of a field that is no parameter's value alone: `webui.api.sdapi.asking` and its callers read it."""


@dataclass(frozen=True)
class Field:
    """One field of a request."""

    name: str
    kind: type
    """str, int, float, bool, list or dict."""
    default: Any = None
    to: str = ""
    """The parameter whose value it is, or `READ`."""
    without: str = ""
    """Why it has no effect."""

    @property
    def reason(self) -> str:
        """Why it has no effect here; "" where it has one."""
        if self.to in ("", READ) or self.to in flat_of(GenerationParams):
            return self.without
        return f"there is no parameter {self.to} here"

    def cast(self, value: Any) -> Any:
        """``value`` as the field's type; null is the default, as clients send every field. Raises `UserError`."""
        if value is None:
            return self.default
        if self.kind in (int, float) and isinstance(value, (int, str)) and not isinstance(value, bool):
            return self._number(value)
        if self.kind is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.kind is bool and value in (0, 1):
            return bool(value)
        if not isinstance(value, self.kind) or (self.kind is not bool and isinstance(value, bool)):
            raise UserError(f"{self.name} must be {_NOUNS[self.kind]}", hint="correct it", field=self.name)
        return value

    def _number(self, value: int | str) -> int | float:
        try:
            number: int | float = int(value) if self.kind is int else float(value)
            if math.isfinite(number):
                return number
        except (ValueError, OverflowError):  # an integer of 400 digits is no float
            pass
        raise UserError(f"{self.name} must be {_NOUNS[self.kind]}", hint="correct it", field=self.name)


_NOUNS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_OLD_FORM = "A1111 fills it itself and reads it from no request"

_COMMON = (
    Field("prompt", str, "", "prompt"),
    Field("negative_prompt", str, "", "negative_prompt"),
    Field("styles", list, None, READ),
    Field("seed", int, -1, "seed"),
    Field("subseed", int, -1, "subseed"),
    Field("subseed_strength", float, 0, "subseed_strength"),
    Field("seed_resize_from_h", int, -1, "seed_resize_from_h"),
    Field("seed_resize_from_w", int, -1, "seed_resize_from_w"),
    Field("sampler_name", str, None, READ),
    Field("scheduler", str, None, READ),
    Field("batch_size", int, 1, "batch_size"),
    Field("n_iter", int, 1, "batch_count"),
    Field("steps", int, 50, "steps"),
    Field("cfg_scale", float, 7.0, "cfg_scale"),
    Field("width", int, 512, "width"),
    Field("height", int, 512, "height"),
    Field("restore_faces", bool, None, "restore_faces"),
    Field("tiling", bool, None, "tiling"),
    Field("do_not_save_samples", bool, False, without="save_images decides, in A1111 too"),
    Field("do_not_save_grid", bool, False, without="save_images decides, in A1111 too"),
    Field("eta", float, None, READ),
)
_SIGMAS = (
    Field("s_min_uncond", float, None, "s_min_uncond"),
    Field("s_churn", float, None, "s_churn"),
    Field("s_tmax", float, None, "s_tmax"),
    Field("s_tmin", float, None, "s_tmin"),
    Field("s_noise", float, None, "s_noise"),
    Field("override_settings", dict, None, READ),
    Field("override_settings_restore_afterwards", bool, True, READ),
    Field("refiner_checkpoint", str, None, "refiner_checkpoint"),
    Field("refiner_switch_at", float, None, "refiner_switch_at"),
    Field("disable_extra_networks", bool, False, READ),
    Field("firstpass_image", str, None, without=_OLD_FORM),
    Field("comments", dict, None, without=_OLD_FORM),
)
_LAST = (
    Field("force_task_id", str, None, READ),
    Field("sampler_index", str, "Euler", READ),
    Field("script_name", str, None, READ),
    Field("script_args", list, [], READ),
    Field("send_images", bool, True, READ),
    Field("save_images", bool, False, READ),
    Field("alwayson_scripts", dict, {}, READ),
    Field("infotext", str, None, READ),
)

TXT2IMG: Mapping[str, Field] = {
    field.name: field
    for field in (
        *_COMMON,
        Field("denoising_strength", float, None, "hires_denoising_strength"),
        *_SIGMAS,
        Field("enable_hr", bool, False, READ),
        Field("firstphase_width", int, 0, READ),
        Field("firstphase_height", int, 0, READ),
        Field("hr_scale", float, 2.0, "hires_scale"),
        Field("hr_upscaler", str, None, "hires_upscaler"),
        Field("hr_second_pass_steps", int, 0, "hires_steps"),
        Field("hr_resize_x", int, 0, "hires_width"),
        Field("hr_resize_y", int, 0, "hires_height"),
        Field("hr_checkpoint_name", str, None, "hires_checkpoint"),
        Field("hr_sampler_name", str, None, "hires_sampler"),
        Field("hr_scheduler", str, None, "hires_scheduler"),
        Field("hr_prompt", str, "", "hires_prompt"),
        Field("hr_negative_prompt", str, "", "hires_negative_prompt"),
        *_LAST,
    )
}
IMG2IMG: Mapping[str, Field] = {
    field.name: field
    for field in (
        *_COMMON,
        Field("denoising_strength", float, 0.75, "denoising_strength"),
        *_SIGMAS,
        Field("init_images", list, None, READ),
        Field("resize_mode", int, 0, "resize_mode"),
        Field("image_cfg_scale", float, None, "image_cfg_scale"),
        Field("mask", str, None, READ),
        Field("mask_blur_x", int, 4, READ),
        Field("mask_blur_y", int, 4, READ),
        Field("mask_blur", int, None, READ),
        Field("mask_round", bool, True, "mask_round"),
        Field("inpainting_fill", int, 0, "mask_content"),
        Field("inpaint_full_res", bool, True, "mask_only_masked"),
        Field("inpaint_full_res_padding", int, 0, "mask_padding"),
        Field("inpainting_mask_invert", int, 0, "mask_invert"),
        Field("initial_noise_multiplier", float, None, "noise_multiplier"),
        Field("latent_mask", str, None, without="the mask is brought to the latents' size itself"),
        Field("include_init_images", bool, False, READ),
        *_LAST,
    )
}


def read_fields(table: Mapping[str, Field], body: Mapping[str, Any]) -> dict[str, Any]:
    """What a request says, without the fields that it leaves out or gives as null. Others than ours are ignored."""
    found = {name: field.cast(body[name]) for name, field in table.items() if body.get(name) is not None}
    return {name: value for name, value in found.items() if value is not None}


def with_defaults(table: Mapping[str, Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every field, as A1111 answers them."""
    return {name: given.get(name, field.default) for name, field in table.items()}


def without_effect(table: Mapping[str, Field], given: Mapping[str, Any]) -> list[str]:
    """A sentence for each field that was given another value than its default and does nothing here."""
    return [
        f"{name} has no effect: {field.reason}"
        for name, field in table.items()
        if field.reason and given.get(name, field.default) not in (field.default, False)
    ]
