"""All that the panel of networks shows: LoRAs, hypernetworks, embeddings and checkpoints as cards, with what is told of
each in full, its notes and its preview. No torch.

A card is named by its ``key``, so that no address holds a place on the disk.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from modules.checkpoints.detect import family_label, shapes_of
from modules.checkpoints.embeddings import EmbeddingFile, EmbeddingFolder
from modules.checkpoints.files import Hashes, list_models, read_header
from modules.checkpoints.folders import root_of
from modules.checkpoints.networks import metadata as told
from modules.checkpoints.networks.cards import CHECKPOINT, EMBEDDING, Card, Cards, FilePage
from modules.checkpoints.networks.listing import COVERS, Described, NetworkFile, NetworkFolders
from modules.checkpoints.networks.metadata import FAMILIES, Fact
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA, NetworkShelf
from modules.checkpoints.networks.side_files import changed, side_base, write_preview, write_user
from modules.checkpoints.places import ModelFolders
from modules.checkpoints.source import open_source
from modules.errors import NotFound, OutputError, RepriseError, UserError
from modules.imaging.files import open_image
from modules.storage import atomic

log = logging.getLogger(__name__)
KINDS = (LORA, HYPERNETWORK, EMBEDDING, CHECKPOINT)
TEXTS = ("description", "notes", "activation_text", "negative_text", "vae")
"""Fields of a card that are texts, and what a person may write into them."""
EDITED: Mapping[str, tuple[str, ...]] = {
    LORA: ("description", "notes", "family", "activation_text", "negative_text", "preferred_weight"),
    HYPERNETWORK: ("description", "notes"),
    EMBEDDING: ("description", "notes"),
    CHECKPOINT: ("description", "notes", "vae"),
}
"""What a person may change, by the kind: what the reference's editors offer."""
EDITED_OF_FILES = ("description", "notes")
"""The same of files of extensions."""
MOST_TEXT, MOST_WEIGHT = 20_000, 100.0
THUMBNAIL, QUALITY = 384, 80
"""Longer side of a preview's small copy in pixels, twice what a card is wide; and its quality."""
MOST_TAGS, MOST_VALUE = 120, 2000
_WIDTHS = {768: told.SD1, 1024: told.SD2, 2048: told.SDXL}
"""Families by the width of an embedding's vectors."""


@dataclass(frozen=True)
class Details:
    """What is told of a card that is looked at alone."""

    facts: tuple[Fact, ...] = ()
    """Of a training, or of an embedding's vectors."""
    tags: tuple[tuple[str, int], ...] = ()
    """The words of the training set with their counts, the commonest first."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Further texts of the file's header."""


@dataclass(frozen=True)
class Naming:
    """How clicks write tags, as the owner has it."""

    weight: float = 1.0
    by_file: bool = False


