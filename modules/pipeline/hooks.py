"""Runs the modifiers of a request: wraps the callables, applies and undoes patches, and isolates extensions' faults.

What goes wrong in an extension is told from what goes wrong in the engine that it calls: only the former is a
`HookFailed`, upon which the request is done without that extension.
"""

from __future__ import annotations

import contextlib
import math
import re
import signal
import threading
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from modules.diffusion.types import Cond, Denoiser, Guidance, Network
from modules.errors import RepriseError, UserError, out_of_memory, without_folders
from modules.extension.contexts import (
    AttentionFunction,
    BatchRun,
    ImageContext,
    JobEnd,
    MadeImage,
    PassRun,
    SamplingPass,
    Saving,
    Step,
)
from modules.extension.host import Host, TagSpec
from modules.extension.modifier import STEP_HOOKS, Modifier, ModifierSpec, Report, UsedFile, keys_of, overridden
from modules.imaging.files import check_given
from modules.params.generation import GenerationParams, ModifierOptions, Value
from modules.params.options import Option
from modules.pipeline.plan import Batch, Changes, Revise, check
from modules.pipeline.prompts import PromptParser
from modules.pipeline.steps import GuidedDenoiser, StepScope
from modules.prompt.tree import NetworkTag

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    from modules.checkpoints.fingerprint import Functions, PatchChecks
    from modules.checkpoints.model import LatentDiffusion
    from modules.devices import Device
    from modules.extension.patcher import Guard, Patcher

T = TypeVar("T", bound=Callable[..., Any])


KEY = re.compile(r"\w[\w /-]*[\w/-]")
"""A key of the generation text that is read as it is written: two or more word characters, blanks, / and -."""
MOST_TOLD = 16_000
"""Characters that a modifier may tell; a generation text is read up to 65,536."""
LeftModified = Callable[["LatentDiffusion | None", str, str], None]
"""``(model, name, what)`` hears of an extension that did not put something back. A model must be loaded anew; None:
what it changed is put back already."""


class HookFailed(Exception):
    """An extension failed in one of its hooks."""

    def __init__(self, name: str, hook: str, error: BaseException):
        first_line = without_folders(out_of_memory(error) or error)[:300]
        self.reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
        super().__init__(f"extension {name} failed in {hook} ({self.reason})")
        self.name = name
        self.hook = hook
        self.error = error


class Watch(Protocol):
    """Observer of hooks: knows which extension is running (see `modules.jobs.watchdog`)."""

    def enter(self, name: str, hook: str) -> None:
        """An extension's hook begins; with an empty name, the engine's own code called from within a hook."""
        ...

    def leave(self) -> None:
        """Whatever was entered last has ended."""
        ...

    def failed(self, failure: HookFailed) -> None:
        """An extension failed and is left out of the request from here on."""
        ...

    def crashed(self) -> Mapping[str, str]:
        """What must not be tried again for what is done now, with the reason."""
        ...

    def made(self) -> str:
        """An image is finished. A sentence, where an extension is found to keep more memory with each; else empty."""
        ...


class NoWatch:
    """A `Watch` that does nothing."""

    def enter(self, name: str, hook: str) -> None: ...

    def leave(self) -> None: ...

    def failed(self, failure: HookFailed) -> None: ...

    def crashed(self) -> Mapping[str, str]:
        return {}

    def made(self) -> str:
        return ""


@dataclass(frozen=True)
class Active:
    """A modifier that takes part, with its options."""

    spec: ModifierSpec
    version: str
    options: Mapping[str, Value]
    modifier: Modifier
    api: int = 2

    def has(self, hook: str) -> bool:
        return hook in overridden(self.modifier, self.api)

    @property
    def computes(self) -> bool:
        """Whether it is an extension's, and may change numbers on their way to the picture."""
        return bool(self.version) and any(map(self.has, (*STEP_HOOKS, "patch", "network", "guidance", "denoiser")))


