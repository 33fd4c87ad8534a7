"""Catalogue of the models folder for the server: names, sizes, metadata. Reads headers only; no torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from modules.checkpoints.approximation_files import find_part, parts_asked
from modules.checkpoints.choices import Choices, read_choices, write_choices
from modules.checkpoints.convert import convert
from modules.checkpoints.detect import (
    detect,
    family_label,
    family_of,
    has_vae,
    native_size,
    only_seen,
    prediction,
    remarks,
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
    ModelFile,
    contents,
    find_model,
    list_models,
    old_hash,
)
from modules.checkpoints.folders import below, dead_links, each, root_of, unlistable
from modules.checkpoints.networks.side_files import (
    preview_of,
    read_description,
    read_downloaded,
    side_base,
    write_preview,
)
from modules.checkpoints.places import ModelFolders, model_folders
from modules.checkpoints.presets import Preset, distilled, preset_from, suggested
from modules.checkpoints.source import open_source
from modules.checkpoints.text_encoders import TextEncoders, missing_encoders
from modules.checkpoints.vaes import VaeFolders, no_vae
from modules.errors import CheckpointError, NotFound, RepriseError, printable
from modules.params.generation import GenerationParams

_MAX_VALUE, _MAX_ENTRIES = 600, 60
KEPT_HEADERS = 4


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
    words: frozenset[str] = frozenset()
    """The words of the captions that it was trained with, where the file says them (``reprise.words``)."""
    examples: tuple[str, ...] = ()
    """Prompts to begin with, where the file says some (``reprise.examples``)."""
    problem: str = ""
    """Why the card is empty."""
    old_hash: str = ""
    """A1111's 8-digit hash from before 2022."""
    zero_terminal_snr: bool = False
    own_vae: bool = True
    """False: it needs a standalone VAE file."""
    own_text: bool = True
    """False: it needs text encoders in files of their own."""
    choices: Choices = field(default_factory=Choices)
    """What a person chose for it."""
    preset: Preset = field(default_factory=Preset)
    """What a form begins with for it: what was chosen and, where nothing was, what suits its kind."""
    kind: str = ""
    """Of models that need few steps: "Turbo", "Lightning", "LCM" or "Hyper"."""
    remarks: tuple[str, ...] = ()
    """What the configuration beside it says that is not done."""
    description: str = ""
    trigger_words: tuple[str, ...] = ()
    """Of the card, else of the downloader that fetched the file."""
    preview: Path | None = None
    """A picture beside the file."""
    pickled: bool = False
    """The file is a pickle, which can be converted."""


