"""Stable Diffusion 1.x: Rombach et al. (2022), arXiv:2112.10752, with CLIP ViT-L/14's text encoder."""

from __future__ import annotations

from modules.checkpoints.families.base import FIRST_CONV, EncoderSpec, Family

TEXT = "cond_stage_model.transformer.text_model."
SD1 = Family(
    name="sd1",
    label="Stable Diffusion 1.x",
    matches=lambda shapes: len(shapes.get(FIRST_CONV, ())) == 4,
    encoders=(EncoderSpec("text", (TEXT, "cond_stage_model.transformer.")),),  # old files lack text_model.
)
