"""Runs the modifiers of a request: wraps the callables, applies and undoes patches, and isolates extensions' faults.

What goes wrong in an extension is told from what goes wrong in the engine that it calls: only the former is a
`HookFailed`, upon which the request is done without that extension.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from modules.diffusion.types import Denoiser, Guidance, Network
from modules.errors import RepriseError, out_of_memory
from modules.extension.host import Host, TagSpec
from modules.extension.modifier import Modifier, ModifierSpec, Report, SamplingPass, UsedFile, overridden
from modules.params.generation import GenerationParams, ModifierOptions, Value
from modules.pipeline.plan import Batch, Changes, Revise
from modules.pipeline.prompts import PromptParser
from modules.prompt.tree import NetworkTag

if TYPE_CHECKING:
    from PIL.Image import Image

    from modules.checkpoints.model import LatentDiffusion

T = TypeVar("T", bound=Callable[..., Any])


class HookFailed(Exception):
    """An extension failed in one of its hooks."""

    def __init__(self, name: str, hook: str, error: BaseException):
        first_line = next(iter(str(out_of_memory(error) or error).splitlines()), "")[:300]
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


class NoWatch:
    """A `Watch` that does nothing."""

    def enter(self, name: str, hook: str) -> None: ...

    def leave(self) -> None: ...

    def failed(self, failure: HookFailed) -> None: ...

    def crashed(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True)
class Active:
    """A modifier that takes part, with its options."""

    spec: ModifierSpec
    version: str
    options: Mapping[str, Value]
    modifier: Modifier

    def has(self, hook: str) -> bool:
        return hook in overridden(self.modifier)


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

    def __init__(self, watch: Watch):
        self._watch = watch
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

    def outside(self, inner: T) -> T:
        """Wrap an engine function that extensions call, so that its errors are not blamed on them."""

        def call(*arguments: Any) -> Any:
            self._watch.enter("", "")
            try:
                return inner(*arguments)
            except BaseException as error:
                self._foreign = error
                raise
            finally:
                self._watch.leave()

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
    ):
        """``absent``: unavailable modifiers; tags that call them have no effect."""
        self._host = host
        self._chosen = chosen
        self._absent = absent
        self._parser = parser or PromptParser()
        self._border = Border(watch or NoWatch())
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
            self._hooks[chosen] = Hooks([self._active(spec, chosen[spec.name]) for spec in specs], self._border)
        return self._hooks[chosen]

    def passes(self, batch: Batch) -> list[Hooks]:
        """The hooks of each pass of a batch."""
        return [self.of(each.prompts.networks) for each in batch.passes]

    def prepare(self, batch: Batch, model: LatentDiffusion, recorded: Sequence[UsedFile]) -> list[Report]:
        """Tell modifiers of the passes of a batch in which they take part, and hear what there is to tell of it."""
        told: dict[str, tuple[Active, list[SamplingPass]]] = {}
        for each, hooks in zip(batch.passes, self.passes(batch), strict=True):
            for one in hooks.active:
                told.setdefault(f"{id(one)}", (one, []))[1].append(each.sampling_pass)
        for one, runs in told.values():
            with self._border.within(one.spec.name, "prepare"):
                one.modifier.prepare(runs, model, recorded)
        return [one.modifier.report() for one, _ in told.values()]

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
                modifier = spec.made(options)
                if not isinstance(modifier, Modifier):
                    raise TypeError(f"make must give a Modifier, not {type(modifier).__name__}")
            self._made[key] = Active(spec, self._host.version_of("modifier", spec.name), options, modifier)
        return self._made[key]


class Hooks:
    """The modifiers of one sampling pass. The lowest order is wrapped first, so it is innermost."""

    def __init__(self, active: Sequence[Active], border: Border):
        self.active = tuple(active)
        self._border = border
        self._patches: Patches | None = None

    def revising(self) -> list[Active]:
        return self._having("revise")

    def scope(self) -> tuple[object, ...]:
        """What else than the model decides what the patched model answers."""
        return tuple((a.spec.name, a.version, repr(a.options), a.modifier.state()) for a in self._having("patch"))

    def begin(self, run: SamplingPass) -> None:
        for one in self._having("begin"):
            with self._border.within(one.spec.name, "begin"):
                one.modifier.begin(run)

    def notes(self) -> list[str]:
        """What modifiers have to tell of the batch so far."""
        return [note for one in self.active for note in one.modifier.report().notes]

    def revise(self, params: GenerationParams) -> tuple[GenerationParams, dict[str, dict[str, Any]]]:
        """The request of one image as revised by all modifiers, and by name what each changed."""
        changed: dict[str, dict[str, Any]] = {}
        for one in self._having("revise"):
            with self._border.within(one.spec.name, "revise"):
                revised = one.modifier.revise(params)
                if not isinstance(revised, GenerationParams):
                    raise TypeError(f"it must give GenerationParams, not {type(revised).__name__}")
            before, after = params.to_json(), revised.to_json()
            names = dict.fromkeys((*before, *after))
            if told := {name: after.get(name) for name in names if before.get(name) != after.get(name)}:
                changed[one.spec.name] = told
            params = revised.changed(extensions=params.extensions)
        return params, changed

    def network(self, network: Network) -> Network:
        return self._wrapped("network", network)

    def guidance(self, guidance: Guidance) -> Guidance:
        return self._wrapped("guidance", guidance)

    def denoiser(self, denoiser: Denoiser) -> Denoiser:
        return self._wrapped("denoiser", denoiser)

    def finish(self, image: Image) -> Image:
        from PIL.Image import Image as PILImage

        for one in self._having("finish"):
            with self._border.within(one.spec.name, "finish"):
                image = one.modifier.finish(image)
                if not isinstance(image, PILImage):
                    raise TypeError(f"it must give a picture, not {type(image).__name__}")
        return image

    @contextlib.contextmanager
    def patching(self, left_modified: Callable[[LatentDiffusion, str], None]) -> Iterator[None]:
        """While a pass is made: models that `patched` is told of are what they were before when it ends.

        ``left_modified(model, name)`` hears of a model that an extension did not put back.
        """
        patches = self._patches = Patches(self._having("patch"), self._border.within, left_modified)
        try:
            yield
        except BaseException:
            with contextlib.suppress(HookFailed):  # what came first is what is told
                patches.undo()
            raise
        finally:
            self._patches = None
        patches.undo()

    def unpatch(self) -> None:
        """Undo all patches now instead of at the end of `patching`."""
        assert self._patches is not None, "no batch is being made"
        self._patches.undo()

    def patched(self, model: LatentDiffusion) -> LatentDiffusion:
        """Apply all patches to ``model``, until the batch ends."""
        assert self._patches is not None, "no batch is being made"
        return self._patches.on(model)

    def has(self, hook: str) -> bool:
        return bool(self._having(hook))

    def _having(self, hook: str) -> list[Active]:
        return [one for one in self.active if one.has(hook)]

    def _wrapped(self, hook: str, inner: T) -> T:
        for one in self._having(hook):
            inner = self._wrap(one, hook, inner)
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
                answer = outer(first, *rest)
                if getattr(answer, "shape", None) != first.shape:
                    raise TypeError(f"it must answer a tensor of shape {tuple(first.shape)}")
            return answer

        return call  # type: ignore[return-value]


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
        within: Callable[[str, str], AbstractContextManager[None]],
        left_modified: Callable[[LatentDiffusion, str], None],
    ):
        self._active = active
        self._within = within
        self._left_modified = left_modified
        self._models: dict[int, LatentDiffusion] = {}
        self._blamed: set[int] = set()
        self._undo: list[tuple[Active, LatentDiffusion, object, AbstractContextManager[object]]] = []

    def on(self, model: LatentDiffusion) -> LatentDiffusion:
        """Patch ``model``; a second call changes nothing."""
        if self._active and id(model.unet) not in self._models:
            from modules.checkpoints.fingerprint import fingerprint

            self._models[id(model.unet)] = model
            for one in self._active:
                before = fingerprint(model)  # per modifier, so that the right one is blamed
                try:
                    with self._within(one.spec.name, "patch"):
                        context = one.modifier.patch(model)
                        context.__enter__()
                except BaseException:
                    self._judge(one, model, before)
                    raise
                self._undo.append((one, model, before, context))
        return model

    def undo(self) -> None:
        """Undo all patches in reverse order, and check that the weights are restored."""
        failure: BaseException | None = None
        while self._undo:
            one, model, before, context = self._undo.pop()
            try:
                with self._within(one.spec.name, "patch"):
                    # As if all had gone well: many a context manager would not tidy up behind an error.
                    context.__exit__(None, None, None)
            except (RepriseError, HookFailed) as error:
                failure = error
            self._judge(one, model, before)
        self._models.clear()
        if failure:
            raise failure

    def _judge(self, one: Active, model: LatentDiffusion, before: object) -> None:
        from modules.checkpoints.fingerprint import fingerprint

        if id(model.unet) not in self._blamed and fingerprint(model) != before:
            self._blamed.add(id(model.unet))
            self._left_modified(model, one.spec.name)
