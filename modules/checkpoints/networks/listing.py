"""Which networks lie in the folders, and which one a name in a prompt means.

A LoRA is known by its stem and by the alias in its metadata. An alias that two files share counts for neither, as
A1111 has it. What headers say is kept in a file of its own, by path, size and time, so that thousands of files are
listed at once.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.checkpoints import unpickle
from modules.checkpoints.files import Header, read_header
from modules.checkpoints.folders import files_below
from modules.checkpoints.networks import metadata as told
from modules.checkpoints.networks.hashes import stated_hash
from modules.checkpoints.networks.keys import BUNDLED, kind_of, layers_of, may_have_place
from modules.errors import CheckpointError, OutputError
from modules.storage import atomic

log = logging.getLogger(__name__)
LORA_SUFFIXES = (".pt", ".ckpt", ".safetensors")
MAX_PICKLE = 8 * 2**30
_FORBIDDEN = frozenset({"none"})
_DIGITS = re.compile(r"(\d+)")
_AT_A_TIME = 100
"""Headers that are read before the list shows what they say."""
COVERS = ("ssmd_cover_images", "modelspec.thumbnail")
"""Entries of the metadata that hold pictures."""


class Unusable(CheckpointError):
    """What a network's file holds is of no use, whatever the model."""


def unknown_kinds(path: Path) -> str:
    """What to say of a file no layer of which is of a kind that is known."""
    return f"{path.name} is no network: no layer of it is of a kind that is known"


@dataclass(frozen=True)
class Described:
    """What a file says of itself."""

    alias: str = ""
    """Empty: it states none, and its stem is its alias."""
    stated_family: str = told.UNKNOWN
    """As A1111 guesses it from the metadata."""
    family: str = ""
    """As its layers say; empty: they do not."""
    hash: str = ""
    """That it states."""
    embeddings: tuple[str, ...] = ()
    """Textual inversions that come with it."""
    tags: tuple[str, ...] = ()
    """The commonest words of its training set."""
    cover: bool = False
    """Whether it carries a picture of its own."""
    kinds: tuple[str, ...] = ()
    """Of its layers' changes, the commonest first."""
    problem: str = ""
    """Why it cannot be used."""


@dataclass(frozen=True)
class NetworkFile:
    """A file in one of the folders."""

    path: Path
    folder: Path
    """The root that it was found in."""
    size: int
    mtime_ns: int
    described: Described = Described()

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def alias(self) -> str:
        return self.described.alias or self.stem


@dataclass(frozen=True)
class NetworkListing:
    """The files in their order, and what names in prompts mean."""

    files: tuple[NetworkFile, ...] = ()
    unread: int = 0
    """Files whose headers nobody has read yet: their aliases are not known."""

    @cached_property
    def _stems(self) -> Mapping[str, NetworkFile]:
        return {file.stem: file for file in self.files}

    @cached_property
    def _aliases(self) -> tuple[Mapping[str, NetworkFile], frozenset[str]]:
        """Files by stem and alias, a later one over an earlier; and the aliases that do not count, in small letters."""
        names: dict[str, NetworkFile] = {}
        forbidden = set(_FORBIDDEN)
        for file in self.files:
            if file.alias in names:
                forbidden.add(file.alias.lower())
            names[file.stem] = names[file.alias] = file
        return names, frozenset(forbidden)

    def find(self, name: str) -> NetworkFile | None:
        """The file that a name in a prompt means."""
        names, forbidden = self._aliases
        return (self._stems if name.lower() in forbidden else names).get(name)

    def prompt_name(self, file: NetworkFile, *, by_file: bool = False) -> str:
        """What to write in a prompt. ``by_file``: A1111's setting to prefer file names to aliases."""
        _, forbidden = self._aliases
        return file.stem if by_file or file.alias.lower() in forbidden else file.alias

    def near(self, name: str) -> str:
        """The name most like one that is not there; empty: none is."""
        names = {known.casefold(): known for known in self._aliases[0] if abs(len(known) - len(name)) < 8}
        found = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.6)
        return names[found[0]] if found else ""

    def recorded(self, files: Iterable[tuple[str, NetworkFile]]) -> NetworkListing:
        """Only these, each under the file name that it had."""
        return replace(self, files=tuple(_renamed(file, name) for name, file in files))


