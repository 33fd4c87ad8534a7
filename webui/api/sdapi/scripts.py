"""Scripts as A1111's clients call them: by title, with arguments that count by their places alone."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.modifier import ModifierSpec
from modules.extension.script import NO_AXIS, ORDER_AXIS, SEARCH_AXIS, axis_names
from modules.params.generation import GenerationParams
from modules.params.options import Option, flat_of, options_of
from webui.api.sdapi.route import Refusal

TXT2IMG, IMG2IMG = "txt2img", "img2img"
BOTH = (TXT2IMG, IMG2IMG)


@dataclass(frozen=True)
class Arg:
    """One argument: its label, and the option whose value it is; without one it has no effect here."""

    label: str
    to: str = ""
    default: Any = None


@dataclass(frozen=True)
class Known:
    """A script of A1111's. ``name`` is that of our script; "" where it is parameters of the request itself."""

    args: tuple[Arg, ...]
    name: str = ""
    tabs: tuple[str, ...] = BOTH


SELECTABLE: Mapping[str, Known] = {
    "x/y/z plot": Known(
        (
            *(
                arg
                for letter in "XYZ"
                for arg in (
                    Arg(f"{letter} type", f"{letter.lower()}_type", 0),
                    Arg(f"{letter} values", f"{letter.lower()}_values", ""),
                    Arg(f"{letter} values", f"{letter.lower()}_chosen", []),
                )
            ),
            Arg("Draw legend", "legend", True),
            Arg("Include Sub Images", "lone", False),
            Arg("Include Sub Grids", "", False),
            Arg("Keep -1 for seeds", "", False),
            *(Arg(f"Vary seeds for {letter}", f"vary_{letter.lower()}", False) for letter in "XYZ"),
            Arg("Grid margins (px)", "margin", 0),
            Arg("Use text inputs instead of dropdowns", "csv", False),
        ),
        "xyz_grid",
    ),
    "prompt matrix": Known(
        (
            Arg("Put variable parts at start of prompt", "at_start", False),
            Arg("Use different seed for each picture", "new_seeds", False),
            Arg("Select prompt", "negative", "positive"),
            Arg("Select joining char", "joined_by", "comma"),
            Arg("Grid margins (px)", "margin", 0),
        ),
        "prompt_matrix",
    ),
    "prompts from file or textbox": Known(
        (
            Arg("Iterate seed every line", "next_seed", False),
            Arg("Use same random seed for all lines", "new_seeds", False),
            Arg("Insert prompts at the", "prompt", "start"),
            Arg("List of prompt inputs", "lines", ""),
        ),
        "prompts_from_file",
    ),
    "loopback": Known(
        (
            Arg("Loops", "loops", 4),
            Arg("Final denoising strength", "final_strength", 0.5),
            Arg("Denoising strength curve", "curve", "Linear"),
            Arg("Append interrogated prompt at each iteration", "", "None"),
        ),
        "loopback",
        (IMG2IMG,),
    ),
    "sd upscale": Known(
        (
            Arg("", "", ""),
            Arg("Tile overlap", "sd_upscale_overlap", 64),
            Arg("Upscaler", "sd_upscale_upscaler", "None"),
            Arg("Scale Factor", "sd_upscale_by", 2.0),
        ),
        "",
        (IMG2IMG,),
    ),
}
ALWAYS_ON: Mapping[str, Known] = {
    "refiner": Known(
        (
            Arg("Refiner", "enabled", False),
            Arg("Checkpoint", "refiner_checkpoint", ""),
            Arg("Switch at", "refiner_switch_at", 0.8),
        )
    ),
    "seed": Known(
        (
            Arg("Seed", "seed", -1),
            Arg("Extra", "enabled", False),
            Arg("Variation seed", "subseed", -1),
            Arg("Variation strength", "subseed_strength", 0.0),
            Arg("Resize seed from width", "seed_resize_from_w", 0),
            Arg("Resize seed from height", "seed_resize_from_h", 0),
        )
    ),
    "sampler": Known(
        (Arg("Sampling steps", "steps", 20), Arg("Sampling method", "sampler"), Arg("Schedule type", "scheduler"))
    ),
    "soft inpainting": Known(
        (
            Arg("Soft inpainting", "enabled", False),
            Arg("Schedule bias", "mask_soft_schedule_bias", 1.0),
            Arg("Preservation strength", "mask_soft_preservation", 0.5),
            Arg("Transition contrast boost", "mask_soft_contrast_boost", 4.0),
            Arg("Mask influence", "mask_soft_mask_influence", 0.0),
            Arg("Difference threshold", "mask_soft_difference_threshold", 0.5),
            Arg("Difference contrast", "mask_soft_difference_contrast", 2.0),
        ),
        "",
        (IMG2IMG,),
    ),
}