class CheckpointCatalogue:
    """The checkpoints, VAEs and embeddings below a models folder, listed anew at every call."""

    def __init__(self, folder: Path | ModelFolders, hashes: Hashes, *, default: str = ""):
        places = folder if isinstance(folder, ModelFolders) else model_folders(folder)
        self._checkpoints = places.checkpoints
        self._vaes = VaeFolders(places.vaes, self._checkpoints)
        self._texts = TextEncoders(places.text_encoders)
        self._embeddings = EmbeddingFolder(places.embeddings)
        self._approximations = places.approximations
        self._missing = places.missing
        self._hashes = hashes
        self._default = default
        self._headers: dict[tuple[Path, int], Header] = {}

    def told_at_start(self) -> list[str]:
        """Warnings about the folders to log at startup."""
        folders = (*self._checkpoints, *each(self._vaes.folder), *each(self._embeddings.folder))
        gone = [f"there is no folder {folder}, so nothing is read from there" for folder in self._missing]
        dead = [
            f"{below(path, folder)} in {folder.name} is a link that leads to nothing: bring back what it led to"
            for folder in folders
            for path in dead_links(folder)
        ]
        odd = [
            f"{name} in {folder.name} is left out because its name is not UTF-8: rename it"
            for folder in folders
            for name in unlistable(folder, (*SUFFIXES, *PICKLES))
        ]
        return gone + dead + odd

    def checkpoints(self) -> list[str]:
        """Names of all checkpoints, the default first, and behind them pickles that nobody has converted, with their
        suffix.
        """
        names = [model.name for model in list_models(self._checkpoints)]
        return [*sorted(names, key=lambda name: name != self._default), *self._pickles()]

    def _pickles(self) -> dict[str, Path]:
        found = {
            model.path.relative_to(root_of(model.path, self._checkpoints)).as_posix(): model.path
            for model in list_models(self._checkpoints, CHECKPOINT_PICKLES)
        }
        return {name: path for name, path in found.items() if not path.with_suffix(".safetensors").is_file()}

    def convert(self, checkpoint: str) -> Path:
        """Write a safetensors file beside a pickle of `checkpoints`. Raises `RepriseError`."""
        path = self._pickles().get(checkpoint)
        if path is None:
            raise NotFound(f"there is no pickle {printable(checkpoint)}", hint="choose another", field="checkpoint")
        return convert(path)

    def vae_sha256(self, name: str) -> str:
        """SHA-256 of a VAE by its listed name; empty until the worker has read the file."""
        path = self._vaes.list().get(name)
        return self._hashes.all_known([path])[path] if path else ""

    def vaes(self) -> list[str]:
        """File names of all VAEs."""
        return list(self._vaes.list())

    def text_encoders(self) -> list[str]:
        """File names of all text encoders in files of their own."""
        return list(self._texts.names())

    def embeddings(self, checkpoint: str) -> Suited:
        """The embeddings, sorted into usable and unusable for a checkpoint; empty if the checkpoint cannot be read."""
        try:
            _, header = self._header(checkpoint)
        except RepriseError:
            return Suited()
        return self._embeddings.list().for_width(text_width(shapes_of(header)))

    def choose(self, checkpoint: str, chosen: Choices) -> None:
        """Keep what a person chose for a checkpoint beside its file. Raises `RepriseError`."""
        write_choices(self._path(checkpoint), chosen)

    def illustrate(self, checkpoint: str, image: Image.Image, infotext: str = "") -> None:
        """Keep a picture as a checkpoint's preview. Raises `RepriseError`."""
        write_preview(side_base(self._path(checkpoint)), image, infotext)

    def native_size(self, checkpoint: str) -> int:
        """The image size in pixels (side of a square) that a checkpoint was trained for."""
        try:
            file, header = self._header(checkpoint)
            return native_size(header, file.path, self._seen(file.path, header))
        except RepriseError:  # no model at all: the job will say so
            return 512

    def card(self, checkpoint: str) -> Card:
        """The model card of a checkpoint."""
        try:
            file, header = self._header(checkpoint)
            path = file.path
            nbytes = sum(file.stat().st_size for file in contents(path))
            sha256 = self._hashes.known(path)
        except RepriseError as error:
            return Card(printable(checkpoint), problem=str(error), pickled=checkpoint in self._pickles())
        except OSError as error:  # gone since it was listed
            return Card(printable(checkpoint), problem=f"the file cannot be read: {error.strerror}")
        family = family_of(shapes_of(header))
        shapes, predicts = shapes_of(header), prediction(header, path)
        seen = self._seen(path, header)
        side, chosen = native_size(header, path, seen), read_choices(path)
        name, title = side_base(path).stem, header.metadata.get("modelspec.title", "")
        kind, downloaded = distilled(name, title), read_downloaded(side_base(path))
        return Card(
            choices=chosen,
            preset=chosen.preset.over(preset_from(downloaded.defaults)).over(suggested(name, title, side)),
            kind=kind.name if kind else "",
            remarks=tuple(remarks(header, path)),
            description=chosen.description or read_description(side_base(path)) or downloaded.description,
            trigger_words=(chosen.trigger_words,) if chosen.trigger_words else downloaded.trained_words,
            preview=preview_of(side_base(path)),
            name=file.name,
            file_name=path.parent.name if path.name == INDEX else path.name,
            family=family_label(shapes),
            prediction=seen if only_seen(shapes, predicts) else predicts.kind,
            zero_terminal_snr=predicts.zero_terminal_snr,
            own_vae=has_vae(shapes),
            own_text=family is None or not missing_encoders(family, shapes),
            native_size=side,
            nbytes=nbytes,
            sha256=sha256,
            old_hash=old_hash(path),
            metadata=_shown_metadata(header.metadata),
            words=frozenset(_texts_in(header.metadata.get("reprise.words", ""))),
            examples=_texts_in(header.metadata.get("reprise.examples", "")),
        )

    def _seen(self, path: Path, header: Header) -> str:
        """What the worker saw a checkpoint predict that does not say it itself; else empty."""
        if not only_seen(shapes_of(header), prediction(header, path)):
            return ""
        return self._hashes.noted(path, PREDICTION)

    def _path(self, checkpoint: str) -> Path:
        return find_model(self._checkpoints, checkpoint, self._default).path

    def check(self, params: GenerationParams) -> None:
        """Raise what a worker would raise that looked for the files of a request, with the field that names each:
        files that are not here, files that no worker can load, and those that a checkpoint needs beside it.
        """
        file, header = self._header(params.checkpoint)
        config = detect(file.stem, header, file.path)
        if self._vaes.find(params.vae, file.path) is None and not config.own_vae:
            raise no_vae(file.stem, self.vaes())
        self._texts.find(params.text_encoder, file.path, config.family, shapes_of(header))
        for part in parts_asked(params):
            find_part(self._approximations, config, part)
        for name, group in (("hires", params.hires), ("refiner", params.refiner)):
            if group and group.checkpoint:
                with _naming(f"{name}.checkpoint"):
                    find_model(self._checkpoints, group.checkpoint)

    def _header(self, checkpoint: str) -> tuple[ModelFile, Header]:
        file = find_model(self._checkpoints, checkpoint, self._default)
        path = file.path
        try:
            key = (path, path.stat().st_mtime_ns)
        except OSError as error:  # gone since it was listed
            raise CheckpointError(f"{path.name} cannot be read: {error.strerror}", field="checkpoint") from error
        header = self._headers.get(key)
        if header is None:
            header = open_source(path).header
            kept = list(self._headers.items())[-KEPT_HEADERS + 1 :]  # asked for again and again while a prompt is typed
            self._headers = dict([*kept, (key, header)])
        return file, header


