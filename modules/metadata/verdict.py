"""Replay verdicts: whether a replayed image is identical and, if not, why.

What differs is told from the two recipes, and from the pictures where both are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from modules.errors import UserError
from modules.metadata.recipe import File, Recipe, pixel_hash, read


@dataclass(frozen=True)
class Difference:
    """The pixel difference of two images of one size, in levels of 0 to 255."""

    largest: int
    mean: float
    share: float
    """Share of pixels that differ."""

    def __str__(self) -> str:
        return f"{self.share:.1%} of the pixels differ, by at most {self.largest} of 255 and {self.mean:.3g} on average"


def difference(old: Image.Image, new: Image.Image) -> Difference | None:
    """Compare the pixels; None if size or mode differ."""
    if old.size != new.size or old.mode != new.mode:
        return None
    apart = np.abs(np.asarray(old, np.int16) - np.asarray(new, np.int16))
    apart = apart.reshape(old.size[0] * old.size[1], -1)
    return Difference(int(apart.max()), float(apart.mean()), float(apart.any(axis=1).mean()))


@dataclass(frozen=True)
class Verdict:
    """The outcome of a replay: identical, differs or cannot, with reasons."""

    kind: Literal["identical", "differs", "cannot"]
    reasons: tuple[str, ...] = ()
    """Each fact that differs, or each thing that is missing."""
    difference: Difference | None = None
    """Between the picture in the file and the one made again."""
    remark: str = ""
    """A further note for the user."""

    def __str__(self) -> str:
        """
        >>> print(Verdict("differs", ("torch 2.13.0 became 2.14.0",)))
        differs, because torch 2.13.0 became 2.14.0
        """
        if self.kind == "identical":
            return f"{self.kind} ({self.remark})" if self.remark else self.kind
        because = "; ".join(self.reasons) or "something that is not recorded changed"
        amount = f" ({self.difference})" if self.difference else ""
        remark = f"; {self.remark}" if self.remark else ""
        return f"{self.kind}, because {because}{amount}{remark}"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"reasons": list(self.reasons), "text": str(self)}


def judge(recipe: str | None, infotext: str | None = None) -> Recipe | Verdict:
    """The recipe in an image's metadata, or a "cannot" verdict if there is none that this version can replay."""
    if not recipe:
        remark = "its generation text can be used for a new picture" if infotext else ""
        return Verdict("cannot", ("the picture carries no recipe",), remark=remark)
    try:
        return read(recipe)
    except UserError as error:
        return Verdict("cannot", (error.message,), remark=error.hint)


def check(recorded: Recipe, available: Container[str], extensions: Container[str] = ()) -> Verdict | None:
    """A verdict before anything is computed: "cannot", where a file of the recipe is not among these SHA-256, or an
    extension that had part not among these names."""
    reasons = [f"{_label(file)} is missing{_way_back(file)}" for file in recorded.files if file.sha256 not in available]
    used = [one for one in recorded.extensions if not one.failed and one.name not in extensions]
    reasons += [f"extension {one.name} {one.version} is missing" for one in used]
    return Verdict("cannot", tuple(reasons)) if reasons else None


EARLIER: Mapping[str, tuple[str, str]] = {
    "56f0e7989e4208dfbe55715a5c2144628d5cc74423a63b784e02e969d1ff2eb1": ("1", "a512795"),
    "6d56a636686471660e2930557ad1c7267608a6ca56144be197ff992711bf4501": ("2", "663fc8b"),
}
"""Versions of the default model, by SHA-256: the number, and the commit in this program's history that has the file."""


def _way_back(file: File) -> str:
    """Where a missing file is to be had, if it is one of ours."""
    if file.sha256 not in EARLIER:
        return ""
    (version, commit), folder = EARLIER[file.sha256], "models/Stable-diffusion"
    return (
        f"; it is version {version} of the default model, and commit {commit} has it: "
        f"git show {commit}:{folder}/reprise-mini.safetensors > {folder}/reprise-mini-{version}.safetensors"
    )


FACTS: Mapping[str, str] = {
    "program": "program",
    "torch": "torch",
    "device": "device",
    "processor": "processor",
    "dtype": "number format",
    "kernels": "kernel mode",
    "memory": "way with little memory",
}


