"""Catalogue of the models folder for the server: names, sizes, metadata. Reads headers only; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.checkpoints.detect import (
    family_label,
    has_vae,
    native_size,
    only_seen,
    prediction,
    shapes_of,
    text_width,
)
from modules.checkpoints.embeddings import SUFFIXES, EmbeddingFolder, Suited
from modules.checkpoints.files import (
    INDEX,
    PICKLES,
    PREDICTION,
    Hashes,
    Header,
    contents,
    find_model,
    list_models,
    old_hash,
)
from modules.checkpoints.folders import unlistable
from modules.checkpoints.places import ModelFolders, model_folders
from modules.checkpoints.source import open_source
from modules.checkpoints.vaes import VaeFolders
from modules.errors import CheckpointError, RepriseError, printable

_MAX_VALUE, _MAX_ENTRIES = 600, 60


@dataclass(frozen=True)
class Card:
    """What is known of a checkpoint without loading it (the model card)."""

    name: str
    file_name: str = ""
    family: str = ""
    prediction: str = ""
    """ "eps" or "v"; empty as long as it has to be seen when the file is first loaded."""
    native_size: int = 512
    nbytes: int = 0
    sha256: str = ""
    """Empty until the worker has read the file."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Texts of the file's header, descriptive ones first; long ones are cut."""
    problem: str = ""
    """Why the card is empty."""
    old_hash: str = ""
    """A1111's 8-digit hash from before 2022."""
    zero_terminal_snr: bool = False
    own_vae: bool = True
    """False: it needs a standalone VAE file."""


class CheckpointCatalogue:
    """The checkpoints, VAEs and embeddings below a models folder, listed anew at every call."""

    def __init__(self, folder: Path | ModelFolders, hashes: Hashes, *, default: str = ""):
        places = folder if isinstance(folder, ModelFolders) else model_folders(folder)
        self._checkpoints = places.checkpoints
        self._vaes = VaeFolders(places.vaes, self._checkpoints)
        self._embeddings = EmbeddingFolder(places.embeddings)
        self._hashes = hashes
        self._default = default
        self._headers: dict[tuple[Path, int], Header] = {}

    def told_at_start(self) -> list[str]:
        """Warnings about the folders to log at startup."""
        return [
            f"{name} in {folder.name} is left out because its name is not UTF-8: rename it"
            for folder in (self._checkpoints, self._vaes.folder, self._embeddings.folder)
            for name in unlistable(folder, (*SUFFIXES, *PICKLES))
        ]

    def checkpoints(self) -> list[str]:
        """Names of all checkpoints, the default first."""
        names = (model.name for model in list_models(self._checkpoints))
        return sorted(names, key=lambda name: name != self._default)

    def vae_sha256(self, name: str) -> str:
        """SHA-256 of a VAE by its listed name; empty until the worker has read the file."""
        path = self._vaes.list().get(name)
        return self._hashes.all_known([path])[path] if path else ""

    def vaes(self) -> list[str]:
        """File names of all VAEs."""
        return list(self._vaes.list())

    def embeddings(self, checkpoint: str) -> Suited:
        """The embeddings, sorted into usable and unusable for a checkpoint; empty if the checkpoint cannot be read."""
        try:
            _, header = self._header(checkpoint)
        except RepriseError:
            return Suited()
        return self._embeddings.list().for_width(text_width(shapes_of(header)))

    def native_size(self, checkpoint: str) -> int:
        """The image size in pixels (side of a square) that a checkpoint was trained for."""
        try:
            path, header = self._header(checkpoint)
            return native_size(header, path, self._seen(path, header))
        except RepriseError:  # no model at all: the job will say so
            return 512

    def card(self, checkpoint: str) -> Card:
        """The model card of a checkpoint."""
        try:
            path, header = self._header(checkpoint)
            nbytes = sum(file.stat().st_size for file in contents(path))
            sha256 = self._hashes.known(path)
        except RepriseError as error:
            return Card(printable(checkpoint), problem=str(error))
        except OSError as error:  # gone since it was listed
            return Card(printable(checkpoint), problem=f"the file cannot be read: {error.strerror}")
        shapes, predicts = shapes_of(header), prediction(header, path)
        seen = self._seen(path, header)
        return Card(
            name=self._name(path),
            file_name=path.parent.name if path.name == INDEX else path.name,
            family=family_label(shapes),
            prediction=seen if only_seen(shapes, predicts) else predicts.kind,
            zero_terminal_snr=predicts.zero_terminal_snr,
            own_vae=has_vae(shapes),
            native_size=native_size(header, path, seen),
            nbytes=nbytes,
            sha256=sha256,
            old_hash=old_hash(path),
            metadata=_shown_metadata(header.metadata),
        )

    def _seen(self, path: Path, header: Header) -> str:
        """What the worker saw a checkpoint predict that does not say it itself; else empty."""
        if not only_seen(shapes_of(header), prediction(header, path)):
            return ""
        return self._hashes.noted(path, PREDICTION)

    def _name(self, path: Path) -> str:
        whole = path.relative_to(self._checkpoints)
        return (whole.parent if path.name == INDEX else whole.with_suffix("")).as_posix()

    def _header(self, checkpoint: str) -> tuple[Path, Header]:
        path = find_model(self._checkpoints, checkpoint, self._default).path
        try:
            key = (path, path.stat().st_mtime_ns)
        except OSError as error:  # gone since it was listed
            raise CheckpointError(f"{path.name} cannot be read: {error.strerror}", field="checkpoint") from error
        if key not in self._headers:
            self._headers = {key: open_source(path).header}  # one: asked for again and again while its prompt is typed
        return path, self._headers[key]


_FIRST = ("title", "author", "description", "license", "date", "usage_hint", "tags", "trigger_phrase")


def _shown_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata worth showing to people, without base64 images and our own configuration."""
    rank = {f"modelspec.{name}": i for i, name in enumerate(_FIRST)} | {name: i for i, name in enumerate(_FIRST)}
    texts = {k: v for k, v in metadata.items() if v.strip() and not v.startswith("data:")}
    texts = {k: v for k, v in texts.items() if k not in ("format", "reprise.config")}
    ordered = sorted(texts, key=lambda key: (rank.get(key, len(rank)), key))[:_MAX_ENTRIES]
    return {key: texts[key] if len(texts[key]) <= _MAX_VALUE else texts[key][: _MAX_VALUE - 1] + "…" for key in ordered}