class Library:
    """The cards of each kind, as the folders are whenever somebody asks."""

    def __init__(
        self,
        shelf: NetworkShelf,
        places: ModelFolders,
        data: Path | None = None,
        *,
        naming: Callable[[], Naming] = Naming,
        pages: Callable[[], Sequence[FilePage]] = list,
    ):
        """``data``: where small copies of previews are kept, and what headers of checkpoints say. ``pages``: files of
        extensions.
        """
        self._pages = pages
        self._page_folders: dict[FilePage, NetworkFolders] = {}
        self._shelf = shelf
        self._places = places
        self._naming = naming
        self._cards: dict[Naming, Cards] = {}
        self._embeddings = EmbeddingFolder(places.embeddings)
        cache = data / "checkpoint-cards.json" if data else None
        self._checkpoints = NetworkFolders(
            places.checkpoints, (".safetensors",), cache, list_files=_checkpoints, describe=_described_checkpoint
        )
        self._checkpoint_hashes = Hashes(data / "hashes.json" if data else None)
        self._small = data / "thumbnails" / "networks" if data else None
        self._known: dict[tuple[str, str], Card] = {}

    def cards(self, kind: str) -> tuple[Sequence[Card], int]:
        """The cards of a kind in the order of their paths, and how many of them have not been read yet."""
        naming = self._naming()
        cards = self._cards.setdefault(naming, Cards(self._shelf, default_weight=naming.weight, by_file=naming.by_file))
        found, unread = self._listed(kind, cards)
        self._known |= {(kind, card.key): card for card in found}
        return found, unread

    def _listed(self, kind: str, cards: Cards) -> tuple[Sequence[Card], int]:
        if kind == EMBEDDING:
            listed = self._embedding_files()
            return cards.of(kind, [file for _, file in listed], [name for name, _ in listed], [""] * len(listed)), 0
        if kind == CHECKPOINT:
            return self._checkpoint_cards(cards)
        if kind in (LORA, HYPERNETWORK):
            return self._network_cards(kind, cards)
        if page := self.page(kind):
            return self._page_cards(page, cards), 0
        kinds = ", ".join([*KINDS, *(page.kind for page in self._pages())])
        raise NotFound(f"there is no kind of network {kind[:40]!r}", hint=f"there are {kinds}", field="kind")

    def page(self, kind: str) -> FilePage | None:
        """The files of an extension that are called ``kind``."""
        return next((page for page in self._pages() if page.kind == kind), None)

    def _page_cards(self, page: FilePage, cards: Cards) -> Sequence[Card]:
        if page not in self._page_folders:
            self._page_folders[page] = NetworkFolders([page.folder], page.suffixes, describe=lambda path: Described())
        files = self._page_folders[page].read().files
        names = [file.path.relative_to(page.folder).as_posix() for file in files]
        made = cards.of(page.kind, files, names, [""] * len(files))
        return [replace(card, insertion=page.insertion(card.name), option=page.option) for card in made]

    def _network_cards(self, kind: str, cards: Cards) -> tuple[Sequence[Card], int]:
        listing = self._shelf.listed(kind)
        return cards.of_listing(kind, listing), listing.unread

    def _embedding_files(self) -> list[tuple[str, NetworkFile]]:
        listing, folders = self._embeddings.list(), self._places.embeddings
        sizes = {file.path: _WIDTHS.get(file.width, "") for file in listing.files}
        reasons = {file.path: file.reason for file in listing.broken}
        names = {file.path: file.name for file in listing.files} | {file.path: file.name for file in listing.broken}
        found: list[tuple[str, NetworkFile]] = []
        for path in sorted(names):
            about = Described(family=sizes.get(path, ""), problem=reasons.get(path, ""))
            if file := _stamped(path, root_of(path, folders), about):
                found.append((names[path], file))
        return found

    def _checkpoint_cards(self, cards: Cards) -> tuple[Sequence[Card], int]:
        names = {model.path: model.name for model in list_models(self._places.checkpoints)}
        listing = self._checkpoints.listed()
        if listing.unread:
            self._checkpoints.read_in_background()
        files = [file for file in listing.files if file.path in names]
        hashes = self._checkpoint_hashes.all_known(file.path for file in files)
        own = cards.of(CHECKPOINT, files, [names[file.path] for file in files], [hashes[file.path] for file in files])
        return own, listing.unread

    def find(self, kind: str, key: str) -> Card:
        """The card of that key; `NotFound` where its file is gone."""
        card = self._known.get((kind, key))
        if card is None:
            self.cards(kind)
            card = self._known.get((kind, key))
        if card is None or not card.file.path.is_file():
            raise NotFound("there is no such network", hint="it may have been moved: read the folders again")
        return card

    def fresh(self, kind: str, key: str) -> Card:
        """The card as its files are now."""
        self.cards(kind)
        return self.find(kind, key)

    # -- one card

    def details(self, card: Card) -> Details:
        """What the file says of itself; nothing where it cannot be read."""
        try:
            if card.role == EMBEDDING:
                own = [file for file in self._embeddings.list().files if file.path == card.file.path]
                return Details(tuple(fact for file in own for fact in _embedding_facts(file)))
            header = open_source(card.file.path).header if card.role == CHECKPOINT else read_header(card.file.path)
        except RepriseError:
            return Details()
        about = told.decoded(header.metadata)
        return Details(tuple(told.facts(about)), tuple(told.training_tags(about)[:MOST_TAGS]), _texts(header.metadata))

    def edit(self, kind: str, key: str, values: Mapping[str, Any]) -> Card:
        """Write what a person chose beside the file. Raises `UserError` for what no card can hold, `OutputError`."""
        card = self.fresh(kind, key)
        for name in values:
            if name not in edited(kind):
                raise UserError(
                    f"a card of this kind has no {name[:40]!r}", hint=f"it has {', '.join(edited(kind))}", field=name
                )
        model = side_base(card.file.path)
        write_user(model, changed(model, **{name: _judged(name, value) for name, value in values.items()}))
        return self.fresh(kind, key)

    def save_preview(self, kind: str, key: str, image: Image.Image, infotext: str = "") -> Card:
        """Keep a picture as a card's preview."""
        card = self.find(kind, key)
        write_preview(
            side_base(card.file.path), image, infotext, middle=".preview" if kind in (HYPERNETWORK, EMBEDDING) else ""
        )
        return self.fresh(kind, key)

    def preview(self, kind: str, key: str) -> bytes:
        """The small copy of a card's preview, as WebP; `NotFound` where it has none that can be read."""
        card = self.find(kind, key)
        version = f"{key}-{card.preview_ns or card.file.mtime_ns}.webp"
        kept = self._small / version if self._small else None
        if kept and kept.is_file():
            return kept.read_bytes()
        data = _small_copy(_picture(card))
        if kept:
            try:
                atomic.make_folder(kept.parent)
                for old in kept.parent.glob(f"{key}-*.webp"):
                    atomic.discard(old)
                atomic.write(kept, data)
            except (OSError, OutputError) as error:
                log.warning("%s is not kept: %s", kept.name, error)
        return data


