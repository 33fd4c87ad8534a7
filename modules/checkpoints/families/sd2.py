"""Stable Diffusion 2.x: OpenCLIP ViT-H's text encoder, whose last block is left out; 512 px eps or 768 px v."""

from __future__ import annotations

from modules.checkpoints.families.base import EncoderSpec, Family, bare_unet
from modules.nn.configs import OPEN_CLIP

TEXT, TURBO_TEXT = "cond_stage_model.model.", "conditioner.embedders.0.model."
"""The second is how SD 2.1 Turbo names the same encoder."""
SD2 = Family(
    name="sd2",
    label="Stable Diffusion 2",
    matches=lambda shapes: (
        f"{TEXT}transformer.resblocks.0.attn.in_proj_weight" in shapes
        or f"{TURBO_TEXT}ln_final.weight" in shapes
        or ((bare := bare_unet(shapes)) is not None and bare.linear and not bare.vector)
    ),
    encoders=(EncoderSpec("text", (TEXT, TURBO_TEXT), OPEN_CLIP, skip=2, pads_with_zero=True, depth=24),),
    v_size=768,
    tells_prediction=False,
)