@contextlib.contextmanager
def _naming(field: str) -> Iterator[None]:
    """Within it, the errors of files name this field."""
    try:
        yield
    except RepriseError as error:
        error.field = field
        raise


CHECKPOINT_PICKLES = (".ckpt", ".pt", ".pth")
_FIRST = ("title", "author", "description", "license", "date", "usage_hint", "tags", "trigger_phrase")


def _texts_in(text: str) -> tuple[str, ...]:
    """The texts of a JSON list; none where it is no such list.

    >>> _texts_in('["a fox", 3]'), _texts_in("a fox")
    (('a fox',), ())
    """
    try:
        values = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return ()
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _shown_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata worth showing to people, without base64 images and our own configuration."""
    rank = {f"modelspec.{name}": i for i, name in enumerate(_FIRST)} | {name: i for i, name in enumerate(_FIRST)}
    texts = {k: v for k, v in metadata.items() if v.strip() and not v.startswith("data:")}
    texts = {k: v for k, v in texts.items() if k not in ("format", "reprise.config", "reprise.words")}
    ordered = sorted(texts, key=lambda key: (rank.get(key, len(rank)), key))[:_MAX_ENTRIES]
    return {key: texts[key] if len(texts[key]) <= _MAX_VALUE else texts[key][: _MAX_VALUE - 1] + "…" for key in ordered}
