"""SDXL and its refiner: Podell et al. (2023), arXiv:2307.01952. Sizes and pooled text condition the UNet too."""

from __future__ import annotations

from modules.checkpoints.families.base import UNET, EncoderSpec, Family, LatentFormat, Shapes, bare_unet
from modules.nn.configs import OPEN_CLIP

CLIP_L = "conditioner.embedders.0.transformer.text_model."
BIG_G, REFINER_BIG_G = "conditioner.embedders.1.model.", "conditioner.embedders.0.model."
RGB = (
    (0.3448, 0.4168, 0.4395),
    (-0.1953, -0.0290, 0.0250),
    (0.1074, 0.0886, -0.0163),
    (-0.3730, -0.2499, -0.2088),
)
"""As A1111 has it for SDXL's latents."""
SIZES = ("height", "width", "top", "left")


REFINER_VECTOR = (*SIZES, "score")
SINUSOIDS = 256
"""Width of each number in the vector; before them stands the pooled text."""


def _is_base(shapes: Shapes) -> bool:
    """A UNet alone tells it by a vector that is not the refiner's."""
    bare = bare_unet(shapes)
    return f"{BIG_G}ln_final.weight" in shapes or (
        bare is not None and bare.vector > 0 and bare.vector != bare.context + len(REFINER_VECTOR) * SINUSOIDS
    )


def _is_refiner(shapes: Shapes) -> bool:
    """SD 2.1 Turbo has its encoder in the same place, of another width and for a UNet that takes no vector."""
    if (bare := bare_unet(shapes)) is not None:
        return 0 < bare.vector == bare.context + len(REFINER_VECTOR) * SINUSOIDS
    width = shapes.get(f"{REFINER_BIG_G}ln_final.weight")
    return width == (1280,) or (width is not None and f"{UNET}label_emb.0.0.weight" in shapes)


SDXL = Family(
    name="sdxl",
    label="SDXL",
    matches=_is_base,
    encoders=(
        EncoderSpec("text", (CLIP_L, "conditioner.embedders.0.transformer."), skip=2, final_norm=False, may_skip=True),
        EncoderSpec("text_2", (BIG_G,), OPEN_CLIP, skip=2, final_norm=False, pooled=True, pads_with_zero=True),
    ),
    vector=(*SIZES, "height", "width"),
    latent=LatentFormat(scale=0.13025, rgb=RGB),
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
    vector=REFINER_VECTOR,
    latent=LatentFormat(scale=0.13025, rgb=RGB),
    native_size=1024,
    sdxl_schedules=True,
)
