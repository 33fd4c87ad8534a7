"""SDXL and its refiner: Podell et al. (2023), arXiv:2307.01952. Sizes and pooled text condition the UNet too."""

from __future__ import annotations

from modules.checkpoints.families.base import UNET, EncoderSpec, Family, LatentFormat, Shapes
from modules.nn.configs import OPEN_CLIP

CLIP_L = "conditioner.embedders.0.transformer.text_model."
BIG_G, REFINER_BIG_G = "conditioner.embedders.1.model.", "conditioner.embedders.0.model."
SIZES = ("height", "width", "top", "left")


def _is_refiner(shapes: Shapes) -> bool:
    """SD 2.1 Turbo has its encoder in the same place, of another width and for a UNet that takes no vector."""
    width = shapes.get(f"{REFINER_BIG_G}ln_final.weight")
    return width == (1280,) or (width is not None and f"{UNET}label_emb.0.0.weight" in shapes)


SDXL = Family(
    name="sdxl",
    label="SDXL",
    matches=lambda shapes: f"{BIG_G}ln_final.weight" in shapes,
    encoders=(
        EncoderSpec("text", (CLIP_L, "conditioner.embedders.0.transformer."), skip=2, final_norm=False, may_skip=True),
        EncoderSpec("text_2", (BIG_G,), OPEN_CLIP, skip=2, final_norm=False, pooled=True, pads_with_zero=True),
    ),
    vector=(*SIZES, "height", "width"),
    latent=LatentFormat(scale=0.13025),
    native_size=1024,
    sdxl_schedules=True,
)
SDXL_REFINER = Family(
    name="sdxl-refiner",
    label="SDXL refiner",
    matches=_is_refiner,
    encoders=(
        EncoderSpec("text", (REFINER_BIG_G,), OPEN_CLIP, skip=2, final_norm=False, pooled=True, pads_with_zero=True),
    ),
    vector=(*SIZES, "score"),
    latent=LatentFormat(scale=0.13025),
    native_size=1024,
    sdxl_schedules=True,
)
