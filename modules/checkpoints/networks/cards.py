"""Cards of networks for the page: what is known of each, what a click on it writes, and how cards are found.

>>> texts = clicked(("a cat", "lowres"), Insertion("<lora:ink:0.7> brush", "(blurry:1)"))
>>> texts
('a cat <lora:ink:0.7> brush', 'lowres (blurry:1)')
>>> clicked(texts, Insertion("<lora:ink:0.7> brush", "(blurry:1)"))
('a cat', 'lowres')
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from modules.checkpoints.networks.listing import NetworkFile, NetworkListing
from modules.checkpoints.networks.metadata import FAMILIES, UNKNOWN
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA, NetworkShelf
from modules.checkpoints.networks.side_files import (
    PREVIEWS,
    Downloaded,
    UserMetadata,
    preview_name,
    read_description,
    read_downloaded,
    read_user,
    side_base,
)

log = logging.getLogger(__name__)
EMBEDDING, CHECKPOINT = "embedding", "checkpoint"
"""Further roles of cards: what is no network, and lies beside them in the panel."""
SEPARATOR = " "
_TAG = re.compile(r"<([^:^>]+:[^:]+):[\d.]+>")
"""Its group is the tag without its weight, which a second click does not look at."""
_NEGATIVE = re.compile(r"\(([^:^>]+:[\d.]+)\)")


@dataclass(frozen=True)
class Insertion:
    """What a click on a card writes into the prompt and the negative prompt."""

    text: str
    negative: str = ""


@dataclass(frozen=True)
class Card:
    """A network or a checkpoint, and all that is told of it."""

    file: NetworkFile
    role: str
    name: str
    """What prompts call it; a checkpoint's as it is chosen."""
    folder: str
    """With the root folder's name before it, as the reference's search has it: ``Lora/people``."""
    family: str
    user: UserMetadata
    downloaded: Downloaded
    description: str
    preview: Path | None
    preview_ns: int
    """When the preview was written."""
    insertion: Insertion
    terms: str
    """What a search looks at, in small letters."""
    weight: float = 0.0
    """That its tag gets; 0: it has none."""
    hash: str = ""
    """By which generation texts know it; empty as long as it would have to be computed."""
    option: str = ""
    """ "MODIFIER.OPTION" that a click sets to the name, where it writes nothing."""
    meant: str = ""
    """Another file of the same name, which is the one that prompts mean; empty: it is this one."""

    @cached_property
    def key(self) -> str:
        """Names the card in addresses."""
        return hashlib.sha256(str(self.file.path).encode(errors="surrogateescape")).hexdigest()[:16]

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """What the person wrote, else what the downloader knows."""
        own = self.user.activation_text.strip()
        return (own,) if own else self.downloaded.trained_words

    @cached_property
    def is_hidden(self) -> bool:
        """Whether it lies in a folder whose name begins with a dot."""
        return any(part.startswith(".") for part in self.folder.split("/"))


@dataclass(frozen=True)
class FilePage:
    """Cards of the files in a folder of an extension's own."""

    kind: str
    label: str
    name: str
    """Of the folder, below the models folder."""
    folder: Path
    suffixes: tuple[str, ...]
    insert: str
    """What a click writes; {name} and {stem} are the file's."""
    option: str = ""
    """ "MODIFIER.OPTION" that a click sets instead."""

    def insertion(self, name: str) -> Insertion:
        """
        >>> FilePage("cards_x", "X", "x", Path(), (), "<x:{stem}>").insertion("a/face.v2.pt").text
        '<x:face.v2>'
        """
        stem = name.rpartition("/")[2].rpartition(".")[0]
        parts = re.split(r"(\{name\}|\{stem\})", self.insert)
        return Insertion("".join({"{name}": name, "{stem}": stem}.get(part, part) for part in parts))


