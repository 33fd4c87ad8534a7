"""A1111's settings as its clients get and set them. Each account has its own, which hold for its requests by this API.

``options.json`` lists all settings of A1111 1.10 with their defaults, and the keys under which generation texts have
them. One that is a parameter of a request here is one by its name, or by that key; all others are kept and given back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.errors import OutputError, UserError
from modules.metadata.image_text import Encoding
from modules.params.generation import GenerationParams
from modules.params.options import flat_of
from modules.storage import atomic

log = logging.getLogger(__name__)

KNOWN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    json.loads((Path(__file__).parent / "options.json").read_text(encoding="utf-8"))
)
"""By name: ``default``, perhaps ``infotext``, and ``restrict_api`` where a request may not change it."""
CHECKPOINT, VAE = "sd_model_checkpoint", "sd_vae"
OTHER_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        CHECKPOINT: ("checkpoint",),
        "face_restoration": ("restore_faces",),
        "face_restoration_model": ("face_restorer",),
        "img2img_color_correction": ("colour_correction",),
        "img2img_fix_steps": ("exact_steps",),
        "img2img_background_color": ("background",),
        "overlay_inpaint": ("mask_overlay",),
    }
)
"""Settings that neither their name nor their key in a text brings to the parameters they are."""
PREVIEW_TYPE, PREVIEW_EVERY, PREVIEWS = "show_progress_type", "show_progress_every_n_steps", "live_previews_enable"
PREVIEW_TYPES: Mapping[str, str] = MappingProxyType(
    {"Full": "Full", "Approx NN": "Approx cheap", "Approx cheap": "Approx cheap", "TAESD": "TAESD"}
)
"""A1111's names for what previews are made with, and ours. The network of "Approx NN" is not here."""
ANSWER = ("samples_format", "jpeg_quality", "webp_lossless", "return_grid", "n_rows", "grid_only_if_multiple")
"""Settings of the answer itself."""
MAX_BYTES = 1_000_000


@cache
def parameters_of(name: str) -> tuple[str, ...]:
    """The parameters that a setting of A1111's is here, by their names among all options side by side.

    >>> parameters_of("CLIP_stop_at_last_layers"), parameters_of("s_churn"), parameters_of("font")
    (('clip_skip',), ('s_churn',), ())
    """
    flat = flat_of(GenerationParams)
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    if name in flat and name in KNOWN:
        return (name,)
    key = KNOWN.get(name, {}).get("infotext")
    return tuple(ours for ours, option in flat.items() if key and option.key == key)


def values_from(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as values of our parameters, side by side."""
    found = {ours: _value(name, value) for name, value in settings.items() for ours in parameters_of(name)}
    return {name: value for name, value in found.items() if value is not None}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for a setting whose value no request could have: kept, it would spoil all that follow."""
    for name, value in settings.items():
        for ours in parameters_of(name):
            try:
                if (said := _value(name, value)) is not None:
                    flat_of(GenerationParams)[ours].cast(said)
            except UserError as error:
                raise UserError(f"the setting {name} cannot be so: {error.message}", field=name) from error


def _value(name: str, value: Any) -> Any:
    if name == "randn_source" and value == "GPU":
        return "NV"  # the same numbers, made in software
    if name == CHECKPOINT and isinstance(value, str):
        return untitled(value)
    return value


def untitled(title: str) -> str:
    """The file of a checkpoint's title.

    >>> untitled("sub/model.safetensors [0123456789]")
    'sub/model.safetensors'
    """
    name, bracket, hash_ = title.rpartition(" [")
    return name if bracket and hash_.endswith("]") else title


def unheeded(settings: Mapping[str, Any]) -> list[str]:
    """The names of those that change nothing here, unknown ones too."""
    known = {*ANSWER, PREVIEW_TYPE, PREVIEW_EVERY, PREVIEWS} - misread(settings).keys()
    return sorted(name for name in settings if not parameters_of(name) and name not in known)


def misread(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of previews whose values mean nothing, each with a sentence.

    >>> misread({"live_previews_enable": "no", "show_progress_every_n_steps": 3})
    {'live_previews_enable': 'the setting live_previews_enable has no effect: it may be true or false'}
    """
    may = {PREVIEW_TYPE: ", ".join(PREVIEW_TYPES), PREVIEW_EVERY: "-1 to 150", PREVIEWS: "true or false"}
    right = {PREVIEW_TYPE: _kind, PREVIEW_EVERY: _every, PREVIEWS: _enabled}
    return {
        name: f"the setting {name} has no effect: it may be {may[name]}"
        for name in may
        if name in settings and right[name](settings[name]) is None
    }


def previews_of(settings: Mapping[str, Any]) -> tuple[int | None, str]:
    """Steps between previews (0: none), and what they are made with; None and "" where the settings do not say.

    A1111 has -1 for no previews, and 0 as well as 1 for one at every step.
    """
    every = 0 if _enabled(settings.get(PREVIEWS)) is False else _every(settings.get(PREVIEW_EVERY))
    return every, _kind(settings.get(PREVIEW_TYPE)) or ""


def _kind(value: Any) -> str | None:
    return PREVIEW_TYPES.get(value) if isinstance(value, str) else None


def _every(value: Any) -> int | None:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value in range(-1, 151)
    return (0 if value == -1 else max(1, int(value))) if whole else None


def _enabled(value: Any) -> bool | None:
    return bool(value) if isinstance(value, (bool, int)) and value in (0, 1) else None


def encoding_of(settings: Mapping[str, Any]) -> Encoding | None:
    """How pictures are answered; None: as they were saved."""
    suffix = {"jpeg": "jpg"}.get(str(settings.get("samples_format", "")).lower(), settings.get("samples_format"))
    if suffix not in ("png", "jpg", "webp"):
        return None
    quality = settings.get("jpeg_quality", KNOWN["jpeg_quality"]["default"])
    quality = quality if isinstance(quality, int) and 1 <= quality <= 100 else 80
    return Encoding(str(suffix), quality, bool(settings.get("webp_lossless", False)))


class Options:
    """The settings of each account, in a file of its own below ``folder``. Safe to call from any thread."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()

    def chosen(self, owner: str) -> dict[str, Any]:
        """What the account has set."""
        try:
            data = self._path(owner).read_bytes()
            values = json.loads(data) if len(data) <= MAX_BYTES else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            log.warning("the settings of %s for A1111's API cannot be read: %s", owner, error)
            return {}
        return values if isinstance(values, dict) else {}

    def change(self, owner: str, values: Mapping[str, Any]) -> None:
        """Keep ``values``; those that A1111 does not let a request change stay as they are."""
        free = {name: value for name, value in values.items() if not KNOWN.get(name, {}).get("restrict_api")}
        with self._lock:
            data = json.dumps({**self.chosen(owner), **free}, indent=1, sort_keys=True).encode()
            if len(data) > MAX_BYTES:
                raise UserError("these settings have more than a million bytes", hint="send fewer")
            try:
                atomic.make_folder(self.folder)
                atomic.write(self._path(owner), data)
            except OSError as error:
                raise OutputError(
                    f"the settings could not be saved: {error.strerror or error}", hint=atomic.way_out(error)
                ) from error

    def _path(self, owner: str) -> Path:
        return self.folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.json"
