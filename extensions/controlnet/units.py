"""Units: what a request says of each, as options of ours, as objects of A1111's API, and as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules import UserError, option

from .registry import LABELS, UNION_TYPES, UNKNOWN, module_named

JUST, CROP, FILL = "Just Resize", "Crop and Resize", "Resize and Fill"
BALANCED, PROMPT, CONTROL = "Balanced", "My prompt is more important", "ControlNet is more important"
BOTH, LOW, HIGH = "Both", "Low res only", "High res only"
MODES, CONTROL_MODES, HR_OPTIONS = (JUST, CROP, FILL), (BALANCED, PROMPT, CONTROL), (BOTH, LOW, HIGH)
_RESIZE: Mapping[str, str] = {
    **{mode: mode for mode in MODES},
    "Inner Fit (Scale to Fit)": CROP,
    "Scale to Fit (Inner Fit)": CROP,
    "Outer Fit (Shrink to Fit)": FILL,
    "Envelope (Outer Fit)": FILL,
}
_HELP = "-1: what is usual for the preprocessor"


@dataclass(frozen=True)
class Unit:
    image: str = option("", "Image", kind="image", help="none: in img2img the start image")
    mask: str = option("", "Mask", kind="mask", help="white is repainted (inpaint), or is the image itself")
    module: str = option("none", "Preprocessor", choices=tuple(LABELS))
    model: str = option("", "Model", kind="file:ControlNet")
    weight: float = option(1.0, "Weight", lo=0.0, hi=2.0, step=0.05)
    guidance_start: float = option(0.0, "Start", lo=0.0, hi=1.0, step=0.01, help="as a part of the steps")
    guidance_end: float = option(1.0, "End", lo=0.0, hi=1.0, step=0.01)
    control_mode: str = option(BALANCED, "Control mode", choices=CONTROL_MODES)
    resize_mode: str = option(CROP, "Resize mode", choices=MODES)
    pixel_perfect: bool = option(False, "Pixel perfect", help="the resolution follows from the sizes")
    processor_res: int = option(-1, "Resolution", lo=-1, hi=2048, help=_HELP)
    threshold_a: float = option(-1.0, "Threshold A", lo=-1.0, hi=2048.0, help=_HELP)
    threshold_b: float = option(-1.0, "Threshold B", lo=-1.0, hi=2048.0, help=_HELP)
    hr_option: str = option(BOTH, "Hires fix", choices=HR_OPTIONS, help="the passes in which it takes part")
    union_control_type: str = option(UNKNOWN, "Union type", choices=(UNKNOWN, *UNION_TYPES))
    low_vram: bool = option(False, "Low VRAM", help="its network is on the card only while it is used")
    effective_region_mask: str = option("", "Region", kind="mask", help="where it is white the unit has an effect")
    advanced_weighting: str = option("", "Weights of blocks", help="numbers apart by commas in place of the weight")


# --------------------------------------------------------------------------------------------------------- A1111's API

DEFAULTS: Mapping[str, Any] = {
    "is_ui": False,
    "input_mode": "simple",
    "batch_images": None,
    "output_dir": "",
    "loopback": False,
    "enabled": False,
    "module": "none",
    "model": "None",
    "weight": 1.0,
    "image": None,
    "resize_mode": CROP,
    "low_vram": False,
    "processor_res": -1,
    "threshold_a": -1,
    "threshold_b": -1,
    "guidance_start": 0.0,
    "guidance_end": 1.0,
    "pixel_perfect": False,
    "control_mode": BALANCED,
    "inpaint_crop_input_image": True,
    "hr_option": BOTH,
    "save_detected_map": True,
    "advanced_weighting": None,
    "effective_region_mask": None,
    "pulid_mode": "Fidelity",
    "union_control_type": UNKNOWN,
    "ipadapter_input": None,
    "mask": None,
    "batch_mask_dir": None,
    "animatediff_batch": False,
    "batch_modifiers": [],
    "batch_image_files": [],
    "batch_keyframe_idx": None,
}
"""A unit that says nothing."""
_ALIASES = {"lowvram": "low_vram", "guidance": "guidance_end", "input_image": "image", "mask_image": "mask"}
_CHOICES: Mapping[str, Mapping[str, str]] = {
    "resize_mode": _RESIZE,
    "control_mode": {mode: mode for mode in CONTROL_MODES},
    "hr_option": {mode: mode for mode in HR_OPTIONS},
    "pulid_mode": {mode: mode for mode in ("Fidelity", "Extremely style")},
    "union_control_type": {kind: kind for kind in (*UNION_TYPES, UNKNOWN)},
    "input_mode": {mode: mode for mode in ("simple", "batch", "merge")},
}
_LIMITS = {"weight": (0.0, 2.0), "guidance_start": (0.0, 1.0), "guidance_end": (0.0, 1.0)}
_NUMBERS = (*_LIMITS, "threshold_a", "threshold_b")
FIELD = "alwayson_scripts.controlnet"


def read_unit(given: Mapping[str, Any]) -> dict[str, Any]:
    """A unit of ``alwayson_scripts.controlnet.args`` with all its fields, judged. Raises `UserError`."""
    named: dict[str, Any] = {}
    for name, value in given.items():
        own = _ALIASES.get(name, name)
        if own in named:
            raise _misfit(own, "is given under two names", "send one of them")
        named[own] = value
    unit = {**DEFAULTS, **{name: _cast(name, named[name]) for name in DEFAULTS if name in named}}
    if unit["guidance_start"] > unit["guidance_end"]:
        raise _misfit("guidance_start", "is behind its end", "let it be at most guidance_end")
    if unit["enabled"]:
        module = module_named(unit["module"])
        for name in ("processor_res", "threshold_a", "threshold_b"):
            unit[name] = module.within(name, unit[name])
    unit["image"] = pictures_of(unit.pop("image"), unit.pop("mask", None))
    unit["mask"] = None
    return unit


def _cast(name: str, value: Any) -> Any:
    default = DEFAULTS[name]
    if name == "module":
        module_named(value)
    elif name in _CHOICES:
        if not isinstance(value, str) or value not in _CHOICES[name]:
            raise _misfit(name, f"cannot be {str(value)[:40]!r}", f"it can be {', '.join(_CHOICES[name])}")
        return _CHOICES[name][value]
    elif isinstance(default, bool):
        if str(value).lower() not in ("0", "1", "true", "false", "on", "off", "yes", "no"):
            raise _misfit(name, "is neither true nor false")
        return str(value).lower() in ("1", "true", "on", "yes")
    elif name == "processor_res" or name in _NUMBERS:
        return _number(name, value)
    elif name == "model":
        if not isinstance(value, (str, int, float)):
            raise _misfit(name, "must be a name", "GET /controlnet/model_list lists them")
        return str(value)
    elif name == "advanced_weighting" and value is not None:
        if not isinstance(value, list):
            raise _misfit(name, "must be a list of numbers")
        return [_number(name, one) for one in value]
    elif name == "effective_region_mask" and value is not None and not isinstance(value, str):
        raise _misfit(name, "must be a picture in base64")
    elif name == "ipadapter_input" and value is not None:
        raise _misfit(name, "is not read, because pickles can run code", "send the picture instead")
    return value


def _number(name: str, value: Any) -> int | float:
    try:
        number = float(value)
        found = int(number) if name == "processor_res" else number
    except (TypeError, ValueError, OverflowError):
        raise _misfit(name, "must be a number") from None
    lo, hi = _LIMITS.get(name, (float("-inf"), float("inf")))
    if not lo <= number <= hi:
        raise _misfit(name, f"must be between {lo:g} and {hi:g}")
    return found


def _misfit(name: str, reason: str, hint: str = "") -> UserError:
    return UserError(f"{name} of a ControlNet unit {reason}", hint=hint, field=FIELD)


Picture = tuple[str, str]
"""A picture and its mask, in base64; the latter may be empty."""


def pictures_of(image: Any, mask: Any = None) -> list[Picture] | None:
    """The pictures of a unit in any of the forms in which they are sent; None: there is none."""
    if image is None:
        if mask is not None:
            raise _misfit("mask", "has no image beside it", "send image too")
        return None
    if isinstance(image, str):
        return [_pair(image, mask or "")]
    if isinstance(image, Mapping):
        return [_pair(image.get("image"), image.get("mask") or "")]
    if isinstance(image, list) and image and all(isinstance(one, str) for one in image):
        if len(image) != 2:
            raise _misfit("image", "must be two pictures, the second its mask, or one alone")
        return [_pair(image[0], image[1])]
    if isinstance(image, list) and image and all(isinstance(one, Mapping) for one in image):
        return [_pair(one.get("image"), one.get("mask") or "") for one in image]
    raise _misfit("image", "is no picture", "send it in base64")


def _pair(image: Any, mask: Any) -> Picture:
    if not isinstance(image, str) or not image or not isinstance(mask, str):
        raise _misfit("image", "is no picture", "send it in base64")
    return image, mask


Find = Callable[[str], str | None]
"""The file that a model's name means."""