AXES: Sequence[tuple[str, tuple[str, ...], str]] = (
    ("Nothing", BOTH, NO_AXIS),
    ("Seed", BOTH, "seed"),
    ("Var. seed", BOTH, "subseed"),
    ("Var. strength", BOTH, "subseed_strength"),
    ("Steps", BOTH, "steps"),
    ("Hires steps", (TXT2IMG,), "hires_steps"),
    ("CFG Scale", BOTH, "cfg_scale"),
    ("Image CFG Scale", (IMG2IMG,), "image_cfg_scale"),
    ("Prompt S/R", BOTH, SEARCH_AXIS),
    ("Prompt order", BOTH, ORDER_AXIS),
    ("Sampler", (TXT2IMG,), "sampler"),
    ("Hires sampler", (TXT2IMG,), "hires_sampler"),
    ("Sampler", (IMG2IMG,), "sampler"),
    ("Checkpoint name", BOTH, "checkpoint"),
    ("Negative Guidance minimum sigma", BOTH, "s_min_uncond"),
    ("Sigma Churn", BOTH, "s_churn"),
    ("Sigma min", BOTH, "s_tmin"),
    ("Sigma max", BOTH, "s_tmax"),
    ("Sigma noise", BOTH, "s_noise"),
    ("Schedule type", BOTH, "scheduler"),
    ("Schedule min sigma", BOTH, "sigma_min"),
    ("Schedule max sigma", BOTH, "sigma_max"),
    ("Schedule rho", BOTH, "rho"),
    ("Beta schedule alpha", BOTH, "beta_dist_alpha"),
    ("Beta schedule beta", BOTH, "beta_dist_beta"),
    ("Eta", BOTH, "eta"),
    ("Clip skip", BOTH, "clip_skip"),
    ("Denoising", BOTH, "denoising_strength"),
    ("Initial noise multiplier", BOTH, "noise_multiplier"),
    ("Extra noise", BOTH, "extra_noise"),
    ("Hires upscaler", (TXT2IMG,), "hires_upscaler"),
    ("Cond. Image Mask Weight", (IMG2IMG,), "mask_conditioning"),
    ("VAE", BOTH, "vae"),
    ("Styles", BOTH, "styles"),
    ("UniPC Order", BOTH, "uni_pc_order"),
    ("Face restore", BOTH, "face_restorer"),
    ("Token merging ratio", BOTH, "token_merging_ratio"),
    ("Token merging ratio high-res", BOTH, "token_merging_ratio_hr"),
    ("Always discard next-to-last sigma", BOTH, "always_discard_next_to_last_sigma"),
    ("SGM noise multiplier", BOTH, "sgm_noise_multiplier"),
    ("Refiner checkpoint", BOTH, "refiner_checkpoint"),
    ("Refiner switch at", BOTH, "refiner_switch_at"),
    ("RNG source", BOTH, "rng"),
    ("FP8 mode", BOTH, "fp8"),
    ("Size", BOTH, "size"),
)
"""A1111's axes in its order, in which an axis is called by its number; in img2img those of txt2img do not count."""


@dataclass(frozen=True)
class Call:
    """What the scripts of a request come to."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Values of parameters of the request, side by side."""
    script: str = ""
    """Our script to run; "" for none."""
    options: Mapping[str, Any] = field(default_factory=dict)
    sheets_only: bool = False
    """The pictures that its sheets are drawn of are not answered."""
    modifiers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def titles(host: Host, tab: str) -> list[str]:
    """The names of all scripts of a tab, in small letters."""
    on = [title for title, known in ALWAYS_ON.items() if tab in known.tabs]
    on += [spec.label.lower() for spec in _modifiers(host)]
    return [*on, *selectable(host, tab)]


def selectable(host: Host, tab: str) -> list[str]:
    ours = {known.name for known in SELECTABLE.values()}
    found = [title for title, known in SELECTABLE.items() if tab in known.tabs and _is_there(host, known)]
    return found + [spec.label.lower() for spec in host.scripts if tab in spec.tabs and spec.name not in ours]


def _modifiers(host: Host) -> list[ModifierSpec]:
    """Those of extensions: our own take part by other fields, or by tags in the prompt."""
    return [spec for spec in host.modifiers_in_order() if host.owner_of("modifier", spec.name)]


