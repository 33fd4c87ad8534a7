"""Exact kernels: tests whether a UNet is batch-invariant, so that an image is the same alone and in a batch.

Some kernels choose the order of their sums by the number of rows they are given (MKL's float32 products do; oneDNN's
bfloat16 ones on CPUs with matrix units where the sums are long), others do not. The choice looks at shapes and never at
values, so a comparison on noise tells for all images of that shape. In bfloat16 it takes several: another order of a
sum is rounded away nearly everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from modules.checkpoints.model import LatentDiffusion
from modules.diffusion.guidance import WeightedCond

log = logging.getLogger(__name__)

DRAWS = 4
"""Comparisons of a shape. With a UNet of 16 million parameters at 256 x 256 one nearly always missed a difference in
bfloat16, and four never did; more would cost more than small images themselves."""
Group = tuple[int, int]
"""Conditions evaluated in one network call per image, as the token count of each."""


def needs_single_image_batches(
    model: LatentDiffusion,
    size: tuple[int, int],
    n: int,
    parts: Sequence[WeightedCond],
    negative: WeightedCond,
    *,
    negatives: int = 1,
) -> bool:
    """Whether ``n`` latents of ``size`` (h, w) must go through the UNet one by one to be the same as alone.

    ``negatives``: how many conditions have the length of the negative prompt.
    """
    if n == 1:
        return False
    for group in _groups(parts, negative, negatives):
        key = (*size, n, torch.get_num_threads(), *group)
        if key not in model.invariant_shapes:
            model.invariant_shapes[key] = _is_invariant(model, size, n, *group)
            log.debug("%s: %s apart in %s", model.name, "kept" if model.invariant_shapes[key] else "not kept", key)
        if not model.invariant_shapes[key]:
            return True
    return False


def _groups(parts: Sequence[WeightedCond], negative: WeightedCond, negatives: int) -> set[Group]:
    """The batch compositions that guidance may use: with the negative prompt if the lengths match, and without it."""
    length, other = (part.at(0).context.shape[1] for part in (parts[0], negative))
    together = {(len(parts) + negatives, length)} if length == other else {(negatives, other)}
    return together | {(len(parts), length)}


def _is_invariant(model: LatentDiffusion, size: tuple[int, int], n: int, conds: int, tokens: int) -> bool:
    """Whether each of ``n`` images of noise gets from the UNet, to the last bit, what it gets alone, in every draw."""
    generator = torch.Generator().manual_seed(0)
    unet, rows, shares = model.unet, n * conds, model.device.shares_prefix and not model.unet.config.vector_dim
    model.bring_unet(rows, size[0] * size[1])
    emb = unet.embed(torch.tensor([500.0], device=model.device.device))
    if unet.config.vector_dim:
        emb = emb + unet.label(torch.ones(1, unet.config.vector_dim, device=model.device.device))

    def same() -> bool:
        x = torch.randn(n if shares else rows, unet.config.in_channels, *size, generator=generator)
        context = torch.randn(rows, tokens, unet.config.context_dim, generator=generator)

        def run(rows: slice) -> torch.Tensor:
            picked, texts = x[rows], context[rows]
            text, copies = unet.text_keys(model.device.place(texts)), len(texts) // len(picked)
            return unet.run(model.device.place(picked), emb.expand(len(texts), -1), text, copies)

        together = run(slice(None))
        return all(torch.equal(together[i::n], run(slice(i, None, n))) for i in range(n))

    return all(same() for _ in range(DRAWS))
