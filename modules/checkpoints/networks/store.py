"""The networks that a worker has at hand: found by name or content, read when first used, put on models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from modules.checkpoints.files import Hashes
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.networks.files import Network, read
from modules.checkpoints.networks.listing import NetworkFile, NetworkFolders, NetworkListing
from modules.checkpoints.networks.merging import Patch


class NetworkStore:
    """LoRA files and the like, and what of them is in memory. Not thread-safe: the worker runs one job at a time."""

    def __init__(
        self,
        folders: NetworkFolders,
        hashes: Hashes,
        data_hashes: Hashes,
        *,
        budget: int = 4 * 2**30,
        read_budget: int = 2**30,
    ):
        """``hashes``: SHA-256 of whole files; ``data_hashes``: of what lies behind their headers. ``budget``: bytes of
        changed weights beside the models' own; ``read_budget``: of networks that are read, those of a job aside.
        """
        self._folders = folders
        self._hashes = hashes
        self._data_hashes = data_hashes
        self._budget = budget
        self._read_budget = read_budget
        self._networks: OrderedDict[tuple[Path, int], Network] = OrderedDict()
        self._patches: WeakKeyDictionary[nn.Module, Patch] = WeakKeyDictionary()

    def listing(self) -> NetworkListing:
        return self._folders.read()

    def sha256(self, file: NetworkFile) -> str:
        """Of the whole file, by which a recipe knows it."""
        return self._hashes.sha256(file.path)

    def network_hash(self, file: NetworkFile) -> str:
        """What the file states, else of its data: by which generation texts know it."""
        return file.described.hash or self._data_hashes.sha256(file.path)

    def with_sha256(self, wanted: Iterable[tuple[str, str]]) -> NetworkListing:
        """Of (file name, SHA-256) those that are here, under these names."""
        here = self.listing()
        by_hash = {self.sha256(file): file for file in here.files}
        return here.recorded((name, by_hash[sha256]) for name, sha256 in wanted if sha256 in by_hash)

    def load(self, file: NetworkFile) -> Network:
        """What the file says; raises `CheckpointError`."""
        key = file.path, file.mtime_ns
        if key not in self._networks:
            self._networks[key] = read(file.path)
        self._networks.move_to_end(key)
        return self._networks[key]

    def tidy(self) -> None:
        """After a batch: let go of the networks that were used longest ago, down to the budget."""
        while len(self._networks) > 1 and sum(one.nbytes for one in self._networks.values()) > self._read_budget:
            self._networks.popitem(last=False)

    @contextmanager
    def patching(self, model: LatentDiffusion) -> Iterator[Patch]:
        """The patch of a model, which has its own weights again when this ends."""
        others = [patch for unet, patch in self._patches.items() if unet is not model.unet]
        for other in others:
            other.forget()
        if model.unet not in self._patches:
            self._patches[model.unet] = Patch(model)
        patch = self._patches[model.unet]
        patch.budget = self._budget - sum(other.nbytes for other in others)
        try:
            yield patch
        finally:
            patch.suspend()