def compare(recorded: Recipe, again: Recipe, old: Image.Image | None = None, new: Image.Image | None = None) -> Verdict:
    """The verdict on a replayed image, from the recipes alone or with both images: then the image in the file
    (``old``, lossless), its recipe and the new image (``new``) must all agree.
    """
    shown = pixel_hash(old) if old is not None else recorded.pixels
    if again.pixels == recorded.pixels == shown:
        return Verdict("identical")
    apart = difference(old, new) if old is not None and new is not None else None
    if again.pixels == recorded.pixels:
        return Verdict("differs", (f"{CHANGED}, and what its recipe records is made again exactly",), apart)
    if again.pixels == shown:
        return Verdict("differs", ("the recipe was changed: the picture is made again exactly, and not its hash",))
    facts = [
        f"{words} {_said(before)} became {_said(after)}"
        for name, words in FACTS.items()
        if (before := getattr(recorded, name)) != (after := getattr(again, name)) and before
    ]
    changed = [CHANGED] if shown != recorded.pixels else []
    others = (*_file_changes(recorded, again), *_extension_changes(recorded, again), *_inner_changes(recorded, again))
    reasons = (*_asked(recorded, again), *others, *facts, *changed)
    return Verdict("differs", reasons, apart)


CHANGED = "the picture in the file is not the one that its recipe records"


def compare_lossy(recorded: Recipe, again: Recipe, old: Image.Image, new: Image.Image, worst: Image.Image) -> Verdict:
    """`compare` for a lossy file: the recipe's hash is of the image before compression.

    ``worst`` is the new picture as the file's format keeps it at its lowest quality. A file that is further from the
    new picture than that holds another picture.
    """
    verdict = compare(recorded, again)
    apart, most = difference(old, new), difference(worst, new)
    if verdict.kind == "identical" and (apart is None or (most is not None and apart.mean > most.mean)):
        return Verdict("differs", (f"{CHANGED}, and what its recipe records is made again exactly",), apart)
    if verdict.kind == "identical":
        return replace(verdict, difference=apart, remark="before compression, which lost a little in the file")
    return replace(verdict, difference=apart, remark="part of that is the file's compression")


def _asked(recorded: Recipe, again: Recipe) -> list[str]:
    """The differences between the two recipes' requests."""
    before, after = ({**r.request.to_json(), "seed": r.seed, "subseed": r.subseed} for r in (recorded, again))
    return [
        f"{name} {_said(before.get(name))} became {_said(after.get(name))}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]


def _file_changes(recorded: Recipe, again: Recipe) -> list[str]:
    """The files that differ by content; a renamed file is no change."""
    then, now = ({(file.role, file.sha256) for file in recipe.files} for recipe in (recorded, again))
    gone = [f"{_label(file)} was used only then" for file in recorded.files if (file.role, file.sha256) not in now]
    new = [f"{_label(file)} was used only now" for file in again.files if (file.role, file.sha256) not in then]
    return gone + new


def _extension_changes(recorded: Recipe, again: Recipe) -> list[str]:
    """The extensions that differ: another version, or in only one of the recipes."""
    then, now = ({one.name: one for one in recipe.extensions if not one.failed} for recipe in (recorded, again))
    reasons = []
    for name in dict.fromkeys((*then, *now)):
        before, after = then.get(name), now.get(name)
        if before and after and before.version != after.version:
            reasons.append(f"extension {name} {before.version} became {after.version}")
        elif before and after and before != after:
            reasons.append(f"extension {name} did something else")
        elif one := (before or after if not (before and after) else None):
            reasons.append(f"extension {name} {one.version} had part only {'then' if before else 'now'}")
    return reasons


def _inner_changes(recorded: Recipe, again: Recipe) -> list[str]:
    """The generations within the image that differ; what they began with follows from what came before."""

    def told(recipe: Recipe) -> list[str]:
        return [str(one) for one in recipe.inner]

    then, now = told(recorded), told(again)
    if len(then) != len(now):
        return [f"there were {len(then)} generations within it and there are {len(now)}"]
    return [f"within it {a} became {b}" for a, b in zip(then, now, strict=True) if a != b]


def _label(file: File) -> str:
    return f"{file.role} {file.name} (sha256 {file.sha256[:12]})"


def _said(value: object) -> str:
    text = str(value) if value != "" else "(empty)"
    return text if len(text) <= 60 else text[:57] + "..."