def _renamed(file: NetworkFile, name: str) -> NetworkFile:
    return _Renamed(file.path, file.folder, file.size, file.mtime_ns, file.described, Path(name).stem)


@dataclass(frozen=True)
class _Renamed(NetworkFile):
    old_stem: str = ""

    @property
    def stem(self) -> str:
        return self.old_stem


ListFiles = Callable[[Path, tuple[str, ...]], Iterable[Path]]
Describe = Callable[[Path], Described]


class NetworkFolders:
    """The networks below some folders; in a later folder a file of the same name counts more."""

    def __init__(
        self,
        folders: Sequence[Path],
        suffixes: tuple[str, ...] = LORA_SUFFIXES,
        cache: Path | None = None,
        *,
        list_files: ListFiles = files_below,
        describe: Describe | None = None,
        tried: Path | None = None,
    ):
        """``cache``: where what headers say is kept between starts. ``list_files`` and ``describe``: which files below
        a folder count, and what one says of itself, where they are no networks. ``tried``: where it is kept what turned
        out when a file was read whole.
        """
        self.folders = tuple(folders)
        self._suffixes = suffixes
        self._cache = cache
        self._list_files = list_files
        self._describe = describe
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._known: dict[str, Described] = _load(cache)
        self._tried = Tried(tried)

    def read(self) -> NetworkListing:
        """All files, those that are new read first."""
        self._read(self._stamped())
        return self.listed()

    def listed(self) -> NetworkListing:
        """All files at once, with what is known of them."""
        known, tried = self._known, self._tried.problems()
        found = [(file, known.get(key := _key(file), _UNREAD), tried.get(key, "")) for file in self._stamped()]
        files = [
            replace(file, described=replace(about, problem=problem) if problem else about)
            for file, about, problem in found
        ]
        return NetworkListing(tuple(files), sum(about is _UNREAD for _, about, _ in found))

    def remember(self, file: NetworkFile, problem: str) -> None:
        """That a file cannot be used, which only reading all of it tells: it is not read again until it changes."""
        self._tried.add(_key(file), problem)

    def read_in_background(self) -> None:
        """Read what is new while the page goes on; a second call while that goes on does nothing."""
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(target=self.read, name="network headers", daemon=True)
            self._reader.start()

    def _stamped(self) -> list[NetworkFile]:
        found = []
        for folder in self.folders:
            own = sorted(self._list_files(folder, self._suffixes), key=lambda path: natural(str(path)))
            found += [made for path in own if (made := _stamped(path, folder))]
        return found

    def _read(self, files: Iterable[NetworkFile]) -> None:
        new = [file for file in files if _key(file) not in self._known]
        if not new:
            return
        for start in range(0, len(new), _AT_A_TIME):  # so that a list of thousands fills while it is read
            described = {
                _key(file): (self._describe or describe)(file.path) for file in new[start : start + _AT_A_TIME]
            }
            with self._lock:
                self._known = {**self._known, **described}
        with self._lock:
            self._save()

    def _save(self) -> None:
        if self._cache is None:
            return
        try:
            atomic.make_folder(self._cache.parent)
            entries = {key: asdict(value) for key, value in self._known.items()}
            atomic.write(self._cache, json.dumps(entries, separators=(",", ":")).encode())
        except (OSError, OutputError) as error:
            log.warning("%s cannot be written, so networks are read again at the next start: %s", self._cache, error)


MOST_TRIED = 2000


class Tried:
    """Problems of files by their keys, in a file that the worker writes and the server reads."""

    def __init__(self, path: Path | None):
        self._path = path
        self._stamp = 0
        self._problems: dict[str, str] = {}

    def problems(self) -> Mapping[str, str]:
        """As the file has them now."""
        try:
            stamp = self._path.stat().st_mtime_ns if self._path else 0
            if self._path and stamp != self._stamp:
                entries = json.loads(self._path.read_text(encoding="utf-8"))
                self._problems = {str(key): str(problem) for key, problem in entries.items()}
                self._stamp = stamp
        except FileNotFoundError:  # nothing was tried yet
            self._problems = {} if self._path else self._problems
        except (ValueError, AttributeError, OSError) as error:
            log.warning("%s cannot be read, so what is wrong with networks is found anew: %s", self._path, error)
        return self._problems

    def add(self, key: str, problem: str) -> None:
        problems = {**self.problems(), key: problem}
        self._problems = dict(list(problems.items())[-MOST_TRIED:])
        if self._path is None:
            return
        try:
            atomic.make_folder(self._path.parent)
            atomic.write(self._path, json.dumps(self._problems).encode())
        except (OSError, OutputError) as error:
            log.warning("%s cannot be written: %s", self._path, error)