class Cards:
    """The cards of a shelf. Side files are read when they are new or changed, and a card is made anew only then."""

    def __init__(self, shelf: NetworkShelf, *, default_weight: float = 1.0, by_file: bool = False):
        """``default_weight``: for cards that state none. ``by_file``: tags name files rather than aliases."""
        self._shelf = shelf
        self._default_weight = default_weight
        self._by_file = by_file
        self._sides: dict[Path, tuple[object, _Side]] = {}
        self._made: dict[tuple[str, Path], tuple[object, Card]] = {}

    def list(self, role: str = LORA) -> Sequence[Card]:
        """Those of a role, in the order of their paths; files whose headers nobody has read yet as far as is known."""
        return self.of_listing(role, self._shelf.listed(role))

    def of_listing(self, role: str, listing: NetworkListing) -> Sequence[Card]:
        """The cards of what the shelf listed."""
        names = [listing.prompt_name(file, by_file=self._by_file) for file in listing.files]
        cards = self.of(role, listing.files, names, self._shelf.known_hashes(listing.files))
        meant = map(listing.find, names)
        return [
            replace(card, meant=_place(file)) if file and file.path != card.file.path else card
            for card, file in zip(cards, meant, strict=True)
        ]

    def of(
        self, role: str, files: Sequence[NetworkFile], names: Sequence[str], hashes: Sequence[str]
    ) -> Sequence[Card]:
        """The cards of ``files``, which prompts call by ``names``."""
        models = [side_base(file.path) for file in files]
        folders = _names({model.parent for model in models})
        return [
            self._card(role, file, name, digest, self._side(model, folders[model.parent]))
            for file, name, digest, model in zip(files, names, hashes, models, strict=True)
        ]

    def _card(self, role: str, file: NetworkFile, name: str, digest: str, side: _Side) -> Card:
        facts, known = (file, name, digest, side), self._made.get((role, file.path))
        if known is None or known[0] != facts:
            known = self._made[role, file.path] = facts, self._new_card(role, file, name, digest, side)
        return known[1]

    def _new_card(self, role: str, file: NetworkFile, name: str, digest: str, side: _Side) -> Card:
        family = side.user.family if side.user.family in FAMILIES[:-1] else ""
        family = family or file.described.family or file.described.stated_family
        description = side.description if side.user.description is None else side.user.description
        place = _place(file)
        words = (*file.described.tags, *side.downloaded.trained_words, side.user.activation_text, side.user.notes)
        own_weight = side.user.preferred_weight or self._default_weight
        terms = (place, digest, name, description, *words)
        return Card(
            file=file,
            role=role,
            name=name,
            folder=place.rpartition("/")[0],
            family=family,
            user=side.user,
            downloaded=side.downloaded,
            description=description,
            preview=side_base(file.path).with_name(side.preview) if side.preview else None,
            preview_ns=side.preview_ns,
            insertion=insertion(name, side.user, self._default_weight, role=role),
            terms=" ".join(terms).lower(),
            weight=own_weight if role == LORA else self._default_weight if role == HYPERNETWORK else 0.0,
            hash=digest,
        )

    def _side(self, model: Path, names: Mapping[str, int]) -> _Side:
        """What lies beside a model, by the names of its folder with their times."""
        stem = model.stem
        stamp = tuple(names.get(f"{stem}{suffix}", 0) for suffix in _READ)
        known = self._sides.get(model)
        if known is None or known[0] != stamp:
            texts = any(stamp)
            user = read_user(model) if texts else UserMetadata()
            downloaded = read_downloaded(model) if texts else Downloaded()
            known = stamp, _Side(user, downloaded, read_description(model) if texts else "")
            self._sides[model] = known
        side, preview = known[1], preview_name(stem, names)
        return replace(side, preview=preview, preview_ns=names.get(preview, 0)) if preview else side


def _place(file: NetworkFile) -> str:
    """Where a file lies, with the root folder's name before it."""
    return f"{file.folder.name}/{file.path.relative_to(file.folder).as_posix()}"


@dataclass(frozen=True)
class _Side:
    user: UserMetadata
    downloaded: Downloaded
    description: str
    preview: str = ""
    preview_ns: int = 0


_READ = (".json", ".civitai.info", ".cm-info.json", ".txt", ".description.txt")
_DATED = (*_READ, *(f".{suffix}" for suffix in PREVIEWS))


