"""A request of A1111's made one of ours. What says the same thing later wins: the defaults of the API, the account's
settings, the ``infotext``, the fields of the request, its scripts, ``override_settings``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from modules.diffusion.names import resolve, split_sampler
from modules.errors import UnknownName
from modules.extension.option_values import stored
from modules.jobs.protocol import GenerateSpec, Json, Origin, ScriptSpec
from modules.metadata.infotext.keys import AUTOMATIC
from modules.params.generation import CONTENTS, RESIZE_MODES, GenerationParams, Init, ModifierOptions
from modules.params.options import flat_of, from_flat, options_of, to_flat
from modules.prompt.styles import StyleBook, apply
from webui.api.sdapi.fields import IMG2IMG, TXT2IMG, Field, read_fields, with_defaults, without_effect
from webui.api.sdapi.options import PREVIEW_TYPE, check_settings, misread, previews_of, unheeded, values_from
from webui.api.sdapi.pictures import decoded
from webui.api.sdapi.route import Refusal
from webui.api.sdapi.scripts import Call, called
from webui.recorded import settings_of_text
from webui.services import Services

INIT = frozenset(flat_of(Init))
"""Parameters of a start picture and its mask."""
NUMBERED = {"resize_mode": RESIZE_MODES, "inpainting_fill": CONTENTS}
"""Fields that count A1111's choices."""
STRENGTH = 0.75
TAG = re.compile(r"<\w+:[^>]+>")
"""Of a network in a prompt."""


@dataclass(frozen=True)
class Asked:
    """A request that was read."""

    given: Mapping[str, Any]
    """Its fields, as far as they were given."""
    params: GenerationParams
    call: Call
    settings: Mapping[str, Any]
    """A1111's settings that hold for it."""
    styles: tuple[str, ...]
    notes: tuple[str, ...]

    def spec(self, tab: str) -> GenerateSpec | ScriptSpec:
        every, kind = previews_of(self.settings)
        origin = Origin(tab=tab, notes=self.notes, preview_every=every, preview_type=kind)
        if self.call.script:
            return ScriptSpec(self.call.script, self.call.options, self.params, origin)
        return GenerateSpec(self.params, origin=origin)


def table_of(tab: str) -> Mapping[str, Field]:
    return TXT2IMG if tab == "txt2img" else IMG2IMG


def read_request(services: Services, tab: str, body: Json, chosen: Mapping[str, Any]) -> Asked:
    """``chosen``: the account's settings. Raises `UserError`, and `Refusal` with A1111's statuses."""
    table = table_of(tab)
    given = read_fields(table, body)
    check_settings(given.get("override_settings", {}))
    settings = {**chosen, **given.get("override_settings", {})}
    told, notes, styles = _told(services, given.get("infotext", ""))
    call = called(services.host, tab, given)
    values = {"hires_denoising_strength": STRENGTH, "image_cfg_scale": 1.0, **_fields(table, with_defaults(table, {}))}
    values |= values_from(chosen) | told | _fields(table, given)
    values |= _sampler(services, given, told)
    if tab == "txt2img":
        values |= _passes(given)
    else:
        values |= _start(services, given)
    if "eta" in given:
        values |= {"eta": given["eta"], "eta_ddim": given["eta"]}
    values |= dict(call.values) | values_from(given.get("override_settings", {}))
    styles = (*map(str, given.get("styles", ())), *styles)
    values |= _styled(services, styles, values)
    if given.get("disable_extra_networks"):
        values |= {name: TAG.sub("", str(values[name])) for name in ("prompt", "negative_prompt")}
    extensions = ModifierOptions.from_json({**(told.get("extensions") or {}), **call.modifiers})
    said = without_effect(table, given)
    if given.get("mask_blur_x", 4) != given.get("mask_blur_y", 4) and "mask_blur" not in given:
        said.append("mask_blur_y has no effect where it differs: a mask is blurred alike in both directions")
    said += _settings_notes(given.get("override_settings", {}))
    wanted = _grouped(values, hires=bool(given.get("enable_hr", told.get("hires", False))) and tab == "txt2img")
    extensions = stored(tuple(services.host.modifiers), extensions, partial(_put, services))
    params = GenerationParams.from_json({**wanted, "extensions": extensions})
    return Asked(given, params, call, settings, styles, (*notes, *call.notes, *said))