def _is_there(host: Host, known: Known) -> bool:
    return not known.name or known.name in host.scripts


def told(host: Host) -> list[dict[str, Any]]:
    """What A1111 answers on scripts: an entry for each and each tab."""
    found = []
    for tab in BOTH:
        for title in titles(host, tab):
            known = SELECTABLE.get(title) or ALWAYS_ON.get(title)
            args = [_told(arg, host, known.name) for arg in known.args] if known else _declared(host, title)
            always = title not in selectable(host, tab)
            found.append({"name": title, "is_alwayson": always, "is_img2img": tab == IMG2IMG, "args": args})
    return found


def _told(arg: Arg, host: Host, script: str) -> dict[str, Any]:
    declared = options_of(host.scripts.get(script).options) if script else flat_of(GenerationParams)
    return _limits(arg.label, arg.default, declared.get(arg.to))


def _limits(label: str, value: Any, option: Option | None) -> dict[str, Any]:
    choices = list(option.choices) if option and isinstance(option.choices, tuple) else None
    lo, hi, step = (option.lo, option.hi, option.step) if option else (None, None, None)
    return {"label": label, "value": value, "minimum": lo, "maximum": hi, "step": step, "choices": choices}


def _declared(host: Host, title: str) -> list[dict[str, Any]]:
    """Of a script or modifier of an extension: its options in their order, behind the switch of a modifier."""
    script = next((spec for spec in host.scripts if spec.label.lower() == title), None)
    if script:
        return [_limits(option.label, option.default, option) for option in options_of(script.options).values()]
    spec = _modifier(host, title)
    options = options_of(cast(Any, spec.options)).values()
    switch = [{**_limits("Enable", False, None)}]
    return switch + [_limits(option.label, option.default, option) for option in options]


def _modifier(host: Host, title: str) -> Any:
    return next((spec for spec in _modifiers(host) if title in (spec.label.lower(), spec.name.lower())), None)


def called(host: Host, tab: str, given: Mapping[str, Any]) -> Call:
    """``script_name`` with ``script_args``, and ``alwayson_scripts``. Raises `Refusal` for one that is not there."""
    values: dict[str, Any] = {}
    modifiers: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    for title, said in given.get("alwayson_scripts", {}).items():
        key, args = title.lower(), _args(title, said)
        if key in ALWAYS_ON and tab in ALWAYS_ON[key].tabs:
            values |= _always(key, args)
            notes += _left_over(title, args, len(ALWAYS_ON[key].args))
        elif (spec := _modifier(host, key)) and spec.from_args:
            if (options := spec.from_args(args)) is not None:
                modifiers[spec.name] = options
        elif spec:
            if args and args[0]:
                names = list(options_of(cast(Any, spec.options)))
                modifiers[spec.name] = _switched_on(title, names, args, notes)
        elif key in selectable(host, tab):
            raise Refusal(422, f"{title} is chosen by script_name and not always on", field="alwayson_scripts")
        else:
            raise Refusal(422, f"always on script {title} not found", field="alwayson_scripts")
    name = given.get("script_name")
    args = given.get("script_args", [])
    call = _selected(host, tab, name, args) if name else Call()
    if name:
        notes += _left_over(name, args, _count(host, name.lower()))
    return Call({**values, **call.values}, call.script, call.options, call.sheets_only, modifiers, tuple(notes))


def _left_over(title: str, args: Sequence[Any], most: int) -> list[str]:
    """A note where there are more arguments than a script takes, as clients of other versions of it send them."""
    if len(args) <= most:
        return []
    told = ", ".join(repr(arg)[:40] for arg in args[most:][:5]) + (", ..." if len(args) > most + 5 else "")
    return [f"the arguments of {title} behind the first {most} have no effect: {told}"]


def _count(host: Host, title: str) -> int:
    """How many arguments a script that can be selected takes."""
    if known := SELECTABLE.get(title):
        return len(known.args)
    return len(options_of(next(spec for spec in host.scripts if spec.label.lower() == title).options))


def _args(title: str, said: Any) -> Sequence[Any]:
    args = said.get("args", []) if isinstance(said, Mapping) else said
    if not isinstance(args, list):
        raise UserError(f'the arguments of {title} must be {{"args": [...]}}', field="alwayson_scripts")
    return args


