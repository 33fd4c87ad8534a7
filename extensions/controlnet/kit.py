"""What the kit's tests try the extension with: a ControlNet of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .models import FOLDER

if TYPE_CHECKING:
    from modules import LatentDiffusion


def options(models: Path, model: LatentDiffusion, picture: str) -> dict[str, dict[str, Any]]:
    from modules import write_tiny_control

    path = models / FOLDER / "random.safetensors"
    if not path.exists():
        write_tiny_control(path, model.config.unet)
    unit = {"units_1_on": True, "units_1_model": path.name, "units_1_image": picture}
    return {"controlnet": {**unit, "units_1_module": "invert (from white bg & black line)", "units_1_weight": 0.8}}