def _settings_notes(settings: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that does not do what its name says."""
    sentences = misread(settings)
    said = [sentences.get(name, f"the setting {name} has no effect") for name in unheeded(settings)]
    if settings.get(PREVIEW_TYPE) == "Approx NN":
        said.append("previews are made as Approx cheap: the network of Approx NN is not here")
    return said


def _put(services: Services, picture: str, field: str) -> str:
    return services.inputs.put(decoded(picture, field))


def _told(services: Services, infotext: str) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """The parameters, side by side, that a generation text asks for; notes on it; and the styles in it."""
    if not infotext:
        return {}, (), ()
    paste = settings_of_text(services, infotext)
    flat = to_flat(GenerationParams, paste.changes) | paste.start
    return flat | {"extensions": paste.changes.get("extensions")}, paste.notes, ()


def _fields(table: Mapping[str, Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of parameters that fields are."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        field = table[name]
        if value is None or field.to not in flat_of(GenerationParams):
            continue
        if name in NUMBERED:
            value = _numbered(name, value)
        elif name in ("seed_resize_from_w", "seed_resize_from_h"):
            value = max(value, 0)
        elif name.startswith("hr_") and isinstance(value, str) and value.startswith("Use same "):
            value = ""
        found[field.to] = value
    return found


def _numbered(name: str, value: int) -> str:
    choices = NUMBERED[name]
    if not 0 <= value < len(choices):
        raise Refusal(422, f"{name} must be between 0 and {len(choices) - 1}", field=name)
    return choices[value]


def _sampler(services: Services, given: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's name may carry the schedule, which holds where the request names none."""
    host = services.host
    name = given.get("sampler_name") or given.get("sampler_index") or told.get("sampler") or "Euler"
    label = given.get("scheduler") or ("" if "sampler_name" in given else told.get("scheduler", ""))
    bare, split = split_sampler(name, host.schedulers)
    if name not in host.samplers and bare in host.samplers and label:
        name = bare
    try:
        sampler, scheduler, _ = resolve(name, label or split or AUTOMATIC, host.samplers, host.schedulers)
    except UnknownName as error:
        message = "Sampler not found" if error.field == "sampler" else error.message
        raise Refusal(400, message, field=error.field) from error
    return {"sampler": sampler, "scheduler": scheduler}


def _passes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hires fix of A1111's first versions names the size of the first pass, and then the other size is the last."""
    width, height = given.get("firstphase_width", 0), given.get("firstphase_height", 0)
    if not (width or height):
        return {}
    last = given.get("width", 512), given.get("height", 512)
    first = {"width": width or last[0], "height": height or last[1]}
    return first | {"hires_width": last[0], "hires_height": last[1]}


def _start(services: Services, given: Mapping[str, Any]) -> dict[str, Any]:
    """The start pictures and the mask, stored under the names that requests have for them."""
    pictures = given.get("init_images")
    if not pictures:
        raise Refusal(404, "Init image not found", field="init_images")
    put, hosts = services.inputs.put, services.api.image_hosts
    keys = [put(decoded(str(one), "init_images", hosts)) for one in pictures]
    values: dict[str, Any] = {"image": ",".join(keys)}
    if len(pictures) > 1:
        values["batch_size"] = len(pictures)
    if given.get("mask"):
        values["mask_image"] = put(decoded(given["mask"], "mask", hosts))
        values["mask_blur"] = given.get("mask_blur", given.get("mask_blur_x", given.get("mask_blur_y", 4)))
    return values


def _styled(services: Services, names: tuple[str, ...], values: Mapping[str, Any]) -> dict[str, str]:
    if not names:
        return {}
    found = StyleBook(services.styles_path).chosen(names)
    prompt, negative = apply(found, str(values["prompt"]), str(values["negative_prompt"]))
    return {"prompt": prompt, "negative_prompt": negative}


def _grouped(values: Mapping[str, Any], *, hires: bool) -> dict[str, Any]:
    """Values side by side put into their groups, of those groups that the request has."""
    plain, kept = options_of(GenerationParams), {}
    for name, value in values.items():
        if name not in flat_of(GenerationParams):
            continue
        absent = (
            (name not in plain and name.startswith("hires_") and not hires)
            or (name not in plain and name.startswith("refiner_") and not values.get("refiner_checkpoint"))
            or (name in INIT and not values.get("image"))
            or (name in INIT and name.startswith("mask_") and not values.get("mask_image"))
        )
        if not absent:
            kept[name] = value
    return from_flat(GenerationParams, kept)
