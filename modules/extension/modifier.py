"""Modifiers: how extensions hook into a generation. One is created for each request, from the options chosen in it.

The declaration of its options alone gives a modifier its place in requests: controls, flags, keys in the generation
text, axes of a grid. Here are the names under which they go there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from modules.diffusion.types import Cond, Denoiser, Guidance, Network
from modules.errors import UserError
from modules.extension.contexts import BatchRun, ImageContext, JobEnd, MadeImage, PassRun, SamplingPass, Saving, Step
from modules.params.generation import GenerationParams, ModifierOptions, Value
from modules.params.lists import side_by_side
from modules.params.options import Nested, Option, Shape, options_of, read, values_of

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    from modules.checkpoints.model import LatentDiffusion
    from modules.extension.patcher import Patcher

PREFIX = "ext."
_OF_A_LIST = re.compile(r"(?P<list>\w+?)_(?P<number>\d{1,9})_\w+")
HOOKS = ("revise", "prepare", "patch", "begin", "network", "guidance", "denoiser", "finish")
"""The hooks of every version of the interface."""
HOOKS_2 = (
    "modify",
    "before_pass",
    "on_step",
    "on_guidance",
    "on_network",
    "after_sampling",
    "after_batch",
    "after_image",
    "before_save",
    "on_saved",
    "job_ended",
)
"""Those of ``api = 2``: in an older extension a method of such a name is its own affair."""
STEP_HOOKS = ("modify", "before_pass", "on_step", "on_guidance", "on_network", "after_sampling")
"""Those of `HOOKS_2` that see several images at once while they are sampled."""


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

    guided_always = False
    """`on_guidance` is asked at every call, also at CFG 1 and where the negative prompt is skipped; there ``negative``
    is the very object that ``positive`` is, and ``step.uncond`` is None."""
    needs_negative = False
    """The negative prompt is evaluated at every call, which takes its time, and `on_guidance` is asked at every one."""

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

    # -- from api = 2 on

    def modify(self, model: Patcher) -> None:
        """Say what to change in the model for the duration of a batch. The host does it, and puts everything back."""

    def before_pass(self, run: PassRun, x: Tensor) -> Tensor:
        """The latents (n, c, h, w) from which the sampler starts, noise in them."""
        return x

    def on_step(self, step: Step, x: Tensor, sigma: float, denoise: Callable[[Tensor, float], Tensor]) -> Tensor:
        """x0 (n, c, h, w) that the sampler gets: ``denoise(x, sigma)``."""
        return denoise(x, sigma)

    def on_guidance(self, step: Step, positive: Tensor, negative: Tensor, scale: float, guidance: Guidance) -> Tensor:
        """x0 of the answers under the two prompts, each (n, c, h, w): ``guidance(positive, negative, scale)``."""
        return guidance(positive, negative, scale)

    def on_network(self, step: Step, x: Tensor, sigma: float, cond: Cond, network: Network) -> Tensor:
        """x0 of one evaluation: ``network(x, sigma, cond)``. ``step.rows`` says what each row of x belongs to."""
        return network(x, sigma, cond)

    def after_sampling(self, run: PassRun, latents: Tensor) -> Tensor:
        """The latents (n, c, h, w) at the end of a pass, before a mask puts back what it protects."""
        return latents

    def after_batch(self, batch: BatchRun, images: list[Image]) -> list[Image]:
        """The images of a whole batch, as many as before."""
        return images

    def after_image(self, image: Image, context: ImageContext) -> Image:
        """Process a finished image, with further generations if need be; no patch is on the model."""
        return image

    def before_save(self, image: Image, made: MadeImage) -> Saving | None:
        """The last word on an image: its pixels, its file's name, further keys of its text. None: as it is."""
        return None

    def on_saved(self, path: Path, made: MadeImage) -> None:
        """The image is in a file."""

    def job_ended(self, end: JobEnd) -> None:
        """The request is over, whatever way."""


def overridden(modifier: Modifier, api: int = 2) -> tuple[str, ...]:
    """The names of the hooks that a modifier overrides, in the order of the lists above."""
    names = HOOKS if api < 2 else (*HOOKS, *HOOKS_2)
    return tuple(name for name in names if getattr(type(modifier), name) is not getattr(Modifier, name))


@dataclass(frozen=True)
class ReadKey:
    """How a key of another program is read."""

    option: str
    """The option whose value it gives; empty: it says no more than that the modifier took part."""
    read: Callable[[str], Value] = str
    """The option's value for the text behind the key. Raises `UserError` or `ValueError`."""