def told_twice(told: Sequence[tuple[str, Mapping[str, object]]]) -> list[str]:
    """Sentences on keys of the generation text that several modifiers tell differently: the last one's holds.

    >>> told_twice([("mood", {"Mood": "calm"}), ("film", {"Mood": "grim", "Film": 400}), ("none", {"Film": None})])
    ['mood and film both tell Mood in the generation text: film has the last word']
    """
    whose: dict[str, dict[str, object]] = {}
    for name, facts in told:
        for key, value in facts.items():
            if value is not None:
                whose.setdefault(key, {})[name] = value
    return [
        f"{' and '.join(values)} both tell {key} in the generation text: {list(values)[-1]} has the last word"
        for key, values in whose.items()
        if len({str(value) for value in values.values()}) > 1
    ]


def called_by(networks: Sequence[NetworkTag], host: Host) -> list[tuple[ModifierSpec, TagSpec, list[NetworkTag]]]:
    """The modifiers that prompt tags activate, in the order in which kinds of tags are registered: modifier, kind,
    and all tags of it.
    """
    kinds = [(kind, [tag for tag in networks if tag.kind == kind.name]) for kind in host.tags] if networks else []
    return [
        (host.modifiers.get(kind.modifier), kind, tags)
        for kind, tags in kinds
        if tags and kind.modifier in host.modifiers
    ]


class Border:
    """The boundary between an extension and the engine: attributes errors to one of them, and tells the `Watch`
    which is running.
    """

    def __init__(self, watch: Watch, keys: Callable[[str], Container[str]] = lambda name: (), closely: bool = False):
        """``keys``: those of the generation text that are not for the modifier of a name to tell, in small letters.
        ``closely``: every answer is looked at, for which a card has to be waited for."""
        self._watch = watch
        self._keys = keys
        self.closely = closely
        self._excused = False
        """Whether the hook at work was given values that are no numbers, or the engine's own code answered with them.
        """
        self._foreign: BaseException | None = None
        """The error that the engine raised while called by an extension."""

    @contextlib.contextmanager
    def within(self, name: str, hook: str) -> Iterator[None]:
        """Run an extension's code: its errors become `HookFailed`."""
        self._watch.enter(name, hook)
        try:
            yield
        except (RepriseError, HookFailed):
            raise  # said on purpose, or by another
        except BaseException as error:
            # The engine may raise below an extension, which lets it through: the very same error is still the engine's.
            # One that the extension made of it, or raised later, is its own.
            if error is self._foreign or _is_ctrl_c(error):
                raise
            raise HookFailed(name, hook, error) from error
        finally:
            self._watch.leave()

    def report(self, one: Active) -> Report:
        """What a modifier tells of a batch."""
        with self.within(one.spec.name, "report"):
            report = one.modifier.report()
            if not isinstance(report, Report):
                raise TypeError(f"it must give a Report, not {type(report).__name__}")
            if isinstance(report.notes, str) or not all(isinstance(note, str) for note in report.notes):
                raise TypeError("notes must be sentences, in a tuple")
            if not all(isinstance(used, UsedFile) for used in report.files):
                raise TypeError("files must be UsedFiles, in a tuple")
            if one.version:
                self._check_told(one.spec.name, report.told)
        return report

    def saving(self, one: Active, saving: Saving, made: MadeImage) -> Saving:
        """What a modifier makes of what others made of an image."""
        name = one.spec.name
        with self.within(name, "before_save"):
            answer = one.modifier.before_save(saving.image, made)
            if answer is None:
                return saving
            if not isinstance(answer, Saving):
                raise TypeError(f"it must give a Saving or None, not {type(answer).__name__}")
            if not isinstance(answer.name, str):
                raise TypeError(f"the file's name must end with a text, not {type(answer.name).__name__}")
            self._check_told(name, answer.facts)
            return Saving(check_given(answer.image), answer.name or saving.name, {**saving.facts, **answer.facts})

    def _check_told(self, name: str, told: object) -> None:
        """Whether the generation text can say what the modifier ``name`` tells, and is still read as it was."""
        if not isinstance(told, Mapping):
            raise TypeError(f"what it tells must be values by their keys, not {type(told).__name__}")
        taken = self._keys(name) if told else ()
        for key, value in told.items():
            if not isinstance(key, str) or not KEY.fullmatch(key):
                raise ValueError(f"the generation text has no place for the key {str(key)[:40]!r}")
            if key.casefold() in taken:
                raise ValueError(f"the key {key!r} of the generation text is not its own")
            if not isinstance(value, (str, Real, type(None))):
                raise TypeError(f"{key} must be a text or a number, not {type(value).__name__}")
        if sum(len(str(value)) for value in told.values()) > MOST_TOLD:
            raise ValueError(f"it tells more than {MOST_TOLD:,} characters")

    def sound(self, answer: Callable[[], Tensor], given: Sequence[object]) -> Tensor:
        """What an extension answers to what it was ``given``. Where all is looked at closely: raises `ValueError` if it
        made values that are no numbers."""
        if not self.closely:
            return answer()
        before, self._excused = self._excused, not _are_numbers(*given)
        try:
            answered = answer()
            if not self._excused and not _are_numbers(answered):
                raise ValueError("it answered with values that are no numbers")
        finally:
            self._excused = before
        return answered

    def guard(self, name: str, device: Device) -> Guard:
        """The one of functions in a model, of the extension of that name."""
        # Where a wider format is left to try, the numbers may have left the range of this one.
        closely = self.closely and not device.wider()
        return _Guard(self, name, closely)

    def outside(self, inner: T) -> T:
        """Wrap an engine function that extensions call, so that its errors are not blamed on them."""

        def call(*arguments: Any, **options: Any) -> Any:
            self._watch.enter("", "")
            try:
                answer = inner(*arguments, **options)
            except BaseException as error:
                self._foreign = error
                raise
            finally:
                self._watch.leave()
            if self.closely and not _are_numbers(answer) and _are_numbers(*arguments):
                self._excused = True
            return answer

        return call  # type: ignore[return-value]


