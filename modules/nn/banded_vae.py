"""The autoencoder in bands: the same numbers as `modules.nn.vae` gives, with a fraction of the memory.

Tiles that are decoded apart differ in tone, for every GroupNorm takes its mean over the whole picture, and in the
middle every pixel looks at every other. So not the picture is divided but the work: each convolution goes over the
feature map in bands of rows, with the neighbouring rows that it sees, the statistics of a norm are summed over all
bands before it is applied, and attention takes its queries band by band. There is no overlap to blend and no seam. A
feature map lies in main memory (`Banded.store`), so that the card holds weights and bands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.attention import attention
from modules.nn.vae import VAE, AttnBlock, Decoder, Encoder, Level, Middle, ResnetBlock

BAND = 2**20
"""Pixels times channels of a band, about: a band is at least one row. The rows depend on nothing else, so the same
picture is always computed in the same bands."""
Rows = Callable[[int, int], Tensor]
"""Rows ``a`` to ``b`` of a feature map (b, c, rows, w), on the computing device."""


@dataclass(frozen=True)
class Banded:
    """Encodes and decodes with the weights of ``vae``. Where its feature maps lie: ``store``."""

    vae: VAE
    store: torch.device
    band: int = BAND

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `VAE.encode`."""
        encoder = self.vae.encoder
        h = self._encoded(encoder, x.to(self.store)).to(self._device)
        mean, logvar = self.vae.quant_conv(h).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """As `VAE.decode`; the picture lies in ``store``."""
        return self._decoded(self.vae.decoder, self.vae.post_quant_conv(z).to(self.store))

    @property
    def _device(self) -> torch.device:
        return self.vae.post_quant_conv.weight.device

    def _encoded(self, encoder: Encoder, x: Tensor) -> Tensor:
        h = self._conv(encoder.conv_in, x)
        for level in encoder.down:
            h = self._level(cast(Level, level), h)
        h = self._middle(encoder.mid, h)
        return self._conv(encoder.conv_out, h, self._normed(encoder.norm_out, h))

    def _decoded(self, decoder: Decoder, z: Tensor) -> Tensor:
        h = self._middle(decoder.mid, self._conv(decoder.conv_in, z))
        for level in reversed(list(decoder.up)):
            h = self._level(cast(Level, level), h)
        return self._conv(decoder.conv_out, h, self._normed(decoder.norm_out, h))

    def _level(self, level: Level, h: Tensor) -> Tensor:
        for block in level.block:
            h = self._resnet(cast(ResnetBlock, block), h)
        if hasattr(level, "downsample"):
            h = self._conv(level.downsample.conv, h, padding=(0, 1))  # ldm pads right and bottom only
        if hasattr(level, "upsample"):
            h = self._conv(level.upsample.conv, h, self._doubled(h), height=2 * h.shape[2])
        return h

    def _middle(self, middle: Middle, h: Tensor) -> Tensor:
        h = self._resnet(middle.block_1, h)
        h = self._attention(middle.attn_1, h)
        return self._resnet(middle.block_2, h)

    def _resnet(self, block: ResnetBlock, x: Tensor) -> Tensor:
        h = self._conv(block.conv1, x, self._normed(block.norm1, x))
        shortcut = block.nin_shortcut

        def skip(a: int, b: int) -> Tensor:
            rows = self._rows(x)(a, b)
            return rows if shortcut is None else cast(Tensor, shortcut(rows))

        # Rows of x are read once more, where they are added to: they may be overwritten by their sums.
        return self._conv(block.conv2, h, self._normed(block.norm2, h), add=skip, into=x if shortcut is None else None)

    def _attention(self, block: AttnBlock, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        normed = self._normed(block.norm, x, activate=False)
        keys, values = [], []
        for start, stop in self._bands(height, width * c):
            rows = normed(start, stop)
            keys.append(_tokens(block.k(rows)))
            values.append(_tokens(block.v(rows)))
        k, v = torch.cat(keys, dim=2), torch.cat(values, dim=2)
        out = torch.empty_like(x)
        for start, stop in self._bands(height, width * max(c, height)):
            rows = normed(start, stop)
            y = attention(_tokens(block.q(rows)), k, v)  # (b, 1, tokens, c)
            y = y.squeeze(1).transpose(1, 2).reshape(b, c, stop - start, width)
            out[:, :, start:stop] = (self._rows(x)(start, stop) + block.proj_out(y)).to(self.store)
        return out

    def _conv(
        self,
        conv: nn.Conv2d,
        x: Tensor,
        rows: Rows | None = None,
        *,
        height: int = 0,
        padding: tuple[int, int] = (1, 1),
        add: Rows | None = None,
        into: Tensor | None = None,
    ) -> Tensor:
        """A 3x3 convolution over ``rows`` of a map of ``height``, by default ``x`` as it is, band by band.

        ``padding``: zeros before and behind the rows and columns. ``add`` gives what is added to the result, ``into``
        is where it goes.
        """
        rows, height, stride = rows or self._rows(x), height or x.shape[2], conv.stride[0]
        (before, behind), size = padding, conv.kernel_size[0]
        count = (height + before + behind - size) // stride + 1
        out = into
        step = max(self._width_of(x, height) * max(conv.in_channels, conv.out_channels), 1)
        for start, stop in self._bands(count, step):
            first, last = start * stride - before, (stop - 1) * stride - before + size
            seen = rows(max(first, 0), min(last, height))
            seen = F.pad(seen, (before, behind, max(-first, 0), max(last - height, 0)))
            band = F.conv2d(seen, conv.weight, conv.bias, stride=stride)
            band = band if add is None else band + add(start, stop)
            if out is None:
                shape = (band.shape[0], band.shape[1], count, band.shape[3])
                out = torch.empty(shape, dtype=band.dtype, device=self.store)
            out[:, :, start:stop] = band.to(self.store)
        assert out is not None
        return out

    def _width_of(self, x: Tensor, height: int) -> int:
        return x.shape[3] * height // x.shape[2]

    def _rows(self, x: Tensor) -> Rows:
        return lambda a, b: x[:, :, a:b].to(self._device)

    def _doubled(self, x: Tensor) -> Rows:
        """The rows of ``x`` with every pixel four times."""

        def rows(a: int, b: int) -> Tensor:
            first = a // 2
            seen = F.interpolate(self._rows(x)(first, (b + 1) // 2), scale_factor=2.0, mode="nearest")
            return seen[:, :, a - 2 * first : b - 2 * first]

        return rows

    def _normed(self, norm: nn.GroupNorm, x: Tensor, *, activate: bool = True) -> Rows:
        """The rows of ``x`` after a GroupNorm over all of it and, unless not ``activate``, SiLU."""
        b, c, height, width = x.shape
        total = torch.zeros(2, b, norm.num_groups, dtype=torch.float64)
        for start, stop in self._bands(height, width * c):
            groups = self._rows(x)(start, stop).reshape(b, norm.num_groups, -1).float()
            mean = groups.mean(-1, keepdim=True)
            # Around the band's own mean: sums of squares of large values would lose the small differences.
            square = (groups - mean).square().mean(-1)
            share = (stop - start) / height
            total += share * torch.stack([mean[..., 0], square + mean[..., 0].square()]).double().cpu()
        mean, square = total
        scale = (square - mean.square()).clamp_min(0).add(norm.eps).rsqrt()
        shape = (b, c, 1, 1)

        def per_channel(groups: Tensor) -> Tensor:
            return groups.repeat_interleave(c // norm.num_groups, dim=1).reshape(shape).float().to(self._device)

        weight, bias = (p.float().reshape(1, c, 1, 1) for p in (norm.weight, norm.bias))
        factor = per_channel(scale) * weight
        offset = bias - per_channel(mean) * factor

        def rows(a: int, b: int) -> Tensor:
            found = (self._rows(x)(a, b).float() * factor + offset).to(x.dtype)
            return F.silu(found) if activate else found

        return rows

    def _bands(self, height: int, per_row: int) -> Iterator[tuple[int, int]]:
        step = max(self.band // max(per_row, 1), 1)
        return ((start, min(start + step, height)) for start in range(0, height, step))


def _tokens(x: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, 1, h * w, c)."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1)
