"""Which checkpoints are loaded. The last few stay in memory, within a budget, so that switching back is instant."""

from __future__ import annotations

import gc
import logging
import time
from collections import OrderedDict
from pathlib import Path

from modules.checkpoints.files import Hashes, ModelFile, find_model, list_models
from modules.checkpoints.model import LatentDiffusion, load
from modules.devices import Device

log = logging.getLogger(__name__)


class ModelStore:
    """Loads checkpoints of one folder by name. Not thread-safe: the worker that owns it runs one job at a time."""

    def __init__(self, folder: Path, device: Device, hashes: Hashes, *, default: str = "", budget: int = 8 * 2**30):
        self.folder = folder
        self.device = device
        self._hashes = hashes
        self._default = default
        self._budget = budget
        """Bytes of weights to keep; the newest model stays whatever its size."""
        self._loaded: OrderedDict[Path, tuple[int, LatentDiffusion]] = OrderedDict()

    def find(self, name: str) -> ModelFile:
        return find_model(self.folder, name, self._default)

    def sha256(self, path: Path) -> str:
        return self._hashes.sha256(path)

    def with_sha256(self, sha256: str) -> str | None:
        """The name of the checkpoint whose file has this hash; None if there is none."""
        models = list_models(self.folder)
        return next((model.name for model in models if self._hashes.sha256(model.path) == sha256), None)

    def load(self, name: str = "") -> LatentDiffusion:
        """The checkpoint called ``name`` (empty: the default), from memory if its file has not changed since."""
        file = self.find(name)
        stamp = file.path.stat().st_mtime_ns
        kept = self._loaded.get(file.path)
        if kept and kept[0] == stamp:
            self._loaded.move_to_end(file.path)
            return kept[1]
        self._loaded.pop(file.path, None)
        self._make_room(file.path.stat().st_size)
        start = time.perf_counter()
        model = load(file.path, self.device, name=file.stem, sha256=self._hashes.sha256(file.path))
        log.info("loaded %s in %.1f s on %s", file.name, time.perf_counter() - start, self.device.describe())
        self._loaded[file.path] = (stamp, model)
        return model

    def _make_room(self, size: int) -> None:
        """Drop the models used longest ago, before the new one is read: two never have to fit at once."""
        dropped = False
        while self._loaded and size + sum(model.nbytes for _, model in self._loaded.values()) > self._budget:
            _, (_, model) = self._loaded.popitem(last=False)
            log.info("dropped %s", model.name)
            dropped = True
        if dropped:
            gc.collect()
