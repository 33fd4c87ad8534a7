"""Extras: upscales finished images with one upscaler or a blend of two, and restores faces."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image
from PIL.Image import Resampling

from modules.errors import RepriseError, UserError, without_folders
from modules.extension.host import Host
from modules.extension.page import ExtrasStepSpec
from modules.imaging.files import check_given
from modules.params.generation import BY, TO, ExtrasParams
from modules.params.options import Nested, Shape, options_of, read, values_of
from modules.restoration.upscale import MAX_RESULT, UpscalerSpec, Work, upscale


@dataclass(frozen=True)
class Extra:
    """A postprocessed image, and what was done, in A1111's words."""

    image: Image.Image
    infotext: str
    notes: tuple[str, ...] = ()
    """Notes for the user."""


def check(params: ExtrasParams, host: Host) -> None:
    """Raise a `UserError` for an impossible request before any image is opened."""
    for name in ("upscaler", "upscaler_2"):
        try:
            host.upscalers.get(getattr(params, name))
        except UserError as error:
            raise type(error)(error.message, hint=error.hint, field=name) from None
    if 0 < params.tile_size <= params.tile_overlap:
        raise UserError("tiles must be larger than their overlap", hint="choose larger tiles", field="tile_size")
    for name in _restorers(params):
        host.face_restorer(name, field=f"{name.lower()}_visibility")
    for name in params.steps:
        step_options(host.extras_steps.get(name), params.steps[name])


def with_steps(host: Host) -> Shape[ExtrasParams]:
    """The options of Extras with those of extensions' steps beside them: ``step.cutout.soft``, switched by
    ``step.cutout``."""
    groups = [
        Nested(spec.name, spec.label, spec.options, f"step.{spec.name}.", help=spec.help, take=_taken(spec))
        for spec in in_order(host)
    ]
    return Shape(ExtrasParams, {"steps": groups})


def in_order(host: Host) -> list[ExtrasStepSpec]:
    """The steps of extensions as they follow each other: by their order, then by name."""
    return sorted(host.extras_steps, key=lambda spec: (spec.order, spec.name))


def step_options(spec: ExtrasStepSpec, values: Mapping[str, Any]) -> Any:
    """The options of a step from unchecked values. Raises `UserError`."""
    known = options_of(cast(Hashable, spec.options))
    if foreign := sorted(values.keys() - known.keys()):
        raise UserError(
            f"{spec.label} has no option {foreign[0][:40]!r}",
            hint=f"it has {', '.join(known) or 'none'}",
            field=f"steps.{spec.name}",
        )
    try:
        return read(spec.options, values)
    except UserError as error:
        field = f"steps.{spec.name}.{error.field}"
        raise type(error)(f"{spec.label}: {error.message}", hint=error.hint, field=field) from None


def _taken(spec: ExtrasStepSpec) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda values: values_of(step_options(spec, values))


def _stepped(image: Image.Image, params: ExtrasParams, host: Host, done: dict[str, Any]) -> Image.Image:
    """The image after the steps of extensions, each told by its label and the options that are not the default."""
    for spec in in_order(host):
        if spec.name not in params.steps:
            continue
        options = step_options(spec, params.steps[spec.name])
        owner = host.owner_of("extras_step", spec.name)
        try:
            image = check_given(spec.apply(image, options))
        except RepriseError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {without_folders(error)}"
            raise RepriseError(
                f"extension {owner[0] if owner else ''} failed in {spec.label} ({said})",
                hint="leave this step out, and tell its author",
            ) from error
        done[spec.label] = owner[1] if owner else True
        for name, option in options_of(cast(Hashable, spec.options)).items():
            if getattr(options, name) != option.default:
                done[f"{spec.label} {option.label.lower()}"] = getattr(options, name)
    return image


def process(image: Image.Image, params: ExtrasParams, host: Host, work: Work = Work()) -> Extra:
    """Upscale the image, restore faces, take the steps of extensions; returns it with a record of what was done."""
    work = dataclasses.replace(work, tile_size=params.tile_size, tile_overlap=params.tile_overlap)
    done: dict[str, Any] = {}
    image = _enlarged(image, params, host, work, done)
    notes: list[str] = []
    for name, visibility in _restorers(params).items():
        weight = params.codeformer_weight if name == "CodeFormer" else 0.0
        restored = host.face_restorer(name).restore(image, weight)
        if restored is image:
            notes.append(f"{name} found no face in the picture")
            continue
        image = Image.blend(image, restored.convert(image.mode), visibility)
        done[f"{name} visibility"] = round(visibility, 3)
        if name == "CodeFormer":
            done["CodeFormer weight"] = weight
    image = _stepped(image, params, host, done)
    return Extra(image, ", ".join(f"{key}: {_quoted(value)}" for key, value in done.items()), tuple(notes))


def _restorers(params: ExtrasParams) -> dict[str, float]:
    """The requested face restorers and their visibility, in A1111's order."""
    visible = {"GFPGAN": params.gfpgan_visibility, "CodeFormer": params.codeformer_visibility}
    return {name: visibility for name, visibility in visible.items() if visibility}


def _enlarged(image: Image.Image, params: ExtrasParams, host: Host, work: Work, done: dict[str, Any]) -> Image.Image:
    first, second = host.upscalers.get(params.upscaler), host.upscalers.get(params.upscaler_2)
    if first.name == "None":  # as A1111 has it: no upscaler, no other size
        return image
    result = _resized(first, image, params, work)
    if params.resize == TO:
        done["Postprocess upscale to"] = f"{params.width}x{params.height}"
        if params.crop:
            done["Postprocess crop to"] = f"{result.width}x{result.height}"
    else:
        done["Postprocess upscale by"] = params.by
    done["Postprocess upscaler"] = first.name
    if second.name != "None" and params.upscaler_2_visibility > 0:
        result = Image.blend(result, _resized(second, image, params, work), params.upscaler_2_visibility)
        done["Postprocess upscaler 2"] = second.name
    return result


def _resized(spec: UpscalerSpec, image: Image.Image, params: ExtrasParams, work: Work) -> Image.Image:
    if params.resize == BY:
        return upscale(spec, image, params.by, work)
    size = params.width, params.height
    factor = max(side / before for side, before in zip(size, image.size, strict=True))
    _check_shape(image, factor)
    large = upscale(spec, image, factor, work)
    if not params.crop:
        return large
    if large.width < size[0] or large.height < size[1]:  # sides are rounded down to multiples of 8
        large = large.resize((max(large.width, size[0]), max(large.height, size[1])), Resampling.LANCZOS)
    left, top = large.width // 2 - size[0] // 2, large.height // 2 - size[1] // 2
    return large.crop((left, top, left + size[0], top + size[1]))


def _check_shape(image: Image.Image, factor: float) -> None:
    if image.width * image.height * factor**2 > MAX_RESULT:
        raise UserError(
            f"a picture of {image.width} x {image.height} would grow beyond {MAX_RESULT // 1_000_000} megapixels",
            hint="choose a smaller size, or one of its shape",
            field="width",
        )


def _quoted(value: Any) -> str:
    """Quote as in infotext: names with a comma, colon or newline."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text