def _switched_on(title: str, names: Sequence[str], args: Sequence[Any], notes: list[str]) -> dict[str, Any]:
    """The options of a modifier: values in their order behind the switch, or objects with their names, as ADetailer's
    clients send them. What has no effect is told in ``notes``."""
    objects = [arg for arg in args if isinstance(arg, Mapping)]
    if not objects:
        notes += _left_over(title, args, 1 + len(names))
        return dict(zip(names, args[1:], strict=False))
    if any(not isinstance(arg, (Mapping, bool)) for arg in args):
        hint = "send values in their order, or one object of options"
        raise UserError(f"the arguments of {title} mix values with objects", hint=hint, field="alwayson_scripts")
    notes += _left_over(title, [arg for arg in args if isinstance(arg, bool)], 1)
    counts = Counter(name for one in objects for name in one)
    if twice := [name for name, count in counts.items() if count > 1]:
        hint = "send one object; a list of units stands within it"
        raise UserError(f"the arguments of {title} give {twice[0][:40]} twice", hint=hint, field="alwayson_scripts")
    return {name: value for one in objects for name, value in one.items()}


def _placed(known: Known, args: Sequence[Any]) -> dict[str, Any]:
    """The arguments by their names; those left out have their defaults."""
    args = [*args, *(arg.default for arg in known.args[len(args) :])]
    return {arg.to: value for arg, value in zip(known.args, args, strict=False) if arg.to}


def _always(title: str, args: Sequence[Any]) -> dict[str, Any]:
    said = _placed(ALWAYS_ON[title], args)
    if title == "sampler":
        return {name: value for name, value in said.items() if value is not None and len(args)}
    enabled = said.pop("enabled")
    if title == "seed":
        return said if enabled else {"seed": said["seed"]}
    return said if enabled else {}


def _selected(host: Host, tab: str, name: str, args: Sequence[Any]) -> Call:
    key = name.lower()
    if key not in selectable(host, tab):
        always = key in titles(host, tab)
        raise Refusal(422, f"Script '{name}' {'is always on' if always else 'not found'}", field="script_name")
    if key not in SELECTABLE:
        spec = next(spec for spec in host.scripts if spec.label.lower() == key)
        return Call(script=spec.name, options=dict(zip(options_of(spec.options), args, strict=False)))
    known = SELECTABLE[key]
    said = _placed(known, args)
    if key == "x/y/z plot":
        return _plot(host, tab, said)
    if key == "sd upscale":
        return Call({**said, "sd_upscale_upscaler": _upscaler(host, said["sd_upscale_upscaler"])})
    if key == "prompt matrix":
        said |= {"negative": said["negative"] == "negative", "joined_by": " " if said["joined_by"] == "space" else ", "}
    if key == "prompts from file or textbox":
        said["new_seeds"] = False
        said["prompt"] = {"end": "behind the prompt"}.get(said["prompt"], "before the prompt")
    return Call(script=known.name, options=said)


def _upscaler(host: Host, said: Any) -> str:
    """By its number in the list, or its name in any capitals."""
    names = host.upscalers.names()
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < len(names):
        return names[said]
    return next((name for name in names if name.lower() == str(said).lower()), str(said))


def _plot(host: Host, tab: str, said: Mapping[str, Any]) -> Call:
    options: dict[str, Any] = {"legend": said["legend"], "margin": said["margin"]}
    options["new_seeds"] = any(said[f"vary_{letter}"] for letter in "xyz")
    for letter in "xyz":
        chosen = said[f"{letter}_chosen"]
        from_list = isinstance(chosen, list) and chosen and not said["csv"]
        options[f"{letter}_type"] = _axis(host, tab, said[f"{letter}_type"])
        options[f"{letter}_values"] = _listed(chosen) if from_list else str(said[f"{letter}_values"] or "")
    return Call(script="xyz_grid", options=options, sheets_only=not said["lone"])


def _axis(host: Host, tab: str, said: Any) -> str:
    """The label of our axis for A1111's number or name of one."""
    offered = [(label, to) for label, tabs, to in AXES if tab in tabs]
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < len(offered):
        label, to = offered[said]
    else:
        label = str(said)
        to = next((to for known, to in offered if known.lower() == label.lower()), label)
    if tab == TXT2IMG and to in ("denoising_strength", "extra_noise"):
        to = f"hires_{to}"
    axes = host.axes()
    if to in axis_names(axes):
        return to
    option = flat_of(GenerationParams).get(to)
    found = next((label for label, axis in axes.items() if option is not None and axis.option is option), None)
    if found is None:
        raise UserError(f"the plot has no axis {label}", hint="choose another one", field="script_args")
    return found


def _listed(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
