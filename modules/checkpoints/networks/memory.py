"""The networks that a worker has read, and the models that they are put on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.networks import files, hypernetworks
from modules.checkpoints.networks.files import Network
from modules.checkpoints.networks.hypernetworks import Hypernetwork
from modules.checkpoints.networks.listing import NetworkFile
from modules.checkpoints.networks.merging import Patch


class NetworkMemory:
    """Not thread-safe: the worker that owns it runs one job at a time."""

    def __init__(self, *, budget: int = 4 * 2**30, read_budget: int = 2**30):
        """``budget``: bytes of changed weights that may stand beside the models' own; ``read_budget``: of networks that
        stay between batches.
        """
        self._budget = budget
        self._read_budget = read_budget
        self._networks: OrderedDict[tuple[Path, int], Network] = OrderedDict()
        self._hypernetworks: dict[tuple[Path, int], Hypernetwork] = {}
        self._patches: WeakKeyDictionary[nn.Module, Patch] = WeakKeyDictionary()

    def network(self, file: NetworkFile) -> Network:
        """What the file says; raises `CheckpointError`."""
        key = file.path, file.mtime_ns
        if key not in self._networks:
            self._networks[key] = files.read(file.path)
        self._networks.move_to_end(key)
        return self._networks[key]

    def hypernetwork(self, file: NetworkFile) -> Hypernetwork:
        """The same for a hypernetwork; the last one is kept."""
        key = file.path, file.mtime_ns
        if key not in self._hypernetworks:
            self._hypernetworks = {key: hypernetworks.read(file.path)}
        return self._hypernetworks[key]

    def _tidy(self) -> None:
        """Let go of the networks that were used longest ago, down to the budget."""
        while len(self._networks) > 1 and sum(one.nbytes for one in self._networks.values()) > self._read_budget:
            self._networks.popitem(last=False)

    def patch(self, model: LatentDiffusion) -> Patch:
        """A model's, whether it is at work or not."""
        if model.unet not in self._patches:
            self._patches[model.unet] = Patch(model)
        return self._patches[model.unet]

    @contextmanager
    def patching(self, model: LatentDiffusion) -> Iterator[Patch]:
        """The patch of a model, which has its own weights again when this ends."""
        patch = self.patch(model)
        others = [other for other in self._patches.values() if other is not patch]
        for other in others:
            other.forget()
        patch.budget = self._budget - sum(other.nbytes for other in others)
        try:
            yield patch
        finally:
            patch.suspend()
            self._tidy()
