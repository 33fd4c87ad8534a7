"""Model families as objects: what tells one, where its parts lie in a file, and how its latents and texts are used."""

from __future__ import annotations

from modules.checkpoints.families.base import Family
from modules.checkpoints.families.others import ALT_DIFFUSION, SD2_DEPTH, SD2_UNCLIP, SD3
from modules.checkpoints.families.sd1 import SD1
from modules.checkpoints.families.sd2 import SD2
from modules.checkpoints.families.sdxl import SDXL, SDXL_REFINER

FAMILIES: tuple[Family, ...] = (SD3, SDXL, SDXL_REFINER, SD2_DEPTH, SD2_UNCLIP, SD2, ALT_DIFFUSION, SD1)
"""In A1111's order, each told by the one tensor that decides: what mergers and trainers leave decides nothing."""
