"""The UNet as a `Network` for guidance, caching what is constant over the steps of a batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from modules.checkpoints.model import LatentDiffusion
from modules.diffusion.parameterization import NoiseTable, denoised
from modules.diffusion.types import Cond
from modules.nn.unet import TextKeys


class CachedUNet:
    """``(x, sigma, cond) -> x0`` for the steps of one batch.

    Time embeddings of all known sigmas are made together, before the first step; keys and values of each text when it
    is first met. Both are kept until the batch ends, or until something changes the UNet's weights.
    """

    def __init__(self, model: LatentDiffusion, table: NoiseTable, sigmas: Iterable[float]):
        self._model = model
        self._table = table
        self._embeddings: dict[float, Tensor] = {}
        # The Cond is kept so that its id stays its own.
        self._texts: dict[int, tuple[Cond, TextKeys, Tensor | None]] = {}
        self._changes = model.unet.changes
        if model.unet.slice_attention(model.memory.way.sliced):
            model.graphs.clear()  # they were recorded with the other kernels
        model.bring("unet")
        model.unet.layers(anew=True)
        self._embed([sigma for sigma in dict.fromkeys(sigmas) if sigma > 0])

    def __call__(self, x: Tensor, sigma: float, cond: Cond) -> Tensor:
        return self._evaluate(x, sigma, cond, 1)

    def for_each(self, x: Tensor, sigma: float, conds: Cond, copies: int) -> Tensor:
        """``copies`` conditions of the same latents (n, c, h, w), ``conds`` with copies * n rows -> (copies * n, ...).

        What they have in common is computed once where the device says so. A vector (SDXL) makes their embeddings
        differ, and an image of each their inputs; then they have nothing in common.
        """
        one_image = conds.image is None or len(conds.image) <= len(x)
        shares = self._model.device.shares_prefix and not self._model.unet.extended
        if shares and conds.vector is None and one_image:
            return self._evaluate(x, sigma, conds, copies)
        return self._evaluate(x.repeat(copies, 1, 1, 1), sigma, conds, 1)

    def _evaluate(self, x: Tensor, sigma: float, cond: Cond, copies: int) -> Tensor:
        unet, device = self._model.unet, self._model.device
        if unet.changes != self._changes:
            self._changes = unet.changes
            self._embeddings.clear()
            self._texts.clear()
            unet.layers(anew=True)
        scaled = x / (sigma**2 + 1) ** 0.5
        if cond.image is not None:
            scaled = torch.cat([scaled, cond.image.repeat(len(x) // len(cond.image), 1, 1, 1)], dim=1)
        scaled = device.place(scaled)
        rows = copies * len(x)

        def predicted() -> Tensor:
            self._model.bring_unet(rows, x.shape[2] * x.shape[3])
            keys, label = self._text(cond, rows)
            emb = self._embedding(sigma).expand(rows, -1)
            emb = emb if label is None else emb + label
            return self._model.graphs.run(unet, scaled, emb, keys, copies).to(x.dtype)

        prediction = self._model.memory.attempt(predicted)
        x = x if copies == 1 else x.repeat(copies, 1, 1, 1)
        return denoised(prediction, x, sigma, self._model.config.prediction)

    def _embed(self, sigmas: list[float]) -> None:
        if sigmas:
            self._model.bring("unet")
            t = torch.tensor([self._table.sigma_to_t(s) for s in sigmas], device=self._model.device.device)
            self._embeddings.update(zip(sigmas, self._model.unet.embed(t)[:, None], strict=True))

    def _embedding(self, sigma: float) -> Tensor:
        if sigma not in self._embeddings:
            self._embed([sigma])  # churn and second-order samplers go between the listed sigmas
        return self._embeddings[sigma]

    def _text(self, cond: Cond, n: int) -> tuple[TextKeys, Tensor | None]:
        """The cached cross-attention keys and values of a condition, and its projected vector."""
        known = self._texts.get(id(cond))
        if known is None:
            context = self._model.device.place(cond.context)
            keys = self._model.unet.text_keys(context)
            label = None if cond.vector is None else self._model.unet.label(cond.vector.to(context.device))
            if len(context) != n:  # one text for all images of the batch
                keys = {layer: (k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)) for layer, (k, v) in keys.items()}
            known = self._texts[id(cond)] = (cond, keys, label)
        return known[1:]
