"""The text encoders of a model for `TextConditioner`, and SDXL's vector."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from modules.checkpoints.families.base import Family
from modules.checkpoints.model import LatentDiffusion
from modules.params.generation import GenerationParams
from modules.pipeline.conditioning import Encode, Encoder, MakeVector, with_numbers
from modules.prompt.tokens import default_tokenizer


def text_encoders(model: LatentDiffusion, params: GenerationParams) -> tuple[Encoder, ...]:
    """The text encoders in order; each has its own columns of an embedding."""
    return tuple(_encoders(model, params))


def _encoders(model: LatentDiffusion, params: GenerationParams) -> Iterator[Encoder]:
    first = 0
    for number, (spec, config) in enumerate(zip(model.config.family.encoders, model.config.texts, strict=True)):
        tokenizer = default_tokenizer(open_clip=spec.pads_with_zero)
        columns = first, first + config.width
        yield Encoder(_encode(model, params, number), tokenizer, spec.pads_with_zero, columns)
        first += config.width


def _encode(model: LatentDiffusion, params: GenerationParams, number: int) -> Encode:
    return lambda ids, inserted: model.encode_text(
        ids, inserted, params.clip_skip, encoder=number, skip_anyway=params.sdxl_clip_l_skip
    )


def text_vector(family: Family, params: GenerationParams, size: tuple[int, int]) -> MakeVector | None:
    """The function that makes the UNet's vector for an image of ``size`` (width and height in pixels); None if the
    family takes none.
    """
    if not family.vector:
        return None
    numbers = {
        "height": size[1],
        "width": size[0],
        "top": params.sdxl_crop_top,
        "left": params.sdxl_crop_left,
    }

    def vector(pooled: Tensor, negative: bool) -> Tensor:
        score = params.sdxl_refiner_low_aesthetic_score if negative else params.sdxl_refiner_high_aesthetic_score
        return with_numbers(pooled, [(numbers | {"score": score})[name] for name in family.vector])

    return vector