class RequestHooks:
    """The modifiers of one request: those chosen in it, and those activated by the tags of each pass's prompt.

    A modifier is created once and shared by all passes that give it equal options.
    """

    def __init__(
        self,
        host: Host,
        chosen: ModifierOptions,
        watch: Watch | None = None,
        *,
        absent: Container[str] = (),
        parser: PromptParser | None = None,
        checks: PatchChecks | None = None,
        bind: Callable[[Option, Any], Any] | None = None,
        closely: bool = False,
    ):
        """``absent``: unavailable modifiers; tags that call them have no effect. ``bind``: as `ModifierSpec.made` has
        it. ``closely``: as `Border` has it."""
        self._bind = bind
        self._checks = checks
        self._host = host
        self._chosen = chosen
        self._absent = absent
        self._parser = parser or PromptParser()
        self.border = self._border = Border(watch or NoWatch(), self._others_keys, closely)
        self._made: dict[tuple[str, ModifierOptions], Active] = {}
        self._hooks: dict[ModifierOptions, Hooks] = {}

    def of(self, networks: Sequence[NetworkTag] = ()) -> Hooks:
        """The hooks for a prompt with the tags ``networks``. Equal selections are one object."""
        chosen = self._chosen
        # A tag's options come from the extension, so it is to blame if they cannot be made.
        for modifier, kind, tags in called_by(networks, self._host):
            if modifier.name not in self._absent:
                with self._border.within(modifier.name, "options"):
                    chosen = chosen.having(modifier.name, modifier.chosen(kind.options(tags)))
        # Passes with equal modifiers share one object, so that their model stays patched in between.
        if chosen not in self._hooks:
            specs = [spec for spec in self._host.modifiers_in_order() if spec.name in chosen]
            active = [self._active(spec, chosen[spec.name]) for spec in specs]
            self._hooks[chosen] = Hooks(active, self._border, self._checks, partial(check, host=self._host))
        return self._hooks[chosen]

    def passes(self, batch: Batch) -> list[Hooks]:
        """The hooks of each pass of a batch."""
        return [self.of(each.prompts.networks) for each in batch.passes]

    def apart(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """The batches as they are computed: in exact ones, images go by themselves where a modifier sees several at
        once, since nobody knows how it computes."""
        for batch in batches:
            exact = (
                batch.params.kernels == "exact"
                and len(batch.seeds) > 1
                and not (batch.params.init and batch.params.init.tiled)
            )
            if exact and any(hooks.sees_batches for hooks in self.passes(batch)):
                for i, (seed, subseed) in enumerate(zip(batch.seeds, batch.subseeds, strict=True)):
                    yield replace(batch, first_image=batch.first_image + i, seeds=(seed,), subseeds=(subseed,))
            else:
                yield batch

    def prepare(self, batch: Batch, model: LatentDiffusion, recorded: Sequence[UsedFile]) -> list[Report]:
        """Tell modifiers of the passes of a batch in which they take part, and hear what there is to tell of it."""
        told: dict[str, tuple[Active, list[SamplingPass]]] = {}
        for each, hooks in zip(batch.passes, self.passes(batch), strict=True):
            for one in hooks.active:
                told.setdefault(f"{id(one)}", (one, []))[1].append(each.sampling_pass)
        for one, runs in told.values():
            with self._border.within(one.spec.name, "prepare"):
                one.modifier.prepare(runs, model, recorded)
        return [self._border.report(one) for one, _ in told.values()]

    @property
    def suspects(self) -> list[str]:
        """The extensions that take part in what is computed."""
        return [one.spec.name for one in self._made.values() if one.computes]

    def _others_keys(self, name: str) -> frozenset[str]:
        """The keys of the generation text that are not for the modifier ``name`` to tell."""
        others = (key for spec in self._host.modifiers if spec.name != name for key in (*keys_of(spec), *spec.reads))
        return frozenset(key.casefold() for key in (*self._host.reserved, *others))

    def reviser(self, prompt: str) -> Revise | None:
        """The function that revises requests with this prompt, or None if no modifier does."""
        revises = self.of().has("revise") or self.of(self._parser.networks(prompt)).has("revise")
        return self._revise if revises else None

    def _revise(self, params: GenerationParams) -> tuple[GenerationParams, Changes]:
        """Revise a request. Tags are read from the revised prompt; if they activate further modifiers that revise,
        the original request is revised again with all of them, in order.
        """
        first = self.of()
        revised, changed = first.revise(params)
        called = self.of(self._parser.networks(revised.prompt))
        if called.revising() == first.revising():
            return revised, changed
        return called.revise(params)

    def _active(self, spec: ModifierSpec, options: Mapping[str, Value]) -> Active:
        key = spec.name, ModifierOptions({spec.name: options})
        if key not in self._made:
            with self._border.within(spec.name, "make"):
                modifier = spec.made(options, self._bind)
                if not isinstance(modifier, Modifier):
                    raise TypeError(f"make must give a Modifier, not {type(modifier).__name__}")
            owner = self._host.owners.get(("modifier", spec.name))
            version, api = (owner.version, owner.api) if owner else ("", 2)
            self._made[key] = Active(spec, version, options, modifier, api)
        return self._made[key]

    def ended(self, end: JobEnd, failed: Callable[[HookFailed], None]) -> None:
        """Tell modifiers that the request is over; ``failed`` hears of each that fails in that."""
        for one in self._made.values():
            if one.has("job_ended"):
                try:
                    with self._border.within(one.spec.name, "job_ended"):
                        one.modifier.job_ended(end)
                except HookFailed as failure:
                    failed(failure)


class Hooks:
    """The modifiers of one sampling pass. The lowest order is wrapped first, so it is innermost."""

    def __init__(
        self,
        active: Sequence[Active],
        border: Border,
        checks: PatchChecks | None = None,
        check: Callable[[GenerationParams], object] = lambda params: None,
    ):
        """``checks``: how patched models are compared; None: the fast way. ``check`` raises `UserError` for a request
        that cannot be."""
        self._checks = checks
        self._check = check
        self.active = tuple(active)
        self._border = border
        self._patches: Patches | None = None
        self._scope: StepScope | None = None

    def revising(self) -> list[Active]:
        return self._having("revise")

    def scope(self) -> tuple[object, ...]:
        """What else than the model decides what the patched model answers."""
        return tuple((a.spec.name, a.version, repr(a.options), self._state(a)) for a in self._having("patch", "modify"))

    def _state(self, one: Active) -> Hashable:
        with self._border.within(one.spec.name, "state"):
            state = one.modifier.state()
            hash(state)
        return state

    @property
    def sees_batches(self) -> bool:
        """Whether a modifier may compute with several images at once, so that one could depend on the others."""
        return bool(self._having(*STEP_HOOKS))

    @property
    def suspects(self) -> bool:
        """Whether values that are no numbers may be an extension's, and nobody has looked closely yet."""
        return not self._border.closely and any(one.computes for one in self.active)

    def begin(self, run: SamplingPass) -> None:
        with self._lifted():
            for one in self._having("begin"):
                with self._border.within(one.spec.name, "begin"):
                    one.modifier.begin(run)

    @contextlib.contextmanager
    def _lifted(self) -> Iterator[None]:
        """Weights that the host put on are off, for those who change weights on their own."""
        if self._patches:
            self._patches.lift()
        yield
        if self._patches:
            self._patches.settle()

    def notes(self) -> list[str]:
        """What modifiers have to tell of the batch so far."""
        reports = [(one.spec.name, self._border.report(one)) for one in self.active]
        twice = told_twice([(name, report.told) for name, report in reports])
        return [*(note for _, report in reports for note in report.notes), *twice]

    def revise(self, params: GenerationParams) -> tuple[GenerationParams, dict[str, dict[str, Any]]]:
        """The request of one image as revised by all modifiers, and by name what each changed."""
        changed: dict[str, dict[str, Any]] = {}
        for one in self._having("revise"):
            with self._border.within(one.spec.name, "revise"):
                revised = one.modifier.revise(params)
                if not isinstance(revised, GenerationParams):
                    raise TypeError(f"it must give GenerationParams, not {type(revised).__name__}")
                if reason := self._refused(revised, params):
                    raise ValueError(f"it asks for what cannot be: {reason}")
            before, after = params.to_json(), revised.to_json()
            names = dict.fromkeys((*before, *after))
            if told := {name: after.get(name) for name in names if before.get(name) != after.get(name)}:
                changed[one.spec.name] = told
            params = revised.changed(extensions=params.extensions)
        return params, changed

    def _refused(self, revised: GenerationParams, params: GenerationParams) -> str:
        """Why a request cannot be that was ``params`` before; empty: it can."""
        if revised is params:
            return ""
        fixed = {name: getattr(params, name) for name in ("seed", "subseed", "batch_size", "batch_count", "extensions")}
        try:
            self._check(revised.changed(**fixed))
        except UserError as error:
            return error.message
        except Exception as error:  # noqa: BLE001  whatever it is, it is of what the extension gave
            return f"a field is of another type ({type(error).__name__}: {error})"
        return ""

    # -- of a pass

    def follow(self, batch: Batch, timestep: Callable[[float], float]) -> StepScope | None:
        """Follow the steps of a pass, for modifiers that are told of them; None if none is. ``timestep`` is that of a
        noise level."""
        self._scope = None
        if self._having(*STEP_HOOKS):
            guided = [one.modifier for one in self._having("on_guidance")]
            needs_negative = any(modifier.needs_negative for modifier in guided)
            always = needs_negative or any(modifier.guided_always for modifier in guided)
            self._scope = StepScope(batch, self._attending, timestep, always, needs_negative)
        return self._scope

    def network(self, network: Network) -> Network:
        return self._wrapped("network", network)

    def guidance(self, guidance: Guidance) -> Guidance:
        if self._scope and self._scope.guided_always:
            guidance = _where_there_are_two(guidance)
        return self._wrapped("guidance", guidance)

    def denoiser(self, denoiser: Denoiser, guided: GuidedDenoiser | None = None) -> Denoiser:
        """``guided``: the one within ``denoiser`` that evaluates the network."""
        patches = self._patches
        if patches and patches.changes_weights:
            denoiser = patches.settled(denoiser)
        denoiser = self._wrapped("denoiser", denoiser, hook_2="on_step")
        if patches and patches.changes_weights:
            denoiser = patches.lifted(denoiser)
        if self._scope:
            self._scope.guided = guided
            denoiser = self._scope.opened(denoiser)
        return denoiser

    def before_pass(self, run: PassRun, x: Tensor) -> Tensor:
        return self._changed("before_pass", run, x)

    def after_sampling(self, run: PassRun, latents: Tensor) -> Tensor:
        return self._changed("after_sampling", run, latents)

    def _changed(self, hook: str, run: PassRun, x: Tensor) -> Tensor:
        for one in self._having(hook):
            with self._border.within(one.spec.name, hook):
                x = self._border.sound(partial(_answer_of, getattr(one.modifier, hook), run, x), (x,))
        return x

    # -- of images

    def after_batch(self, batch: BatchRun, images: list[Image]) -> list[Image]:
        for one in self._having("after_batch"):
            with self._border.within(one.spec.name, "after_batch"):
                answer = list(one.modifier.after_batch(batch, list(images)))
                if len(answer) != len(images):
                    raise TypeError(f"it must give {len(images)} pictures, not {len(answer)}")
                images = [check_given(image) for image in answer]
        return images

    def finish(self, image: Image) -> Image:
        for one in self._having("finish"):
            with self._border.within(one.spec.name, "finish"):
                image = check_given(one.modifier.finish(image))
        return image

    def after_image(self, image: Image, context: Callable[[str], ImageContext]) -> Image:
        """``context``: what the modifier of a name may ask for."""
        for one in self._having("after_image"):
            with self._border.within(one.spec.name, "after_image"):
                image = check_given(one.modifier.after_image(image, context(one.spec.name)))
        return image

    def before_save(self, image: Image, made: MadeImage) -> Saving:
        """What all modifiers make of it: the last name, and the keys of all."""
        saving = Saving(image)
        for one in self._having("before_save"):
            saving = self._border.saving(one, saving, made)
        return saving

    def on_saved(self, path: Path, made: MadeImage) -> None:
        for one in self._having("on_saved"):
            with self._border.within(one.spec.name, "on_saved"):
                one.modifier.on_saved(path, made)

    @contextlib.contextmanager
    def patching(self, left_modified: LeftModified) -> Iterator[None]:
        """While a pass is made: models that `patched` is told of are what they were before when it ends."""
        active = self._having("patch", "modify")
        patches = self._patches = Patches(active, self._border, left_modified, self._step, self._compared())
        try:
            yield
        except BaseException:
            with contextlib.suppress(HookFailed):  # what came first is what is told
                patches.undo()
            raise
        finally:
            self._patches = None
        patches.undo()

    def _compared(self) -> Callable[[LatentDiffusion], object]:
        """What models are compared by: what the program itself does to them needs no exact comparison."""
        from modules.checkpoints.fingerprint import fingerprint

        foreign = self._checks and any(one.version for one in self._having("patch", "modify"))
        return self._checks.next() if self._checks and foreign else fingerprint

    def unpatch(self) -> None:
        """Undo all patches now instead of at the end of `patching`."""
        assert self._patches is not None, "no batch is being made"
        self._patches.undo()

    def patched(self, model: LatentDiffusion) -> LatentDiffusion:
        """Apply all patches to ``model``, until the batch ends."""
        assert self._patches is not None, "no batch is being made"
        return self._patches.on(model)

    def has(self, *hooks: str) -> bool:
        return bool(self._having(*hooks))

    def _having(self, *hooks: str) -> list[Active]:
        return [one for one in self.active if any(one.has(hook) for hook in hooks)]

    def _step(self, name: str) -> Step:
        """The step at hand; what an extension asks of it is the engine's own work."""
        assert self._scope is not None, "no step is at hand"
        step = self._scope.step(name)
        return replace(step, network=self._border.outside(step.network))

    def _attending(self, name: str, functions: Mapping[str, AttentionFunction]) -> AbstractContextManager[None]:
        if not functions:
            return contextlib.nullcontext()
        assert self._patches is not None, "no batch is being made"
        return self._patches.attending(name, functions)

    def _wrapped(self, hook: str, inner: T, hook_2: str = "") -> T:
        """``inner`` in the hooks of all modifiers. One may have both, that of each version of the interface."""
        hook_2 = hook_2 or f"on_{hook}"
        for one in self._having(hook, hook_2):
            inner = self._wrap(one, hook, inner) if one.has(hook) else inner
            inner = self._wrap_step(one, hook_2, inner) if one.has(hook_2) else inner
        return inner

    def _wrap(self, one: Active, hook: str, inner: T) -> T:
        name, inside = one.spec.name, self._border.outside(inner)
        with self._border.within(name, hook):
            outer = getattr(one.modifier, hook)(inside)
            if outer is inside:
                return inner  # nothing to do this time
            if not callable(outer):
                raise TypeError(f"it must give a function, not {type(outer).__name__}")

        def call(first: Any, *rest: Any) -> Any:
            with self._border.within(name, hook):
                return self._border.sound(lambda: _of_shape(outer(first, *rest), first), (first, *rest))

        return call  # type: ignore[return-value]

    def _wrap_step(self, one: Active, hook: str, inner: T) -> T:
        name, inside, function = one.spec.name, self._border.outside(inner), getattr(one.modifier, hook)

        def call(first: Any, *rest: Any) -> Any:
            within: Callable[..., Any] = inside
            arguments = rest
            if hook == "on_step":  # its author has no use for the sampler's number, which stands in the step
                *arguments, number = rest  # type: ignore[assignment]
                within = lambda x, sigma: inside(x, sigma, number)  # noqa: E731
            with self._border.within(name, hook):
                step = self._step(name)
                answer = lambda: _of_shape(function(step, first, *arguments, within), first)  # noqa: E731
                return self._border.sound(answer, (first, *rest))

        return call  # type: ignore[return-value]


@dataclass(frozen=True)
class _Guard:
    """`modules.extension.patcher.Guard`."""

    border: Border
    name: str
    closely: bool

    def within(self, hook: str) -> AbstractContextManager[None]:
        return self.border.within(self.name, hook)

    def judge(self, answers: Sequence[Tensor], given: Sequence[Tensor]) -> None:
        if self.closely and not _are_numbers(*answers) and _are_numbers(*given):
            raise ValueError("it answered with values that are no numbers")


def _are_numbers(*values: object) -> bool:
    """Whether numbers and tensors, and those of conditions, are and hold no NaN and no infinity."""
    from torch import Tensor

    from modules.devices import is_finite

    parts = [each for value in values for each in (vars(value).values() if isinstance(value, Cond) else (value,))]
    if not all(math.isfinite(part) for part in parts if isinstance(part, float)):
        return False
    return all(is_finite(part) for part in parts if isinstance(part, Tensor))


def _weights(model: LatentDiffusion) -> list[Tensor]:
    weights = (weight for network in model.parts().values() for weight in network.parameters())
    return [weight for weight in weights if not weight.is_meta]  # others wait in main memory


def _answer_of(hook: Callable[[PassRun, Tensor], Tensor], run: PassRun, x: Tensor) -> Tensor:
    return cast("Tensor", _of_shape(hook(run, x), x))


def _of_shape(answer: Any, first: Any) -> Any:
    if getattr(answer, "shape", None) != first.shape:
        raise TypeError(f"it must answer a tensor of shape {tuple(first.shape)}")
    return answer


def _where_there_are_two(guidance: Guidance) -> Guidance:
    """``guidance``, and the positive answer to the last bit where it stands for the negative one too."""
    return lambda positive, negative, scale: positive if negative is positive else guidance(positive, negative, scale)


def _is_ctrl_c(error: BaseException) -> bool:
    """Whether a person may have pressed Ctrl+C. The worker ignores that signal, so there an extension raised it."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


class Patches:
    """The models that are patched now, and how to undo each patch."""

    def __init__(
        self,
        active: Sequence[Active],
        border: Border,
        left_modified: LeftModified,
        step: Callable[[str], Step],
        fingerprint: Callable[[LatentDiffusion], object],
    ):
        """``fingerprint`` tells whether a model is what it was."""
        self._active = active
        self._fingerprint = fingerprint
        self._border = border
        self._within = border.within
        self._left_modified = left_modified
        self._step = step
        self._models: dict[int, LatentDiffusion] = {}
        self._blamed: set[int] = set()
        self._undo: list[_Undo] = []

    def on(self, model: LatentDiffusion) -> LatentDiffusion:
        """Patch ``model``; a second call changes nothing."""
        if id(model.unet) not in self._models:
            self._models[id(model.unet)] = model
            for one in self._active:
                from modules.checkpoints.fingerprint import Functions

                # Per modifier, so that the right one is blamed.
                undo = _Undo(one, model, self._fingerprint(model), Functions())
                self._undo.append(undo)
                try:
                    if one.has("patch"):
                        with self._within(one.spec.name, "patch"):
                            context = one.modifier.patch(model)
                            sound = not self._border.closely or _are_numbers(*_weights(model))
                            context.__enter__()
                            undo.context = context
                            if self._border.closely and sound and not _are_numbers(*_weights(model)):
                                raise ValueError("it left weights that are no numbers")
                    if one.has("modify"):
                        self._modify(undo)
                except BaseException:
                    self._undo.pop()
                    self._undone(undo)
                    raise
        return model

    def _patcher(self, name: str, model: LatentDiffusion) -> Patcher:
        from modules.extension.patcher import Patcher

        return Patcher(model, partial(self._step, name), self._border.guard(name, model.device))

    def _modify(self, undo: _Undo) -> None:
        name = undo.one.spec.name
        patcher = undo.patcher = self._patcher(name, undo.model)
        with self._within(name, "modify"):
            undo.one.modifier.modify(patcher)
            patcher.put_on()

    def undo(self) -> None:
        """Undo all patches in reverse order, and check that the weights are restored."""
        failure: BaseException | None = None
        while self._undo:
            failure = self._undone(self._undo.pop()) or failure
        self._models.clear()
        if failure:
            raise failure

    def _undone(self, undo: _Undo) -> BaseException | None:
        """Undo one, and judge it; the error that came of it."""
        failure: BaseException | None = None
        if undo.patcher:
            undo.patcher.take_off()
        if undo.context:
            try:
                with self._within(undo.one.spec.name, "patch"):
                    # As if all had gone well: many a context manager would not tidy up behind an error.
                    undo.context.__exit__(None, None, None)
            except (RepriseError, HookFailed) as error:
                failure = error
        name, functions = undo.one.spec.name, undo.functions.restore()
        if functions:
            self._left_modified(None, name, f"the functions {', '.join(functions[:3])}")
        if id(undo.model.unet) not in self._blamed and self._fingerprint(undo.model) != undo.before:
            self._blamed.add(id(undo.model.unet))
            self._left_modified(undo.model, name, "the model's weights or attributes")
        return failure

    # -- weights that the host put on, among others who change weights

    @property
    def _patchers(self) -> list[Patcher]:
        return [undo.patcher for undo in self._undo if undo.patcher]

    @property
    def changes_weights(self) -> bool:
        return any(patcher.changes_weights for patcher in self._patchers)

    def lift(self) -> None:
        for patcher in reversed(self._patchers):
            patcher.lift()

    def settle(self) -> None:
        for patcher in self._patchers:
            patcher.settle()

    def settled(self, denoiser: Denoiser) -> Denoiser:
        """``denoiser`` with all weights on."""

        def call(x: Tensor, sigma: float, step: int) -> Tensor:
            self.settle()
            return denoiser(x, sigma, step)

        return call

    def lifted(self, denoiser: Denoiser) -> Denoiser:
        """``denoiser``, before which all weights come off: modifiers within it may change others'."""

        def call(x: Tensor, sigma: float, step: int) -> Tensor:
            self.lift()
            return denoiser(x, sigma, step)

        return call

    @contextlib.contextmanager
    def attending(self, name: str, functions: Mapping[str, AttentionFunction]) -> Iterator[None]:
        """While this lasts, functions of that extension stand around the attentions of the models that are patched."""
        models = self._models.values()
        with contextlib.ExitStack() as stack:
            with self._within(name, "attention"):  # whose fault it is if there are no such layers
                patchers = [self._patcher(name, model) for model in models]
                for where, function in functions.items():
                    fitting = [patcher for patcher in patchers if patcher.has_attention(where)] or patchers[-1:]
                    for patcher in fitting:
                        stack.enter_context(patcher.attending(where, function))
            yield


@dataclass
class _Undo:
    """How to undo the patch of one modifier on a model, and the model's fingerprint before it."""

    one: Active
    model: LatentDiffusion
    before: object
    functions: Functions
    context: AbstractContextManager[object] | None = None
    patcher: Patcher | None = None
