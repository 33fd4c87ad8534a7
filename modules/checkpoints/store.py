"""Cache of loaded checkpoints: those used last stay in memory, within a budget, so that switching back is instant."""

from __future__ import annotations

import gc
import logging
import time
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import dtype

from modules.checkpoints.approximation_files import DECODER, ENCODER
from modules.checkpoints.approximations import Approximations
from modules.checkpoints.detect import (
    Beside,
    detect,
    native_size,
    only_seen,
    prediction,
    said_beside,
    shapes_of,
    yaml_of,
)
from modules.checkpoints.families.base import Family, ModelConfig
from modules.checkpoints.files import PREDICTION, Hashes, ModelFile, find_model, list_models
from modules.checkpoints.folders import Folders, each
from modules.checkpoints.memory import Budget, Residence, find_budget, weight_bytes
from modules.checkpoints.model import LatentDiffusion, load, load_vae
from modules.checkpoints.probe import answers_with
from modules.checkpoints.source import open_source
from modules.checkpoints.text_encoders import TextEncoders
from modules.checkpoints.vaes import AUTOMATIC, VaeFolders, no_vae
from modules.devices import Device, in_main_memory
from modules.nn.configs import VAEConfig
from modules.nn.vae import VAE
from modules.params.generation import FP8_ALL as ALL
from modules.params.generation import FP8_SDXL as SDXL
from modules.params.generation import FULL

log = logging.getLogger(__name__)


def _stamp(path: Path) -> tuple[Path, int]:
    return path, path.stat().st_mtime_ns if path.is_file() else 0


def _config_of(file: ModelFile) -> ModelConfig:
    """What a checkpoint's header says of it, without loading it."""
    return detect(file.name, open_source(file.path).header, file.path)


