"""Extras: upscales finished images with one upscaler or a blend of two, and restores faces."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.Image import Resampling

from modules.errors import UserError
from modules.extension.host import Host
from modules.params.generation import BY, TO, ExtrasParams
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


def process(image: Image.Image, params: ExtrasParams, host: Host, work: Work = Work()) -> Extra:
    """Upscale the image, then restore faces; returns it with a record of what was done."""
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
