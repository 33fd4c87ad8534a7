"""An allocator with a limit, for tests of what happens when memory runs out: counts the bytes of living tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class ByteLimit(TorchDispatchMode):
    """Within it an operation that makes the living tensors larger than ``limit`` bytes fails as torch's allocator does.

    Tensors that were there before do not count; neither does what a kernel needs while it computes.
    """

    def __init__(self, limit: int = 2**62, extra: Callable[[], int] = lambda: 0):
        """``extra``: bytes that count besides, say of weights that were moved to a pretended card."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self.extra = extra
        self.peak = 0
        self.failures = 0
        """How often the limit was reached."""
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}
        self._most = 0
        """What may be living: counted exactly only where that would be too much, or a new peak."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        before = {_address(t) for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor) and (address := _address(tensor)) not in before:
                storage = tensor.untyped_storage()
                self._living[address] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
                self._most += storage.nbytes()
        if self._most + self.extra() <= self.peak:
            return out
        living = self.living()
        self.peak = max(self.peak, living)
        if living > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError("DefaultCPUAllocator: can't allocate memory: the test's limit is reached")
        return out

    def living(self) -> int:
        kept = {key: value for key, value in self._living.items() if not value[0].expired()}  # type: ignore[no-untyped-call]
        self._living = kept
        self._most = sum(size for _, size in self._living.values())
        return self._most + self.extra()


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]