def _names(folders: Iterable[Path]) -> dict[Path, dict[str, int]]:
    """The files of each folder with the times of side files, each folder read once."""
    found: dict[Path, dict[str, int]] = defaultdict(dict)
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(_DATED) and entry.is_file():  # a link to nothing is no file
                        found[folder][entry.name] = entry.stat().st_mtime_ns
        except OSError as error:  # gone since its models were listed
            log.info("%s is passed over: %s", folder, error.strerror)
    return found


# ------------------------------------------------------------------------------------------------------ a click


def insertion(name: str, user: UserMetadata, default_weight: float = 1.0, *, role: str = LORA) -> Insertion:
    """What a click on a card writes: the tag, the activation text behind it, and the negative text.

    >>> insertion("ink", UserMetadata(preferred_weight=0.7, activation_text="brush", negative_text="blurry"))
    Insertion(text='<lora:ink:0.7> brush', negative='(blurry:1)')
    """
    if role == CHECKPOINT:
        return Insertion("")
    if role == EMBEDDING:
        return Insertion(name)
    if role == HYPERNETWORK:
        return Insertion(f"<hypernet:{name}:{as_javascript(default_weight)}>")
    tag = f"<lora:{name}:{as_javascript(user.preferred_weight or default_weight)}>"
    behind = f" {user.activation_text}" if user.activation_text else ""
    return Insertion(tag + behind, f"({user.negative_text}:1)" if user.negative_text else "")


def as_javascript(number: float) -> str:
    """
    >>> as_javascript(1.0), as_javascript(0.7), as_javascript(-0.25)
    ('1', '0.7', '-0.25')
    """
    return str(int(number)) if number == int(number) else repr(float(number))


def clicked(texts: tuple[str, str], inserted: Insertion, separator: str = SEPARATOR) -> tuple[str, str]:
    """Prompt and negative prompt after a click on a card: what it writes is added, or taken out where it stands."""
    prompt, negative = texts
    if inserted.negative:
        negative = _toggled(negative, inserted.negative, _NEGATIVE, separator)
    return _toggled(prompt, inserted.text, _TAG, separator), negative


def _toggled(text: str, inserted: str, weighted: re.Pattern[str], separator: str) -> str:
    removed = _without(text, inserted, weighted, separator)
    return text + separator + inserted if removed is None else removed


def _without(text: str, inserted: str, weighted: re.Pattern[str], separator: str) -> str | None:
    """``text`` without what a click wrote, at any weight; at the last place also without the text behind it and the
    separator before it. None: it is not there."""
    tag = weighted.match(inserted)
    if tag is None:
        removed = re.sub(f"(?:{re.escape(separator)})?{re.escape(inserted)}", "", text)
        return removed if removed != text else None
    places = [found for found in weighted.finditer(text) if found[1] == tag[1]]
    if not places:
        return None
    behind = inserted[tag.end() :]
    *others, last = places
    end = last.end() + (len(behind) if text.startswith(behind, last.end()) else 0)
    start = last.start() - (len(separator) if text[: last.start()].endswith(separator) else 0)
    text = text[:start] + text[end:]
    for place in reversed(others):
        text = text[: place.start()] + text[place.end() :]
    return text


# ------------------------------------------------------------------------------------------------------- a search

SORTS: Mapping[str, Callable[[Card], object]] = {
    "Path": lambda card: 0,
    "Name": lambda card: card.name.lower(),
    "Newest": lambda card: -card.file.mtime_ns,
}
HIDDEN_FROM = 4
"""Letters of a search that also looks into folders whose names begin with a dot, as in the reference."""


def chosen(
    cards: Iterable[Card], search: str = "", family: str = "", sort: str = "Path", *, folder: str = ""
) -> list[Card]:
    """The cards that have every word of a search, for a family of models and below a folder (empty: all), sorted."""
    words, hidden = search.lower().split(), len(search) >= HIDDEN_FROM
    found = [
        card
        for card in cards
        if (hidden or not card.is_hidden)
        and fits(card, family)
        and (not folder or f"{card.folder}/".startswith(f"{folder}/"))
        and all(word in card.terms for word in words)
    ]
    return sorted(found, key=SORTS.get(sort, SORTS["Path"]))  # type: ignore[arg-type]


def fits(card: Card, family: str) -> bool:
    """Whether a network can be for a family of models: one that nothing is known of can."""
    return not family or card.family in ("", UNKNOWN, family)
