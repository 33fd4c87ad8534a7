"""Cache of loaded checkpoints: the most recent ones stay in memory, within a budget, so that switching back is
instant.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modules.checkpoints.detect import native_size
from modules.checkpoints.files import PREDICTION, Hashes, ModelFile, find_model, list_models
from modules.checkpoints.model import LatentDiffusion, load, load_vae
from modules.checkpoints.probe import answers_with
from modules.checkpoints.source import open_source
from modules.checkpoints.vaes import AUTOMATIC, VaeFolders
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn.configs import VAEConfig
from modules.nn.vae import VAE

log = logging.getLogger(__name__)


def _no_vae(name: str, others: Sequence[str]) -> CheckpointError:
    there = f"choose a VAE: there is {', '.join(map(repr, others[:8]))}"
    hint = there if others else "put a VAE for it into models/VAE and choose it"
    return CheckpointError(f"{name} has no autoencoder of its own", hint=hint, field="vae")


class ModelStore:
    """Loads the checkpoints of one folder by name. Not thread-safe: the worker that owns it runs one job at a time."""

    def __init__(
        self,
        folder: Path,
        device: Device,
        hashes: Hashes,
        *,
        default: str = "",
        budget: int = 8 * 2**30,
        vaes: VaeFolders | None = None,
    ):
        self.folder = folder
        self.device = device
        self._hashes = hashes
        self._default = default
        self._budget = budget
        """Bytes of weights to keep; the newest model stays whatever its size."""
        self._vaes = vaes or VaeFolders(folder / "none", folder)
        self._vae: tuple[tuple[Path, int, VAEConfig], VAE] | None = None
        """The standalone VAE used last."""
        self._loaded: OrderedDict[Path, tuple[int, LatentDiffusion]] = OrderedDict()

    def find(self, name: str) -> ModelFile:
        return find_model(self.folder, name, self._default)

    def sha256(self, path: Path) -> str:
        return self._hashes.sha256(path)

    def with_sha256(self, sha256: str) -> str | None:
        """The name of the checkpoint file with this hash; None if there is none."""
        models = list_models(self.folder)
        return next((model.name for model in models if self._hashes.sha256(model.path) == sha256), None)

    def vae_with_sha256(self, sha256: str) -> str | None:
        """The name of the VAE file with this hash; None if there is none."""
        return next((name for name, path in self._vaes.list().items() if self._hashes.sha256(path) == sha256), None)

    def unconverted_vae(self, model: LatentDiffusion) -> str:
        """The name of a pickled VAE beside a model that would be used if it were safetensors; empty if there is
        none.
        """
        path = self._vaes.unconverted(model.path) if model.vae_path is None else None
        return path.name if path else ""

    def load(self, name: str = "", vae: str = AUTOMATIC) -> LatentDiffusion:
        """Load the checkpoint ``name`` (empty: the default) with the VAE that ``vae`` names.

        What is in memory, and whose file has not changed since, is used as it is. Another autoencoder stands beside
        the checkpoint's own, whose networks are left as they are.
        """
        model = self._load(self.find(name))
        path = self._vaes.find(vae, model.path)
        if path is None and not model.config.own_vae:
            raise _no_vae(model.name, list(self._vaes.list()))
        if path is None:
            return model
        key = (path, path.stat().st_mtime_ns, model.config.vae)
        if self._vae is None or self._vae[0] != key:
            self._vae = None  # two never have to fit at once
            self._vae = (key, load_vae(path, self.device, model.config.vae))
            log.info("loaded %s", path.name)
        sha256, name = self._hashes.sha256(path), self._vaes.name_of(path)
        return replace(model, vae=self._vae[1], vae_path=path, vae_sha256=sha256, vae_name=name)

    def _load(self, file: ModelFile) -> LatentDiffusion:
        stamp = file.path.stat().st_mtime_ns
        kept = self._loaded.get(file.path)
        if kept and kept[0] == stamp:
            self._loaded.move_to_end(file.path)
            return kept[1]
        self._loaded.pop(file.path, None)
        self._make_room(file.nbytes)
        start = time.perf_counter()
        model = load(file.path, self.device, name=file.stem, sha256=self._hashes.sha256(file.path))
        if model.config.only_seen:
            self._ask(model)
        log.info("loaded %s in %.1f s on %s", file.name, time.perf_counter() - start, self.device.describe())
        self._loaded[file.path] = (stamp, model)
        return model

    def _ask(self, model: LatentDiffusion) -> None:
        """Find out what a model predicts, once for each content of a file."""
        kind = self._hashes.noted(model.path, PREDICTION)
        if not kind:
            kind = answers_with(model)
            self._hashes.note(model.path, PREDICTION, kind)
        side = native_size(open_source(model.path).header, model.path, kind)
        model.config = replace(model.config.predicting(kind), native_size=side, only_seen=False)

    def forget(self, model: LatentDiffusion) -> None:
        """Drop a model that was modified, together with a separately loaded VAE."""
        self._vae = None
        self._loaded = OrderedDict(
            (path, kept) for path, kept in self._loaded.items() if kept[1].unet is not model.unet
        )

    def _make_room(self, size: int) -> None:
        """Drop the least recently used models before a new one is read, so that two need not fit at once."""
        dropped = False
        while self._loaded and size + sum(model.nbytes for _, model in self._loaded.values()) > self._budget:
            _, (_, model) = self._loaded.popitem(last=False)
            log.info("dropped %s", model.name)
            dropped = True
        if dropped:
            gc.collect()
