"""Recorded evaluations of a UNet: a card replays the kernels of a step without a processor launching each of them.

A recording holds for one set of shapes and for the weights that lie where they lay. What a recording cannot know (hooks
on layers, replaced layers) sends the evaluation the plain way, and weights in another place make a recording of their
own. A network whose strength changes at every step has new weights each time: they are recorded only where memory is
used again, and the recording then reads what lies there now.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from modules.nn import fused
from modules.nn.unet import TextKeys, UNet

log = logging.getLogger(__name__)

Replay = Callable[[], Tensor]
Record = Callable[[Replay], Replay]
"""Records what a function does on the card: the result does it again, into the same tensor."""

LIMIT = 8
"""Recordings kept. They share the memory of their intermediate tensors."""
REMEMBERED = 64
"""Shapes remembered as met once; a recording is made when one is met again."""


class GraphPool:
    """The recordings of one UNet, the least recently used of which make room for new ones."""

    def __init__(self, record: Record | None, limit: int = LIMIT):
        """``record`` is the device's; None where a device has no such thing, and then nothing is recorded."""
        self._record = record
        self._limit = limit
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._met: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, unet: UNet, x: Tensor, emb: Tensor, text: TextKeys, copies: int = 1) -> Tensor:
        """`UNet.run`, replayed where it was recorded."""
        if self._record is None or torch.is_grad_enabled() or unet.borrows or not unet.layers().untouched():
            return unet.run(x, emb, text, copies)
        key = _key(unet, x, emb, text, copies)
        if key in self._graphs:
            self._graphs.move_to_end(key)
        elif key not in self._met:
            self._met[key] = None
            if len(self._met) > REMEMBERED:
                self._met.popitem(last=False)
            return unet.run(x, emb, text, copies)
        elif not self._add(key, unet, x, emb, text, copies):
            return unet.run(x, emb, text, copies)
        return self._graphs[key](x, emb, text)

    def clear(self) -> None:
        """Give back the memory of all recordings."""
        self._graphs.clear()
        self._met.clear()

    def _add(self, key: Hashable, unet: UNet, x: Tensor, emb: Tensor, text: TextKeys, copies: int) -> bool:
        """Record an evaluation; False where that fails, after which nothing is tried again."""
        assert self._record
        while len(self._graphs) >= self._limit:
            self._graphs.popitem(last=False)
        try:
            self._graphs[key] = Graph(self._record, unet, x, emb, text, copies)
        except RuntimeError as error:  # out of memory, or an operation that cannot be recorded
            log.warning("UNet steps are not recorded any more: %s", next(iter(str(error).splitlines()), ""))
            self.clear()
            self._record = None
            return False
        return True


class Graph:
    """One recorded evaluation, with the tensors that it reads."""

    def __init__(self, record: Record, unet: UNet, x: Tensor, emb: Tensor, text: TextKeys, copies: int):
        self._x, self._emb = x.clone(), emb.contiguous().clone()
        self._text = {layer: (k.contiguous().clone(), v.contiguous().clone()) for layer, (k, v) in text.items()}
        self._text_copied: TextKeys = text
        self._replay = record(lambda: unet.run(self._x, self._emb, self._text, copies))

    def __call__(self, x: Tensor, emb: Tensor, text: TextKeys) -> Tensor:
        self._x.copy_(x)
        self._emb.copy_(emb)
        if text is not self._text_copied:  # constant over the steps of a batch
            for layer, pair in self._text.items():
                for mine, given in zip(pair, text[layer], strict=True):
                    mine.copy_(given)
            self._text_copied = text
        return self._replay().clone()  # the next replay writes to the same tensor


def _key(unet: UNet, x: Tensor, emb: Tensor, text: TextKeys, copies: int) -> Hashable:
    """All that a recording depends on: shapes, formats, and where the weights lie."""
    tokens = next((k.shape[2] for k, _ in text.values()), 0)
    plain = fused.suits(x)
    return (tuple(x.shape), x.dtype, x.stride(), emb.shape, tokens, copies, plain, unet.layers().addresses())
