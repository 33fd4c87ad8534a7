"""Families that are known by sight and not run."""

from __future__ import annotations

from modules.checkpoints.families.base import UNET, Family, Shapes


def _other(name: str, label: str, key: str) -> Family:
    def matches(shapes: Shapes) -> bool:
        return key in shapes

    return Family(name, label, matches, supported=False)


SD3 = _other("sd3", "Stable Diffusion 3", f"{UNET}x_embedder.proj.weight")
SD2_DEPTH = _other(
    "sd2-depth", "Stable Diffusion 2 depth", "depth_model.model.pretrained.act_postprocess3.0.project.0.bias"
)
SD2_UNCLIP = _other("sd2-unclip", "Stable Diffusion 2 unCLIP", "embedder.model.ln_final.weight")
ALT_DIFFUSION = _other("alt", "AltDiffusion", "cond_stage_model.roberta.embeddings.word_embeddings.weight")
