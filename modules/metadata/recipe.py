"""Recipes: the complete record of one image, with which it can be generated again and verified.

Canonical JSON: sorted keys, ASCII, no blanks, every number with all its digits. Equal recipes are equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from PIL import Image

from modules.errors import UserError
from modules.params.generation import GenerationParams
from modules.params.options import options_of

SCHEMA = 1


@dataclass(frozen=True, order=True)
class File:
    """A file that the image depends on, identified by its content."""

    role: str
    """ "checkpoint", "refiner", "hires checkpoint", "vae", "embedding", "image", "mask"."""
    name: str
    sha256: str


@dataclass(frozen=True)
class UsedExtension:
    """An extension that took part in the image, or should have."""

    name: str
    version: str
    options: Mapping[str, Any] | None = None
    """None for an extension that provides, say, the sampler."""
    changed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What its `revise` changed in the request, by parameter name."""
    failed: str = ""
    """Why it did not take part although requested."""


@dataclass(frozen=True)
class InnerGeneration:
    """A generation within an image, which an extension asked for."""

    extension: str
    kind: str
    """ "generate", "inpaint"."""
    request: GenerationParams
    """Images in it are those of that moment, by their SHA-256: they are made again, not looked for."""

    def __str__(self) -> str:
        """
        >>> str(InnerGeneration("detailer", "generate", GenerationParams(seed=7)))
        'detailer generate 512x512, 20 steps, seed 7'
        """
        request, init = self.request, self.request.init
        strength = f", strength {init.denoising_strength:g}" if init else ""
        size = f"{request.width}x{request.height}"
        return f"{self.extension} {self.kind} {size}, {request.steps} steps{strength}, seed {request.seed}"

    def to_json(self) -> dict[str, Any]:
        return {"extension": self.extension, "kind": self.kind, "request": self.request.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InnerGeneration:
        return cls(values["extension"], values["kind"], GenerationParams.from_json(values["request"]))


@dataclass(frozen=True)
class Recipe:
    """The recipe of one image: the request, and from ``files`` on the facts of its generation."""

    request: GenerationParams
    """The request as submitted, with fixed seeds."""
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
    """Precision of the networks: "float32", "bfloat16", "float16"."""
    kernels: str
    """ "exact" or "fast": whether the image may depend on others in its batch."""
    pixels: str
    """`pixel_hash` of the picture."""
    processor: str = ""
    """ "AVX512 with AMX, 8 threads", "NVIDIA H200"; empty in recipes of before it was recorded."""
    skipped: int = 0
    """The step after which the image was finished early (skip); 0: it was not."""
    extensions: tuple[UsedExtension, ...] = ()
    memory: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What was done because memory was short, as `checkpoints.way.Way` tells it; replay does the same."""
    inner: tuple[InnerGeneration, ...] = ()
    """The generations within this one, in their order: replay runs them again."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The SHA-256 of its init images and masks."""
        return tuple(file.sha256 for file in self.files if file.role in ("image", "mask"))

    def to_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("skipped", "memory"):
            if not plain[name]:
                del plain[name]
        files = [dataclasses.asdict(file) for file in sorted(self.files)]
        plain |= {"schema": SCHEMA, "request": self.request.to_json(), "files": files}
        plain |= {"extensions": [dataclasses.asdict(one) for one in self.extensions]}
        plain |= {"inner": [one.to_json() for one in self.inner]}
        # Left out where there are none: such recipes are those of before there were extensions.
        return {key: value for key, value in plain.items() if value or key not in ("extensions", "inner")}

    def __str__(self) -> str:
        return canonical(self.to_json())


def canonical(value: Any) -> str:
    """Encode as canonical JSON, so that equal recipes are equal bytes.

    >>> canonical({"b": 0.1, "a": "é"})
    '{"a":"\\\\u00e9","b":0.1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def read(text: str) -> Recipe:
    """Read the recipe in an image's `recipe` chunk."""
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
        _check_names(values)
        # Before 0.2 there was one eta for all samplers, and the kernels were not chosen.
        older = {"eta_ddim": values["request"].get("eta"), "kernels": values["kernels"]}
        values["request"] = GenerationParams.from_json({**older, **values["request"]})
        seeds = options_of(GenerationParams)["seed"]
        # As text too: what JavaScript rewrites keeps whole numbers only up to 2^53.
        values |= {name: seeds.cast(values[name]) for name in ("seed", "subseed") if isinstance(values[name], str)}
        values["files"] = tuple(File(**file) for file in values["files"])
        values["extensions"] = tuple(UsedExtension(**used) for used in values.get("extensions", ()))
        values["inner"] = tuple(InnerGeneration.from_json(one) for one in values.get("inner", ()))
        recipe = Recipe(**values)
    except (LookupError, TypeError, AttributeError) as error:
        raise _unreadable() from error
    _check(recipe)
    return recipe


def _check_names(values: Mapping[str, Any]) -> None:
    """Reject unknown parameters: dropping them silently would change the image."""
    foreign = sorted(values["request"].keys() - {field.name for field in dataclasses.fields(GenerationParams)})
    if foreign:
        raise UserError(
            f"this recipe asks for {', '.join(foreign)[:60]}, which this version does not know",
            hint="use the version that made the picture, or a newer one",
            field="recipe",
        )


def _check(recipe: Recipe) -> None:
    if not 0 <= recipe.index < recipe.request.images:
        raise _unreadable()
    if not any(file.role == "checkpoint" for file in recipe.files):
        raise _unreadable()
    parts: tuple[Recipe | File | UsedExtension, ...] = (recipe, *recipe.files, *recipe.extensions)
    maps = [(one.options, one.changed) for one in recipe.extensions]
    if not all(isinstance(options, (dict, NoneType)) and isinstance(changed, dict) for options, changed in maps):
        raise _unreadable()
    if not isinstance(recipe.memory, dict) or not all(type(value) in (bool, int) for value in recipe.memory.values()):
        raise _unreadable()
    for part in parts:
        for field in dataclasses.fields(part):
            wanted = {"str": str, "int": int}.get(str(field.type))
            if wanted and type(getattr(part, field.name)) is not wanted:
                raise _unreadable()


def _unreadable() -> UserError:
    return UserError("this is not a recipe that can be read", hint="paste the generation text instead", field="recipe")


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of the pixels row by row, in hex, as in ``Image.open(file).tobytes()``, whatever the file format."""
    return hashlib.sha256(image.tobytes()).hexdigest()