_UNREAD = Described()
_FIELDS = frozenset(one.name for one in fields(Described))
"""An entry of a cache that lacks one is an older version's, and its file is read again."""


def describe(path: Path) -> Described:
    """What a file's header says; a pickle has only the names and shapes of its tensors."""
    if path.suffix.lower() != ".safetensors":
        return _described_pickle(path)
    try:
        header = read_header(path, field="prompt")
    except CheckpointError as error:
        return Described(problem=error.message)
    about = described(header)
    return replace(about, problem=_problem(path, header.tensors, about.family))


def describe_hypernetwork(path: Path) -> Described:
    """Whether a pickle holds networks by their widths."""
    try:
        with unpickle.opened(path, MAX_PICKLE) as table:
            widths = [key for key in table if isinstance(key, int)] if isinstance(table, Mapping) else []
    except (OSError, unpickle.UnreadablePickle) as error:
        return Described(problem=f"{path.name} cannot be read: {error}")
    return Described(problem="" if widths else f"{path.name} is no hypernetwork: it holds no networks")


def _problem(path: Path, keys: Iterable[str], family: str) -> str:
    """Why no model can use the layers of a file, by their names; empty: one may."""
    layers = layers_of(keys)
    known = [layer for layer, parts in layers.items() if kind_of(parts)]
    if not known:
        return "" if any(key.startswith(BUNDLED) for key in keys) else unknown_kinds(path)
    if family or any(may_have_place(layer) for layer in known):
        return ""
    return f"{path.name} is for another kind of model: none of its layers is one of SD 1.x, SD 2.x or SDXL"


def _described_pickle(path: Path) -> Described:
    try:
        with unpickle.opened(path, MAX_PICKLE) as table:
            while isinstance(table, Mapping) and isinstance(table.get("state_dict"), Mapping):
                table = table["state_dict"]
            tensors = unpickle.tensors_in(table, MAX_PICKLE) if isinstance(table, Mapping) else {}
    except (OSError, unpickle.UnreadablePickle) as error:
        return Described(problem=f"{path.name} cannot be read: {error}")
    family = told.family_of_shapes({key: tensor.shape for key, tensor in tensors.items()})
    return Described(family=family, kinds=_kinds(tensors), problem=_problem(path, tensors, family))


def _kinds(keys: Iterable[str]) -> tuple[str, ...]:
    found = Counter(kind for parts in layers_of(keys).values() if (kind := kind_of(parts)))
    return tuple(kind for kind, _ in found.most_common())


def described(header: Header) -> Described:
    """
    >>> from modules.checkpoints.files import TensorInfo
    >>> found = described(Header({"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": TensorInfo("F32", (), 4)}, {}))
    >>> found.family, found.stated_family
    ('SDXL', 'Unknown')
    """
    facts = told.decoded(header.metadata)
    shapes = {key: info.shape for key, info in header.tensors.items()}
    bundled = dict.fromkeys(key.split(".")[1] for key in shapes if key.startswith(BUNDLED))
    return Described(
        alias=str(facts.get("ss_output_name", "")),
        stated_family=told.stated_family(facts),
        family=told.family_of_shapes(shapes),
        hash=stated_hash(facts),
        embeddings=tuple(bundled),
        tags=tuple(tag for tag, _ in told.training_tags(facts)[:24]),
        cover=any(header.metadata.get(name) for name in COVERS),
        kinds=_kinds(shapes),
    )