def from_args(args: Sequence[Any], count: int, find: Find) -> dict[str, Any] | None:
    """Our options for the arguments of ``alwayson_scripts.controlnet``: those beyond ``count`` are ignored, and so is
    what is no object. None: no unit is enabled."""
    units = [read_unit(given) for given in args[:count] if isinstance(given, Mapping)]
    found: dict[str, Any] = {}
    for number, unit in enumerate(units, 1):
        if unit["enabled"]:
            found |= {f"units_{number}_{name}": value for name, value in _options(unit, find).items()}
    return found or None


def _options(unit: Mapping[str, Any], find: Find) -> dict[str, Any]:
    pictures = unit["image"] or [("", "")]
    if len(pictures) > 1:
        raise _misfit("image", "has several pictures, which no supported model takes", "send one")
    if unit["input_mode"] != "simple":
        raise _misfit("input_mode", f"cannot be {unit['input_mode']!r} here", "send a request for each picture")
    same = ("weight", "guidance_start", "guidance_end", "control_mode", "resize_mode", "pixel_perfect", "hr_option")
    weights = unit["advanced_weighting"]
    return {
        "on": True,
        "image": pictures[0][0],
        "mask": pictures[0][1],
        "module": module_named(unit["module"]).label,
        "model": file_of(unit["model"], find),
        **{name: unit[name] for name in (*same, "union_control_type", "low_vram")},
        "processor_res": int(unit["processor_res"]) if unit["processor_res"] >= 1 else -1,
        "threshold_a": float(unit["threshold_a"]),
        "threshold_b": float(unit["threshold_b"]),
        "effective_region_mask": unit["effective_region_mask"] or "",
        "advanced_weighting": ", ".join(map(str, weights)) if weights else "",
    }