def edited(kind: str) -> tuple[str, ...]:
    """What a person may change on cards of a kind."""
    return EDITED.get(kind, EDITED_OF_FILES)


def has_preview(card: Card) -> bool:
    return bool(card.preview) or card.file.described.cover


def _picture(card: Card) -> Image.Image:
    """A card's preview: the one beside the file, else the one within."""
    try:
        if card.preview:
            return open_image(card.preview)
        header = read_header(card.file.path)
        for name in COVERS:
            if data := _cover(header.metadata.get(name, "")):
                return open_image(data)
    except (RepriseError, OSError) as error:
        raise NotFound(f"the preview of {card.name} cannot be read: {error}") from error
    raise NotFound(f"{card.name} has no preview")


def _cover(text: str) -> bytes:
    """The picture in an entry of the metadata: the first of a JSON list, or a data URL."""
    try:
        found = json.loads(text) if text.startswith("[") else text
        first = found[0] if isinstance(found, list) and found else found
        return base64.b64decode(first.rpartition("base64,")[2], validate=True) if isinstance(first, str) else b""
    except (ValueError, RecursionError, binascii.Error):
        return b""


def _small_copy(image: Image.Image) -> bytes:
    image = image.convert("RGBA" if image.mode == "RGBA" else "RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=QUALITY, method=2)
    return data.getvalue()


def _checkpoints(folder: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    return [model.path for model in list_models(folder, suffixes)]


def _described_checkpoint(path: Path) -> Described:
    """The family of a checkpoint, by the word for networks that fit it where there is one."""
    try:
        label = family_label(shapes_of(open_source(path).header))
    except RepriseError as error:
        return Described(problem=error.message)
    return Described(family=told.family_named(label) or label)


def _stamped(path: Path, folder: Path, about: Described) -> NetworkFile | None:
    try:
        stat = path.stat()
    except OSError:  # gone since it was listed
        return None
    return NetworkFile(path, folder, stat.st_size, stat.st_mtime_ns, about)


def _embedding_facts(file: EmbeddingFile) -> Iterable[Fact]:
    yield Fact("Vectors:", file.count)
    yield Fact("Width:", file.width)
    if file.step is not None:
        yield Fact("Training steps:", file.step)
    if file.checkpoint_name:
        yield Fact("Trained on:", file.checkpoint_name)


def _texts(metadata: Mapping[str, str]) -> dict[str, str]:
    """Entries for people: no pictures, no tables, and what the trainer's own keys say stands in the facts."""
    shown = {key: text for key, text in metadata.items() if text.strip() and key not in COVERS}
    shown = {key: text for key, text in shown.items() if not text.startswith(("{", "[", "data:"))}
    return {key: text[:MOST_VALUE] for key, text in sorted(shown.items()) if key.startswith("modelspec.")}


def _judged(name: str, value: Any) -> Any:
    """A value for a card's field; raises `UserError`."""
    if name in TEXTS:
        if not isinstance(value, str) or len(value) > MOST_TEXT:
            raise UserError(f"{name} is a text of at most {MOST_TEXT:,} letters", hint="shorten it", field=name)
        return value
    if name == "family":
        if value not in ("", *FAMILIES):
            raise UserError(
                f"there is no family {str(value)[:40]!r}", hint=f"there are {', '.join(FAMILIES)}", field=name
            )
        return value
    try:
        weight = float(value or 0)
    except (TypeError, ValueError):
        weight = math.nan
    if not abs(weight) <= MOST_WEIGHT:
        raise UserError(
            f"a preferred weight is a number between {-MOST_WEIGHT:g} and {MOST_WEIGHT:g}",
            hint="0 stands for the usual one",
            field=name,
        )
    return weight
