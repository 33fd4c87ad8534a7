"""The HTTP API of A1111's extension, at /controlnet/... and below /api/ext/controlnet/."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from modules import Host, RouteSpec, UserError

from . import hints
from .models import Models
from .preprocessors import preprocessed
from .previews import encoded
from .registry import LABELS, MODULES, module_named, types_of

VERSION = 3
Values = Mapping[str, Any]


def add_routes(host: Host, models: Models, count: int) -> None:
    def model_list(values: Values, owner: str) -> Any:
        return {"model_list": list(models.entries())}

    def control_types(values: Values, owner: str) -> Any:
        return {"control_types": {kind.name: _told(kind) for kind in types_of(models.entries())}}

    answers: Mapping[str, Callable[[Values, str], Any]] = {
        "version": lambda values, owner: {"version": VERSION},
        "model_list": model_list,
        "module_list": module_list,
        "control_types": control_types,
        "settings": lambda values, owner: {"control_net_unit_count": count},
    }
    for path, answer in answers.items():
        host.add_route(RouteSpec(path, answer, rooted=True))
    host.add_route(RouteSpec("detect", detect, "POST", rooted=True))


def _told(kind: Any) -> dict[str, Any]:
    return {
        "module_list": list(kind.modules),
        "model_list": ["None", *kind.models],
        "default_option": kind.default_module,
        "default_model": kind.default_model,
    }


def module_list(values: Values, owner: str) -> Any:
    labels = str(values.get("alias_names", "")).lower() in ("1", "true", "on", "yes")
    details = {module.name: module.detail() for module in MODULES.values()}
    return {"module_list": list(LABELS if labels else MODULES), "module_detail": details}


def detect(values: Values, owner: str) -> Any:
    """The pictures that a module makes of others."""
    try:
        module = module_named(values.get("controlnet_module", "none"))
    except UserError:
        raise UserError("Module not available", hint="GET /controlnet/module_list lists them") from None
    if module.name.startswith(("clip_vision", "revision_")) or module.name == "ip-adapter-auto":
        raise UserError("Module not supported")
    images, masks = _pictures(values, "controlnet_input_images"), _pictures(values, "controlnet_masks")
    if not images:
        raise UserError("No image selected")
    if "R" in module.flags and not masks:
        raise UserError(f"Preprocessor {module.name} requires `controlnet_masks` param.")
    size, a, b = (_number(values, name) for name in ("processor_res", "threshold_a", "threshold_b"))
    answers = []
    for i, image in enumerate(images):
        x = hints.with_mask(image, masks[i] if i < len(masks) and module.takes_mask else None)
        x = x if module.takes_mask and masks else x[..., :3]
        answers.append(encoded(preprocessed(module, x, size, a, b)))
    return {"images": answers, "info": "Success"}


def _number(values: Values, name: str) -> float:
    try:
        return float(values.get(f"controlnet_{name}", -1))
    except (TypeError, ValueError):
        raise UserError(f"controlnet_{name} must be a number") from None


def _pictures(values: Values, name: str) -> list[Any]:
    from modules import open_image

    given = values.get(name, [])
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise UserError(f"{name} must be a list of pictures in base64")
    try:
        return [open_image(base64.b64decode(text.rpartition(",")[2], validate=True)) for text in given]
    except ValueError:
        raise UserError(f"{name} holds what is not base64") from None