class ModelStore:
    """Loads the checkpoints of some folders by name. Not thread-safe: the worker that owns it runs one job at a
    time.
    """

    def __init__(
        self,
        folder: Folders,
        device: Device,
        hashes: Hashes,
        *,
        default: str = "",
        budget: int | Budget | None = None,
        vaes: VaeFolders | None = None,
        residence: Residence | None = None,
        approximations: Path | None = None,
        text_encoders: TextEncoders | None = None,
    ):
        """``budget``: what models may take, in bytes of main memory or as a `Budget`; the newest one stays whatever its
        size. None: what this machine has (`find_budget`). ``residence``: which networks lie on the card, if not all.
        """
        self.folder = folder
        self.device = device
        self._hashes = hashes
        self._default = default
        if residence is None:
            found = Budget(budget) if isinstance(budget, int) else budget or find_budget(device)
            residence = Residence(device, found)
        self.residence = residence
        self.budget = residence.budget
        self._vaes = vaes or VaeFolders((), folder)
        self.text_encoders = text_encoders or TextEncoders()
        self._text_wanted: dict[Path, tuple[object, ...]] = {}
        """The text encoder that was asked for, and what its files were, of models that have none of their own."""
        self.approximations = Approximations(approximations or each(folder)[0] / "none", device)
        self._vae: tuple[tuple[Path, int, VAEConfig, dtype], VAE] | None = None
        """The standalone VAE used last."""
        self._wider: dict[Path, Device] = {}
        """Devices of models that overflowed in the usual number format."""
        self._loaded: OrderedDict[tuple[Path, bool], tuple[int, LatentDiffusion]] = OrderedDict()
        """By file, and whether the UNet is kept in 8 bits."""
        self._said: dict[Path, Beside] = {}
        """What lay beside the models when they were looked at."""

    def find(self, name: str) -> ModelFile:
        return find_model(self.folder, name, self._default)

    def sha256(self, path: Path) -> str:
        return self._hashes.sha256(path)

    def with_sha256(self, sha256: str) -> str | None:
        """The name of the checkpoint file with this hash; None if there is none."""
        models = list_models(self.folder)
        return next((model.name for model in models if self._hashes.sha256(model.path) == sha256), None)

    def family(self, name: str) -> Family:
        """The family of a checkpoint, as its header says."""
        return _config_of(self.find(name)).family

    def configuration(self, name: str) -> Path | None:
        """A1111's configuration beside a checkpoint, where it changes how its images come out."""
        file = self.find(name)
        return yaml_of(file.path) if _config_of(file).from_yaml else None

    def configurations(self) -> list[Path]:
        """A1111's configurations beside checkpoints."""
        paths = [yaml_of(model.path) for model in list_models(self.folder)]
        return [path for path in paths if path.is_file()]

    def vae_with_sha256(self, sha256: str) -> str | None:
        """The name of the VAE file with this hash; None if there is none."""
        return next((name for name, path in self._vaes.list().items() if self._hashes.sha256(path) == sha256), None)

    def lost_vae(self, model: LatentDiffusion) -> str:
        """The VAE that a model's card prefers and that is not here; empty if there is none such."""
        return self._vaes.lost(model.path)

    def guessed_vae(self, model: LatentDiffusion) -> str:
        """The VAE of a model that its name alone speaks for; empty if there is none such."""
        return self._vaes.guessed(model.path, model.vae_path)

    def unconverted_vae(self, model: LatentDiffusion) -> str:
        """The name of a pickled VAE beside a model that would be used if it were safetensors; empty if there is
        none.
        """
        path = self._vaes.unconverted(model.path) if model.vae_path is None else None
        return path.name if path else ""

    def load(
        self, name: str = "", vae: str = AUTOMATIC, text_encoder: str = AUTOMATIC, fp8: str = FULL
    ) -> LatentDiffusion:
        """Load the checkpoint ``name`` (empty: the default) with the VAE that ``vae`` names and, where it has no text
        encoders of its own, with the one that ``text_encoder`` names. ``fp8`` says whether the UNet's weights are kept
        in 8 bits.

        What is in memory, and whose file has not changed since, is used as it is. Another autoencoder stands beside
        the checkpoint's own, whose networks are left as they are.
        """
        model = self._load(self.find(name), text_encoder, fp8)
        path = self._vaes.find(vae, model.path)
        if path is None and not model.config.own_vae:
            raise no_vae(model.name, list(self._vaes.list()))
        if path is None:
            return model
        key = (path, path.stat().st_mtime_ns, model.config.vae, model.device.dtype)
        if self._vae is None or self._vae[0] != key:
            self._vae = None  # two never have to fit at once
            home = self.residence.home(path.stat().st_size, model.nbytes)
            self._vae = (key, load_vae(path, model.device, model.config.vae, home))
            log.info("loaded %s", path.name)
        sha256, name = self._hashes.sha256(path), self._vaes.name_of(path)
        return replace(model, vae=self._vae[1], vae_path=path, vae_sha256=sha256, vae_name=name)

    def approximated(self, model: LatentDiffusion, *, encoder: bool, decoder: bool) -> LatentDiffusion:
        """``model`` with a tiny autoencoder in the place of its own, for the parts that are asked for."""
        tiny = self.approximations
        return replace(
            model,
            tiny_encoder=tiny.load(model.config, ENCODER)[0] if encoder else None,
            tiny_decoder=tiny.load(model.config, DECODER)[0] if decoder else None,
        )

    def _load(self, file: ModelFile, text_encoder: str, fp8: str) -> LatentDiffusion:
        stamp = file.path.stat().st_mtime_ns
        in_8_bits = fp8 == ALL or (fp8 == SDXL and _config_of(file).family.name.startswith("sdxl"))
        key = file.path, in_8_bits
        kept = self._loaded.get(key)
        beside, before = said_beside(file.path), self._said.get(file.path)
        same_yaml = before is not None and before.yaml == beside.yaml  # which may change how networks are built
        if kept and kept[0] == stamp and same_yaml and self._has_texts(kept[1], text_encoder):
            self._loaded.move_to_end(key)
            if before != beside:
                self._look_again(kept[1])
            return kept[1]
        self._loaded.pop(key, None)
        self._make_room(file.nbytes)
        start = time.perf_counter()
        device = self._wider.get(file.path, self.device)
        model = load(
            file.path,
            device,
            name=file.stem,
            sha256=self._hashes.sha256(file.path),
            residence=self.residence,
            fp8=in_8_bits,
            find_encoders=partial(self.text_encoders.find, text_encoder, file.path),
        )
        self._text_wanted[file.path] = (text_encoder, *map(_stamp, model.text_files))
        if model.config.only_seen:
            self._ask(model)
        self._said[file.path] = beside
        log.info("loaded %s in %.1f s on %s", file.name, time.perf_counter() - start, device.describe())
        self._loaded[key] = (stamp, model)
        return model

    def _has_texts(self, model: LatentDiffusion, text_encoder: str) -> bool:
        """Whether a model in memory has the text encoders that are asked for, as they lie on the disk."""
        if not model.text_files:
            return True
        return self._text_wanted.get(model.path) == (text_encoder, *map(_stamp, model.text_files))

    def _look_again(self, model: LatentDiffusion) -> None:
        """Read anew what is said beside a model in memory, whose weights stay."""
        header = open_source(model.path).header
        predicts = prediction(header, model.path)
        model.config = replace(
            model.config,
            prediction=predicts.kind,
            zero_terminal_snr=predicts.zero_terminal_snr,
            said_beside=predicts.beside,
            native_size=native_size(header, model.path),
            only_seen=only_seen(shapes_of(header), predicts),
        )
        if model.config.only_seen:
            self._ask(model)
        self._said[model.path] = said_beside(model.path)

    def _ask(self, model: LatentDiffusion) -> None:
        """Find out what a model predicts, once for each content of a file."""
        kind = self._hashes.noted(model.path, PREDICTION)
        if not kind:
            kind = answers_with(model)
            self._hashes.note(model.path, PREDICTION, kind)
        side = native_size(open_source(model.path).header, model.path, kind)
        model.config = replace(model.config.predicting(kind), native_size=side, only_seen=False)

    def widen(self, model: LatentDiffusion) -> bool:
        """Have a model whose numbers overflow loaded in a wider format from now on; False where there is none."""
        device = model.device.wider()
        if device is None:
            return False
        self._wider[model.path] = device
        self.forget(model)
        return True

    def forget(self, model: LatentDiffusion) -> None:
        """Drop a model that was modified, together with a separately loaded VAE."""
        self._vae = None
        self._loaded = OrderedDict((key, kept) for key, kept in self._loaded.items() if kept[1].unet is not model.unet)

    def relieve(self) -> bool:
        """Free what no computation of the moment needs: networks on the card but for those that are brought next, or
        without a card all models but the one used last. Whether there was anything.
        """
        for _, model in self._loaded.values():
            model.graphs.clear()
        if self.residence.relieve():
            return True
        dropped = len(self._loaded) > 1 and not self.device.is_card
        while dropped and len(self._loaded) > 1:
            self._drop_oldest()
        self.device.release()
        return dropped

    def _make_room(self, size: int) -> None:
        """Drop the least recently used models before a new one is read, so that two need not fit at once.

        What others of this machine have taken since the start counts too: a model that is not used makes room before
        the system swaps.
        """
        dropped = False
        while self._loaded and not self._fits(size):
            self._drop_oldest()
            dropped = True
        if dropped:
            gc.collect()

    def _fits(self, size: int) -> bool:
        kept = sum(model.nbytes for _, model in self._loaded.values())
        vae = weight_bytes(self._vae[1]) if self._vae else 0
        free, total = in_main_memory()
        return size + kept + vae <= self.budget.all and (size <= free or not total)

    def _drop_oldest(self) -> None:
        _, (_, model) = self._loaded.popitem(last=False)
        log.info("dropped %s", model.name)