def natural(text: str) -> list[tuple[int, int | str]]:
    """A key that puts 2 before 10.

    >>> sorted(["b10", "B2", "a"], key=natural)
    ['a', 'B2', 'b10']
    """
    words = _DIGITS.split(text)
    return [(0, int(word)) if word.isdigit() else (1, word.lower()) for word in words]


def _stamped(path: Path, folder: Path) -> NetworkFile | None:
    try:
        stat = path.stat()
    except OSError:  # gone since the folder was read, or a link to nothing
        return None
    return NetworkFile(path, folder, stat.st_size, stat.st_mtime_ns)


def _key(file: NetworkFile) -> str:
    return f"{file.path}|{file.size}|{file.mtime_ns}"


def _load(cache: Path | None) -> dict[str, Described]:
    """A cache that cannot be read is an empty one."""
    if cache is None or not cache.is_file():
        return {}
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
        return {key: _read_entry(entry) for key, entry in entries.items() if entry.keys() >= _FIELDS}
    except (ValueError, TypeError, AttributeError, OSError):
        log.warning("%s cannot be read; the networks' headers are read again", cache)
        return {}


def _read_entry(entry: Mapping[str, Any]) -> Described:
    values: dict[str, Any] = {one.name: entry[one.name] for one in fields(Described) if one.name in entry}
    for name in ("embeddings", "tags", "kinds"):
        values[name] = tuple(values.get(name, ()))
    return Described(**values)


# ------------------------------------------------------------------------------------------- generation texts


def hashes_text(used: Iterable[tuple[str, str]]) -> str:
    """Names in a prompt and their hashes, as "Lora hashes" has them.

    >>> hashes_text([("ink, v1: b", "58dda328598e2f7f"), ("wet", "ab0c3e400e45629c")])
    'ink v1 b: 58dda328598e, wet: ab0c3e400e45'
    """
    return ", ".join(f"{name.replace(':', '').replace(',', '')}: {digest[:12]}" for name, digest in used)


def read_hashes(text: str) -> dict[str, str]:
    """The inverse, as far as it goes.

    >>> read_hashes("ink v1 b: 58dda328598e, wet: ab0c3e400e45")
    {'ink v1 b': '58dda328598e', 'wet': 'ab0c3e400e45'}
    """
    pairs = (pair.partition(":") for pair in text.split(","))
    return {name.strip(): digest.strip() for name, colon, digest in pairs if colon}


def with_local_names(prompt: str, hashes: Mapping[str, str], local: Mapping[str, str]) -> str:
    """A prompt from elsewhere with its ``<lora:`` names as they are here. ``local``: names here by short hash.

    >>> with_local_names("a <lora:ink:0.8> fox", {"ink": "58dda328598e"}, {"58dda328598e": "brush"})
    'a <lora:brush:0.8> fox'
    """

    def renamed(match: re.Match[str]) -> str:
        name = match[1].replace(",", "")
        return f"<lora:{local.get(hashes.get(name, '').lower(), match[1])}{match[2]}"

    return re.sub(r"<lora:([^:>]+)([:>])", renamed, prompt)


_ADDNET_NAME = re.compile(r"(.*?)\s*\(([0-9a-fA-F]+)\)")


def addnet_tags(values: Mapping[str, Any], local: Mapping[str, str]) -> str:
    """The LoRAs that the extension Additional Networks names in a generation text, as tags: A1111 appends them to a
    pasted prompt, with the weight of the UNet. Where the text encoder's is another one it is kept too.

    >>> addnet_tags({"AddNet Module 1": "LoRA", "AddNet Model 1": "ink(58dda328598e)", "AddNet Weight A 1": "0.8"}, {})
    '<lora:ink:0.8>'
    """
    tags = []
    for key, model in values.items():
        number = key.removeprefix("AddNet Model ")
        if key == number or values.get(f"AddNet Module {number}") != "LoRA":
            continue
        stated = _ADDNET_NAME.fullmatch(str(model))
        name = local.get(stated[2].lower(), stated[1]) if stated else str(model)
        unet = str(values.get(f"AddNet Weight A {number}", "1.0"))
        te = str(values.get(f"AddNet Weight B {number}", unet))
        tags.append(f"<lora:{name}:{unet}>" if te == unet else f"<lora:{name}:te={te}:unet={unet}>")
    return "".join(tags)