def file_of(model: str, find: Find) -> str:
    """The file of a model; empty for "None"."""
    if model in ("None", ""):
        return ""
    found = find(model)
    if found is None:
        raise UserError(f"there is no ControlNet model {model[:60]!r}", hint="GET /controlnet/model_list lists them")
    return found


# -------------------------------------------------------------------------------------------------- the generation text

TOLD = (
    "module",
    "model",
    "weight",
    "resize_mode",
    "processor_res",
    "threshold_a",
    "threshold_b",
    "guidance_start",
    "guidance_end",
    "pixel_perfect",
    "control_mode",
)
_NUMBER = re.compile(r"-?\d+")


def write_unit(unit: Mapping[str, Any]) -> str:
    """The text of an enabled unit as `read_unit` gives it; empty where a value holds a comma or a colon."""
    values = [str(unit[name]) for name in TOLD]
    if any("," in value or ":" in value for value in values):
        return ""
    return ", ".join(f"{name.replace('_', ' ').title()}: {value}" for name, value in zip(TOLD, values, strict=True))


def read_text(text: str) -> dict[str, Any]:
    """What `write_unit` tells, and what other versions do; raises `UserError` for a unit that cannot be read."""
    given: dict[str, Any] = {}
    for piece in text.split(","):
        name, colon, value = piece.strip().partition(": ")
        if not colon:
            raise UserError("a ControlNet unit in the text cannot be read", hint="choose its options yourself")
        given[name.lower().replace(" ", "_")] = _value(value)
    known = {name: value for name, value in given.items() if name in DEFAULTS and name not in ("image", "mask")}
    unit = read_unit({**known, "enabled": True})
    return {name: unit[name] for name in TOLD}


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    if _NUMBER.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def units_in(values: Mapping[str, Any], count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The units of flat options that are on, by their numbers from 1."""
    for number in range(1, count + 1):
        prefix = f"units_{number}_"
        if values.get(f"{prefix}on"):
            yield number, {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def texts_of(values: Mapping[str, Any], count: int, entry: Callable[[str], str]) -> dict[str, str]:
    """The texts of the units that are on, by key. ``entry`` is the name under which a model's file is listed."""
    found: dict[str, str] = {}
    for unit in (unit for _, unit in units_in(values, count)):
        told = {name: unit[name] for name in TOLD} | {"model": entry(unit["model"]), "enabled": True}
        if text := write_unit(read_unit(told) if told["guidance_start"] <= told["guidance_end"] else told):
            found[f"ControlNet {len(found)}"] = text
    return found


def options_of_texts(texts: Mapping[str, str], find: Find, tell: Callable[[str], None]) -> dict[str, Any]:
    """Options for texts by key: the first unit that is read is unit 1. ``tell`` hears what cannot be read."""
    found: dict[str, Any] = {}
    number = 0
    for key in sorted(texts, key=lambda key: int(key.rpartition(" ")[2])):
        try:
            unit = read_text(texts[key])
        except UserError as error:
            tell(f"{key} is left out: {error.message}")
            continue
        number += 1
        module = module_named(unit["module"])
        unit["module"], unit["weight"] = module.label, float(unit["weight"])
        # What is usual for the module stands in the text in full; here it is said by -1.
        for name in ("processor_res", "threshold_a", "threshold_b"):
            unit[name] = -1 if unit[name] == module.within(name, -1) else unit[name]
        unit["processor_res"] = int(unit["processor_res"])
        unit |= {name: float(unit[name]) for name in ("threshold_a", "threshold_b")}
        file = "" if unit["model"] == "None" else find(unit["model"])
        if file is None:
            tell(f"{key}: there is no model {unit['model'][:60]} here")
        unit["model"] = file or ""
        found |= {f"units_{number}_on": True} | {f"units_{number}_{name}": value for name, value in unit.items()}
    return found
