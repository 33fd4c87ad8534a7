"""Options whose values stand for something else: stored pictures, and files in a models folder of an extension's own.

A request holds text alone: the SHA-256 of a picture in the `InputStore`, as `Init.image` does, or a file's name. The
modifier is given a `StoredImage` or a `ModelFile`, which are that text and can be opened.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from modules.checkpoints.folders import files_below
from modules.errors import UserError
from modules.extension.modifier import ModifierSpec, UsedFile
from modules.extension.script import ScriptSpec
from modules.params.generation import ModifierOptions, Value
from modules.params.lists import switch_of
from modules.params.options import SHA256, Option, options_of
from modules.registry import hint_for

if TYPE_CHECKING:
    from PIL.Image import Image

S = TypeVar("S", "ModifierSpec", "ScriptSpec", "ModifierSpec | ScriptSpec")

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx", ".gguf", ".task")
"""Files of models that an option of a kind "file:FOLDER" lists."""
FILE = "file:"
"""The beginning of such a kind, and of the role of such a file in a recipe."""
IMAGE, MASK = "image", "mask"


class StoredImage(str):
    """The SHA-256 of a stored picture; empty: none was chosen."""

    _read: Callable[[str], Image]

    def __new__(cls, sha256: str, read: Callable[[str], Image]) -> StoredImage:
        made = super().__new__(cls, sha256)
        made._read = read
        return made

    def open(self) -> Image:
        """The picture; raises `NotFound` if it is not there any more."""
        return self._read(str(self))


class ModelFile(str):
    """The name of a file in a models folder; empty: none was chosen."""

    path: Path | None

    def __new__(cls, name: str, path: Path | None) -> ModelFile:
        made = super().__new__(cls, name)
        made.path = path
        return made


def model_files(models: Path | None, folder: str) -> dict[str, Path]:
    """The files in a models folder by name, as options list them."""
    if models is None:
        return {}
    root = models / folder
    return {path.relative_to(root).as_posix(): path for path in sorted(files_below(root, SUFFIXES))}


def folder_of(option: Option) -> str:
    """The models folder whose files an option names; empty if it names none."""
    return option.kind.removeprefix(FILE) if option.kind.startswith(FILE) else ""


def file_of(option: Option, value: str, models: Path | None, *, field: str = "") -> Path | None:
    """The file that an option names; None where it names none. Raises `UserError` where there is no such file."""
    folder = folder_of(option)
    if not folder or not value:
        return None
    files = model_files(models, folder)
    if value in files:
        return files[value]
    if value.lower().endswith(SUFFIXES):
        hint = hint_for(value, list(files), none=f"put it into models/{folder}")
    else:
        hint = f"name it with its ending; files listed there end in {', '.join(SUFFIXES)}"
    raise UserError(
        f"{option.label}: there is no file {value[:60]!r} in {folder}", hint=hint, field=field or option.name
    )


def bound(option: Option, value: Value, read: Callable[[str], Image], models: Path | None) -> object:
    """The value of an option as a modifier is given it."""
    if option.kind in (IMAGE, MASK):
        return StoredImage(str(value), read)
    if folder_of(option):
        return ModelFile(str(value), file_of(option, str(value), models))
    return value


def check_there(
    specs: Iterable[ModifierSpec | ScriptSpec],
    chosen: Mapping[str, Mapping[str, Any]],
    picture: Callable[[str, str], object],
    models: Path | None,
) -> None:
    """Raises `UserError` if a picture or file is not there that options name, which are ``chosen`` by the names of
    ``specs``. ``picture(sha256, field)`` raises it for a picture."""
    for spec, option, value in in_use(specs, chosen):
        field = f"extensions.{spec.name}.{option.name}" if isinstance(spec, ModifierSpec) else option.name
        if option.kind in (IMAGE, MASK):
            picture(value, field)
        else:
            file_of(option, value, models, field=field)


def named(specs: Iterable[S], chosen: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[S, Option, str]]:
    """The options of a request that stand for something else and are given, with their values."""
    for spec in specs:
        for name, option in options_of(cast(Hashable, spec.options)).items():
            value = chosen.get(spec.name, {}).get(name)
            if option.kind and isinstance(value, str) and value:
                yield spec, option, value


def in_use(specs: Iterable[S], chosen: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[S, Option, str]]:
    """The same without those of units that are off."""
    for spec, option, value in named(specs, chosen):
        switch = switch_of(option.name)
        declared = options_of(cast(Hashable, spec.options)).get(switch)
        if declared is None or chosen[spec.name].get(switch, declared.default):
            yield spec, option, value


def stored(specs: Iterable[ModifierSpec], chosen: ModifierOptions, put: Callable[[str, str], str]) -> ModifierOptions:
    """``chosen`` with pictures stored: ``put(value, field)`` stores what is not a SHA-256 yet, and returns that."""
    for spec, option, value in named(specs, chosen):
        if option.kind in (IMAGE, MASK) and not SHA256.fullmatch(value):
            sha256 = put(value, f"extensions.{spec.name}.{option.name}")
            chosen = chosen.having(spec.name, {**chosen[spec.name], option.name: sha256})
    return chosen


def used_files(
    specs: Iterable[ModifierSpec], chosen: ModifierOptions, models: Path | None, sha256: Callable[[Path], str]
) -> list[UsedFile]:
    """The pictures and files that a request's options name, for its recipe."""
    found = []
    for _, option, value in in_use(specs, chosen):
        if option.kind in (IMAGE, MASK):
            found.append(UsedFile(option.kind, f"{value[:12]}.png", value))
        elif path := model_files(models, folder_of(option)).get(value):
            found.append(UsedFile(option.kind, value, sha256(path)))
    return found


def renamed(
    specs: Iterable[ModifierSpec],
    chosen: ModifierOptions,
    recorded: Iterable[UsedFile],
    models: Path | None,
    sha256: Callable[[Path], str],
) -> ModifierOptions:
    """In a replay: ``chosen`` with the recorded files under the names that they have now."""
    by_name: Mapping[tuple[str, str], str] = {(file.role, file.name): file.sha256 for file in recorded}
    for spec, option, value in named(specs, chosen):
        wanted = by_name.get((option.kind, value))
        if folder_of(option) and wanted:
            files = model_files(models, folder_of(option))
            now = next((name for name, path in files.items() if sha256(path) == wanted), value)
            chosen = chosen.having(spec.name, {**chosen[spec.name], option.name: now})
    return chosen
