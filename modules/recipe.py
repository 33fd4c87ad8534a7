"""The record of one picture: all that is needed to make it again, and the proof that it is the same.

Canonical JSON: sorted keys, ASCII, no blanks, every number with all its digits. Equal recipes are equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from modules.errors import UserError
from modules.params import GenerationParams

SCHEMA = 1


@dataclass(frozen=True, order=True)
class File:
    """A file that the picture depends on, known by its content."""

    role: str
    """ "checkpoint", later "vae", "lora", "image", "mask"."""
    name: str
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """One picture: what was asked, and from ``files`` on the facts of the run that made it."""

    request: GenerationParams
    """As submitted, seeds fixed."""
    index: int
    """Number of the picture within the request, from 0."""
    seed: int
    subseed: int
    files: tuple[File, ...]
    program: str
    """ "Reprise 0.1.0"."""
    torch: str
    """ "2.13.0+cpu"."""
    device: str
    """ "cpu", "cuda"."""
    dtype: str
    """Of the networks: "float32", "bfloat16", "float16"."""
    kernels: str
    """ "exact" or "fast": whether a picture may depend on its company in the batch."""
    pixels: str
    """`pixel_hash` of the picture."""

    def to_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        files = [dataclasses.asdict(file) for file in sorted(self.files)]
        return plain | {"schema": SCHEMA, "request": self.request.to_json(), "files": files}

    def __str__(self) -> str:
        return canonical(self.to_json())


def canonical(value: Any) -> str:
    """
    >>> canonical({"b": 0.1, "a": "é"})
    '{"a":"\\\\u00e9","b":0.1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def read(text: str) -> Recipe:
    """The recipe in a picture's `recipe` chunk."""
    try:
        values = json.loads(text)
        schema = values.pop("schema")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable() from error
    if schema != SCHEMA:
        raise UserError(
            f"this recipe has schema {str(schema)[:20]} and this version reads schema {SCHEMA}",
            hint="use the version that made the picture, or a newer one",
            field="recipe",
        )
    try:
        values["request"] = GenerationParams.from_json(values["request"])
        values["files"] = tuple(File(**file) for file in values["files"])
        recipe = Recipe(**values)
    except (LookupError, TypeError, AttributeError) as error:
        raise _unreadable() from error
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    parts: tuple[Recipe | File, ...] = (recipe, *recipe.files)
    for part in parts:
        for field in dataclasses.fields(part):
            wanted = {"str": str, "int": int}.get(str(field.type))
            if wanted and type(getattr(part, field.name)) is not wanted:
                raise _unreadable()


def _unreadable() -> UserError:
    return UserError("this is not a recipe that can be read", hint="paste the generation text instead", field="recipe")


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of the pixels row by row, in hex: what ``Image.open(file).tobytes()`` gives, whatever the file format."""
    return hashlib.sha256(image.tobytes()).hexdigest()


@dataclass(frozen=True)
class Difference:
    """How far two pictures of one size are apart, in levels of 0 to 255."""

    largest: int
    mean: float
    share: float
    """Of the pixels that differ at all."""

    def __str__(self) -> str:
        return f"{self.share:.1%} of the pixels differ, by at most {self.largest} of 255 and {self.mean:.3g} on average"


def difference(old: Image.Image, new: Image.Image) -> Difference | None:
    """None if they have not the same size and mode."""
    if old.size != new.size or old.mode != new.mode:
        return None
    apart = np.abs(np.asarray(old, np.int16) - np.asarray(new, np.int16))
    apart = apart.reshape(old.size[0] * old.size[1], -1)
    return Difference(int(apart.max()), float(apart.mean()), float(apart.any(axis=1).mean()))


@dataclass(frozen=True)
class Verdict:
    """What came of making a picture again."""

    kind: Literal["identical", "differs", "cannot"]
    reasons: tuple[str, ...] = ()
    """Each differing fact, or each thing that is missing."""
    difference: Difference | None = None

    def __str__(self) -> str:
        """
        >>> print(Verdict("differs", ("torch 2.13.0 became 2.14.0",)))
        differs, because torch 2.13.0 became 2.14.0
        """
        if self.kind == "identical":
            return self.kind
        because = "; ".join(self.reasons) or "something that is not recorded changed"
        amount = f" ({self.difference})" if self.difference else ""
        return f"{self.kind}, because {because}{amount}"


def check(recorded: Recipe, available: Container[str]) -> Verdict | None:
    """A verdict before anything is computed: "cannot", where a file of the recipe is not among these SHA-256."""
    missing = [file for file in recorded.files if file.sha256 not in available]
    reasons = tuple(f"{_label(file)} is missing" for file in missing)
    return Verdict("cannot", reasons) if reasons else None


FACTS: Mapping[str, str] = {
    "program": "program",
    "torch": "torch",
    "device": "device",
    "dtype": "number format",
    "kernels": "kernel mode",
}


def compare(recorded: Recipe, again: Recipe, apart: Difference | None = None) -> Verdict:
    """The verdict on a picture made again; ``apart`` is the `difference` of the two pictures where both are at hand."""
    if recorded.pixels == again.pixels:
        return Verdict("identical")
    reasons = [
        f"{words} {_said(before)} became {_said(after)}"
        for name, words in FACTS.items()
        if (before := getattr(recorded, name)) != (after := getattr(again, name))
    ]
    return Verdict("differs", (*_asked(recorded, again), *_file_changes(recorded, again), *reasons), apart)


def _asked(recorded: Recipe, again: Recipe) -> list[str]:
    """Where the two recipes are not of one request."""
    before, after = ({**r.request.to_json(), "seed": r.seed, "subseed": r.subseed} for r in (recorded, again))
    return [
        f"{name} {_said(before.get(name))} became {_said(after.get(name))}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]


def _file_changes(recorded: Recipe, again: Recipe) -> list[str]:
    """A file is its content: another name is no change."""
    then, now = ({(file.role, file.sha256) for file in recipe.files} for recipe in (recorded, again))
    gone = [f"{_label(file)} was used only then" for file in recorded.files if (file.role, file.sha256) not in now]
    new = [f"{_label(file)} was used only now" for file in again.files if (file.role, file.sha256) not in then]
    return gone + new


def _label(file: File) -> str:
    return f"{file.role} {file.name} (sha256 {file.sha256[:12]})"


def _said(value: object) -> str:
    text = str(value) if value != "" else "(empty)"
    return text if len(text) <= 60 else text[:57] + "..."
