"""Modifiers: how extensions hook into a generation. One is created for each request, from the options chosen in it.

The declaration of its options alone gives a modifier its place in requests: controls, flags, keys in the generation
text, axes of a grid. Here are the names under which they go there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from modules.diffusion.types import Denoiser, Guidance, Network
from modules.errors import UserError
from modules.params.generation import GenerationParams, ModifierOptions, Value
from modules.params.options import Nested, Option, Shape, options_of, read, values_of
from modules.prompt.clock import Clock

if TYPE_CHECKING:
    from PIL.Image import Image

    from modules.checkpoints.model import LatentDiffusion

PREFIX = "ext."
HOOKS = ("revise", "prepare", "patch", "begin", "network", "guidance", "denoiser", "finish")


@dataclass(frozen=True)
class SamplingPass:
    """One pass of a batch, decided."""

    number: int
    """0, or 1 for that of hires fix."""
    prompt: str
    """The positive one, network tags and all."""
    clock: Clock


@dataclass(frozen=True)
class UsedFile:
    """A file that a picture depends on, as its recipe records it."""

    role: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Report:
    """What a modifier tells of a batch."""

    notes: tuple[str, ...] = ()
    """Sentences for the job."""
    files: tuple[UsedFile, ...] = ()
    told: Mapping[str, object] = field(default_factory=dict)
    """Keys of the generation text with their values."""


class Modifier:
    """Base class: override one or more of these hooks. An instance lives for one request."""

    def revise(self, params: GenerationParams) -> GenerationParams:
        """Return the request of one image, changed, before anything is planned; ``params.seed`` is that image's own.
        Called once per image, without a model. It must be deterministic, or replay fails.
        """
        return params

    def prepare(self, passes: Sequence[SamplingPass], model: LatentDiffusion, recorded: Sequence[UsedFile]) -> None:
        """Once a batch, before anything is patched: what those of its passes will do in which it takes part, and the
        model of the first. ``recorded``: in a replay, the files of the recipe that are to be used, whatever they are
        called now."""

    def patch(self, model: LatentDiffusion) -> AbstractContextManager[object]:
        """Change ``model`` (``model.unet``, ``model.vae``, ``model.text``) for the duration of a batch, and restore
        it exactly on exit.
        """
        return nullcontext()

    def begin(self, run: SamplingPass) -> None:
        """A pass begins, patches on: its texts are encoded next."""

    def state(self) -> Hashable:
        """What else than the options decides what the patched model makes of a text now."""
        return None

    def report(self) -> Report:
        """What there is to tell of the batch: files and keys once it is prepared, notes again with each image."""
        return Report()

    def network(self, network: Network) -> Network:
        """Wrap the network, ``(x, sigma, cond) -> x0``: one evaluation under one condition. Latents x (n, 4, h, w)."""
        return network

    def guidance(self, guidance: Guidance) -> Guidance:
        """Wrap the guidance, ``(positive, negative, scale) -> x0``, which combines two evaluations (n, 4, h, w)."""
        return guidance

    def denoiser(self, denoiser: Denoiser) -> Denoiser:
        """Wrap the denoiser, ``(x, sigma, step) -> x0``, which the sampler calls with its own step from 0."""
        return denoiser

    def finish(self, image: Image) -> Image:
        """Process a finished image before it is saved."""
        return image


def overridden(modifier: Modifier) -> tuple[str, ...]:
    """The names of the hooks that a modifier overrides."""
    return tuple(name for name in HOOKS if getattr(type(modifier), name) is not getattr(Modifier, name))


@dataclass(frozen=True)
class ModifierSpec:
    """A modifier as registered: name, options and factory."""

    name: str
    """In requests, recipes and flags: small letters, digits and _."""
    label: str
    """What people read on the page and in the generation text."""
    options: type
    """A frozen dataclass of ``option(...)`` fields."""
    make: Callable[[Any], Modifier]
    """Called with an instance of ``options`` for each request that activates it."""
    order: int = 100
    """The lowest is applied first and is innermost, next to the network; equal ones by name."""
    help: str = ""
    """One sentence beside the switch."""
    by_tag: bool = False
    """Tags in prompts alone call it: it has no switch, and recipes do not name it beside the prompt."""

    def chosen(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """All options as JSON, missing ones at their defaults. Raises `UserError`."""
        if foreign := sorted(values.keys() - options_of(cast(Hashable, self.options)).keys()):
            known = ", ".join(options_of(cast(Hashable, self.options))) or "none"
            raise UserError(
                f"{self.label} has no option {foreign[0][:40]!r}",
                hint=f"it has {known}",
                field=f"extensions.{self.name}.{foreign[0][:40]}",
            )
        try:
            return values_of(read(self.options, values))
        except UserError as error:
            field = f"extensions.{self.name}.{error.field}"
            raise type(error)(f"{self.label}: {error.message}", hint=error.hint, field=field) from None

    def made(self, values: Mapping[str, Any]) -> Modifier:
        return self.make(read(self.options, values))


def in_order(specs: Iterable[ModifierSpec]) -> list[ModifierSpec]:
    """Sort modifiers as they are applied: by order, then by name."""
    return sorted(specs, key=lambda spec: (spec.order, spec.name))


def with_modifiers(specs: Iterable[ModifierSpec]) -> Shape[GenerationParams]:
    """A request's options with those of ``specs`` beside them: ``ext.twice.amount``, switched by ``ext.twice``. What
    tags alone call is not among them."""
    groups = [
        Nested(spec.name, spec.label, spec.options, f"{PREFIX}{spec.name}.", help=spec.help, take=spec.chosen)
        for spec in in_order(specs)
        if not spec.by_tag
    ]
    return Shape(GenerationParams, {"extensions": groups})


# --------------------------------------------------------------------------------------------- the generation text

_NO_KEY = re.compile(r"[^\w /-]+")
_PLAIN = re.compile(r"[^\W_][\w .+-]*(?<! )")
_SIZE = re.compile(r"\d+x\d+")


def key_of(spec: ModifierSpec, option: Option | None = None) -> str:
    """The infotext key of an option or, without one, the key that says that the modifier took part.

    >>> key_of(ModifierSpec("twice", "Do twice!", object, Modifier))
    'Do twice'
    """
    words = f"{spec.label} {option.label.lower()}" if option else spec.label
    return " ".join(_NO_KEY.sub(" ", words).split())


def to_text(specs: Iterable[ModifierSpec], chosen: ModifierOptions) -> dict[str, object]:
    """Keys and values for the generation text: of each that takes part, and of its options that are not the default."""
    found: dict[str, object] = {}
    for spec in in_order(specs):
        if spec.name in chosen:
            found[key_of(spec)] = True
            for name, option in options_of(cast(Hashable, spec.options)).items():
                value = chosen[spec.name].get(name, option.default)
                if value != option.default:
                    found[key_of(spec, option)] = _told(value)
    return found


def from_text(
    specs: Iterable[ModifierSpec], parsed: Mapping[str, Any], notes: list[str]
) -> tuple[dict[str, dict[str, Value]], set[str]]:
    """Read modifiers from infotext: their options, and the keys used; unreadable values are added to ``notes``."""
    found: dict[str, dict[str, Value]] = {}
    keys: set[str] = set()
    for spec in specs:
        options = {key_of(spec, option): option for option in options_of(cast(Hashable, spec.options)).values()}
        if key_of(spec) in parsed:
            told = {}
            for key, option in options.items():
                if key in parsed:
                    try:
                        told[option.name] = option.cast(_read(parsed[key]))
                    except UserError as error:
                        notes.append(f"{spec.label}: {error.message}; the default stands for it")
            found[spec.name] = spec.chosen(told)
            keys |= {key_of(spec), *options}
    return found, keys


def _told(value: Value) -> object:
    """A value as written to infotext: plain words and numbers as they are, anything ambiguous as JSON in brackets."""
    if isinstance(value, str) and (not _PLAIN.fullmatch(value) or _SIZE.fullmatch(value)):
        return json.dumps([value], ensure_ascii=False)
    return "[]" if value is None else value


def _read(text: Any) -> Any:
    if not (isinstance(text, str) and text.startswith("[")):
        return text
    try:
        return next(iter(json.loads(text)), None)
    except (ValueError, TypeError):
        return text