@dataclass(frozen=True)
class TextForm:
    """The form of another program in which options stand in a generation text, as ``ControlNet 0: "Module: canny"``.

    What does not come back from there as it was is told under its own key beside it, and wins when the text is read.
    """

    keys: tuple[str, ...]
    """All that there may be."""
    write: Callable[[Mapping[str, Any]], Mapping[str, str]]
    """Texts by key, for the values of all options."""
    read: Callable[[Mapping[str, str], Callable[[str], None]], Mapping[str, Any]]
    """Values of options, for the texts that there are by key, and a function that takes a sentence on what it cannot
    read."""


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
    reads: Mapping[str, ReadKey] = field(default_factory=dict)
    """Keys of other programs in a generation text (`Host.reads_key`): a text with one switches the modifier on."""
    text: TextForm | None = None
    """Another form in a generation text than a key for each option."""
    from_args: Callable[[Sequence[Any]], Mapping[str, Any] | None] | None = None
    """The options for the arguments that clients of A1111's extension of that name send in ``alwayson_scripts``; None:
    it takes no part. Without it they are the switch and the values of the options in their order. Raises `UserError`.
    """

    def chosen(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """All options as JSON, missing ones at their defaults. Raises `UserError`."""
        if foreign := sorted(values.keys() - options_of(cast(Hashable, self.options)).keys()):
            self._check_lists(foreign)
            known = ", ".join(options_of(cast(Hashable, self.options))) or "none"
            raise UserError(
                f"{self.label} has no option {foreign[0][:40]!r}",
                hint=f"it has {known}",
                field=f"extensions.{self.name}.{foreign[0][:40]}",
            )
        try:
            found = values_of(read(self.options, values))
            for option in options_of(cast(Hashable, self.options)).values():
                option.check_among(found)
            return found
        except UserError as error:
            field = f"extensions.{self.name}.{error.field}"
            raise type(error)(f"{self.label}: {error.message}", hint=error.hint, field=field) from None

    def _check_lists(self, foreign: Iterable[str]) -> None:
        """Tell options of groups behind the last one of a list (`modules.params.lists`)."""
        known = options_of(cast(Hashable, self.options))
        asked: dict[str, int] = {}
        for group in filter(None, map(_OF_A_LIST.fullmatch, foreign)):
            asked[group["list"]] = max(int(group["number"]), asked.get(group["list"], 0))
        for name, number in asked.items():
            most = sum(f"{name}_{i}_on" in known for i in range(1, len(known) + 1))
            if 0 < most < number:
                raise UserError(
                    f"{self.label} has room for {most} {name}, not for {number}",
                    hint="leave some out",
                    field=f"extensions.{self.name}.{name}",
                )

    def made(self, values: Mapping[str, Any], bind: Callable[[Option, Any], Any] | None = None) -> Modifier:
        """``bind`` gives the values of options that stand for something else (`modules.extension.option_values`)."""
        options: Any = read(self.options, values)
        if bind:
            kinds = [option for option in options_of(cast(Hashable, self.options)).values() if option.kind]
            # Errors name the option as a request does.
            fields = {one.name: replace(one, name=f"extensions.{self.name}.{one.name}") for one in kinds}
            options = replace(options, **{name: bind(one, getattr(options, name)) for name, one in fields.items()})
        return self.make(options)

    def flat(self) -> ModifierSpec:
        """The same with lists of option groups written side by side (`modules.params.lists`)."""
        options, gathered = side_by_side(self.options)
        if options is self.options:
            return self
        make = self.make
        return replace(self, options=options, make=lambda values: make(gathered(values)))


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


def keys_of(spec: ModifierSpec) -> list[str]:
    """All keys that a modifier may write: its own, those of its options, then those of its `TextForm`."""
    options = options_of(cast(Hashable, spec.options)).values()
    form = spec.text.keys if spec.text else ()
    return [key_of(spec), *(key_of(spec, option) for option in options), *form]


def to_text(specs: Iterable[ModifierSpec], chosen: ModifierOptions) -> dict[str, object]:
    """Keys and values for the generation text: of each that takes part, and of its options that are not the default."""
    found: dict[str, object] = {}
    for spec in in_order(specs):
        if spec.name in chosen:
            options = options_of(cast(Hashable, spec.options))
            values = {name: chosen[spec.name].get(name, option.default) for name, option in options.items()}
            texts = spec.text.write(values) if spec.text else {}
            back = spec.text.read(texts, _unheard) if spec.text else {}
            found |= dict[str, object](texts) or {key_of(spec): True}
            for name, option in options.items():
                if values[name] != back.get(name, option.default):
                    found[key_of(spec, option)] = _told(values[name])
    return found


def from_text(
    specs: Iterable[ModifierSpec], parsed: Mapping[str, Any], notes: list[str]
) -> tuple[dict[str, dict[str, Value]], set[str]]:
    """Read modifiers from infotext: their options, and the keys used; unreadable values are added to ``notes``."""
    found: dict[str, dict[str, Value]] = {}
    keys: set[str] = set()
    readers: list[tuple[Option, str, Callable[[Any], Any]]]
    for spec in specs:
        options = {key_of(spec, option): option for option in options_of(cast(Hashable, spec.options)).values()}
        foreign = {key: how for key, how in spec.reads.items() if key in parsed}
        formed = {key: str(parsed[key]) for key in (spec.text.keys if spec.text else ()) if key in parsed}
        if key_of(spec) in parsed or foreign or formed:
            told: dict[str, Value] = dict(spec.text.read(formed, notes.append)) if spec.text and formed else {}
            by_name = {option.name: option for option in options.values()}
            readers = [(option, key, _read) for key, option in options.items() if key in parsed]
            if key_of(spec) not in parsed:  # a text of our own knows better
                others = [(how, key) for key, how in foreign.items() if how.option]
                readers += [(by_name[how.option], key, _of_text(how.read)) for how, key in others]
            for option, key, reader in readers:
                try:
                    told[option.name] = option.cast(reader(parsed[key]))
                except (UserError, ValueError) as error:
                    reason = error.message if isinstance(error, UserError) else f"{option.label} cannot be read"
                    notes.append(f"{spec.label}: {reason}; the default stands for it")
            found[spec.name] = spec.chosen(told)
            keys |= {key_of(spec), *options, *foreign, *formed}
    return found, keys


def _unheard(sentence: str) -> None:
    """Takes sentences that nobody needs."""


def _of_text(read: Callable[[str], Value]) -> Callable[[Any], Value]:
    return lambda value: read(str(value))


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
