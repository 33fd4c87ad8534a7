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

    def __init__(
        self, model: LatentDiffusion, table: NoiseTable, sigmas: Iterable[float], image_cond: Tensor | None = None
    ):
        """``image_cond`` (1 or n, channels, h, w): stands beside the latents in the input of an inpainting model."""
        self._model = model
        self._image_cond = image_cond
        self._table = table
        self._embeddings: dict[float, Tensor] = {}
        # The Cond is kept so that its id stays its own.
        self._texts: dict[int, tuple[Cond, TextKeys, Tensor | None]] = {}
        self._changes = model.unet.changes
        self._embed([sigma for sigma in dict.fromkeys(sigmas) if sigma > 0])

    def __call__(self, x: Tensor, sigma: float, cond: Cond) -> Tensor:
        unet, device = self._model.unet, self._model.device
        if unet.changes != self._changes:
            self._changes = unet.changes
            self._embeddings.clear()
            self._texts.clear()
        scaled = x / (sigma**2 + 1) ** 0.5
        if self._image_cond is not None:
            image_cond = self._image_cond.repeat(len(x) // len(self._image_cond), 1, 1, 1)
            scaled = torch.cat([scaled, image_cond], dim=1)
        scaled = device.place(scaled)
        keys, label = self._text(cond, len(x))
        emb = self._embedding(sigma).expand(len(x), -1)
        prediction = unet.run(scaled, emb if label is None else emb + label, keys).to(x.dtype)
        return denoised(prediction, x, sigma, self._model.config.prediction)

    def _embed(self, sigmas: list[float]) -> None:
        if sigmas:
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
