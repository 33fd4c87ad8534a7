"""What extensions change in a model for a batch, put on and taken off by the host.

Everything is recorded first (`Modifier.modify`), then put on at once, and taken off in reverse order whatever happens
in between. Weights are never changed where they lie: another parameter takes the place of the model's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from torch import Tensor, nn

from modules.checkpoints.model import LatentDiffusion
from modules.extension.contexts import Attention, AttentionFunction, BlockFunction, Layer, SkipFunction, Step
from modules.nn.unet import CrossAttention, Downsample, SpatialTransformer, Taps, TransformerBlock, UNet

_ABSENT = object()


class Guard(Protocol):
    """What stands around the code of one extension."""

    def within(self, hook: str) -> AbstractContextManager[None]:
        """Within it, that code runs in the hook of that name."""
        ...

    def judge(self, answers: Sequence[Tensor], given: Sequence[Tensor]) -> None:
        """Raises `ValueError` if it made values that are no numbers of what it was given."""
        ...


class Patcher:
    """A model as `Modifier.modify` is given it. ``where`` is a name or a pattern of names; "self" alone means
    "*.self". Each method returns how many places matched, and raises `ValueError` if none did.
    """

    def __init__(self, model: LatentDiffusion, step: Callable[[], Step], guard: Guard):
        """``step``: the one at hand while the network is called."""
        self.model = model
        """To read: networks, configuration, device."""
        self._step = step
        self._guard = guard
        self._layers = layers_of(model.unet)
        self._attentions: list[tuple[str, AttentionFunction]] = []
        self._taps: list[_Tap] = []
        self._attributes: list[tuple[nn.Module, str, Any]] = []
        self._weights: list[_Weight] = []
        self._changes = model.unet.changes
        self._stack = ExitStack()

    # -- what modify() calls

    def layers(self) -> tuple[Layer, ...]:
        """The attentions and blocks of the UNet, in the order of the computation."""
        return tuple(self._layers)

    def attention(self, where: str, function: AttentionFunction) -> int:
        """Put ``function`` around attentions: ``(step, layer, q, k, v, attention) -> out``."""
        found = self._matching(where, ("self", "cross"))
        self._attentions.append((where, function))
        return len(found)

    def block(self, where: str, function: BlockFunction) -> int:
        """Pass the outputs of blocks through ``(step, layer, h) -> h``. That of an input block is the skip too."""
        return self._tap(where, function, "after")

    def skip(self, where: str, function: SkipFunction) -> int:
        """Pass what output blocks join through ``(step, layer, h, skip) -> (h, skip)``."""
        if not any(layer.place == "output" for layer in self._matching(where, ("block",))):
            raise ValueError(f"only output blocks join a skip, not {where!r}")
        return self._tap(where, function, "join")

    def attributes(self, where: nn.Module | type[nn.Module] | str, **values: Any) -> int:
        """Set plain attributes of a module, of all modules of a class, or of those with a name ("unet.out.2")."""
        if isinstance(where, nn.Module):
            found = [where]
        else:
            modules = dict(_modules(self.model))
            found = [m for name, m in modules.items() if _is(m, name, where)]
            if not found:
                raise ValueError(_unknown("module", str(where), modules))
        for name in values:
            if lacking := next((module for module in found if not hasattr(module, name)), None):
                raise ValueError(f"{type(lacking).__name__} has no attribute {name!r}")
            if any(name in module._parameters or name in module._modules for module in found):
                raise ValueError(f"{name!r} is no plain attribute: use weights()")
        self._attributes += [(module, name, value) for module in found for name, value in values.items()]
        return len(found)

    def weights(self, where: str, change: Callable[[Tensor], Tensor]) -> int:
        """Let ``change(weight) -> weight``, of equal shape, stand for parameters: "unet.input_blocks.0.0.weight"."""
        named = dict(_parameters(self.model))
        found = [place for name, place in named.items() if fnmatchcase(name, where)]
        if not found:
            raise ValueError(_unknown("parameter", where, named))
        self._weights += [_Weight(module, name, change) for module, name in found]
        return len(found)

    def _tap(self, where: str, function: Callable[..., Any], kind: str) -> int:
        found = self._matching(where, ("block",))
        self._taps.append(_Tap(kind, {(layer.place, layer.block): layer for layer in found}, function))
        return len(found)

    def _matching(self, where: str, kinds: tuple[str, ...]) -> list[Layer]:
        found = [layer for layer in self._layers if layer.kind in kinds and matches(layer, where)]
        if not found:
            known = {layer.name: layer for layer in self._layers if layer.kind in kinds}
            raise ValueError(_unknown("layer", where, known))
        return found

    # -- what the host calls

    @property
    def changes_weights(self) -> bool:
        return bool(self._weights)

    def put_on(self) -> None:
        """Put everything on; what was put on before an error is taken off by `take_off`."""
        for where, function in self._attentions:
            self._stack.enter_context(self.attending(where, function))
        if self._taps:
            unet = self.model.unet
            taps = _Taps(unet.taps, tuple(self._taps), self._step, self._guard)
            self._stack.enter_context(_attribute(unet, "taps", taps))
        for module, name, value in self._attributes:
            self._stack.enter_context(_attribute(module, name, value))
        if self._taps or self._attributes:
            self._stack.enter_context(_attribute(self.model.unet, "extended", True))
        self._stack.callback(self.lift)
        self.settle()

    def take_off(self) -> None:
        """Take everything off, in reverse order."""
        self._stack.close()

    def settle(self) -> None:
        """Put changed weights in their places, over what lies there now."""
        fresh, self._changes = self._changes == self.model.unet.changes, self.model.unet.changes
        for weight in self._weights:
            with self._guard.within("weights"):
                weight.put_on(fresh, self._guard)

    def lift(self) -> None:
        """Put back what lay below the changed weights, for others who change them."""
        for weight in reversed(self._weights):
            weight.take_off()

    def has_attention(self, where: str) -> bool:
        return any(layer.kind != "block" and matches(layer, where) for layer in self._layers)

    @contextmanager
    def attending(self, where: str, function: AttentionFunction) -> Iterator[None]:
        """While this lasts, ``function`` stands around the attentions that ``where`` names."""
        with ExitStack() as stack:
            stack.enter_context(_attribute(self.model.unet, "extended", True))
            for layer in self._matching(where, ("self", "cross")):
                module = self._layers[layer]
                assert isinstance(module, CrossAttention)
                stack.enter_context(_attribute(module, "attend", self._around(function, layer, module.attend)))
            yield

    def _around(self, function: AttentionFunction, layer: Layer, inner: Attention) -> Attention:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with self._guard.within("attention"):
                out = function(self._step(), layer, q, k, v, inner)
                out = _checked(out, (*q.shape[:3], v.shape[3]), "attention")
                self._guard.judge([out], (q, k, v))
                return out

        return attend


@dataclass(frozen=True)
class _Tap:
    """A function between blocks, and the blocks that it wants."""

    kind: str
    """ "after" or "join"."""
    layers: Mapping[tuple[str, int], Layer]
    function: Callable[..., Any]


@dataclass(frozen=True)
class _Taps:
    """Functions between the blocks of a UNet, outside of those that were there before (`modules.nn.unet.Taps`)."""

    before: Taps | None
    own: tuple[_Tap, ...]
    step: Callable[[], Step]
    guard: Guard

    def after(self, place: str, number: int, h: Tensor) -> Tensor:
        h = self.before.after(place, number, h) if self.before else h
        for tap in self.own:
            if tap.kind == "after" and (layer := tap.layers.get((place, number))):
                with self.guard.within("block"):
                    answer = _checked(tap.function(self.step(), layer, h), h.shape, "block")
                    self.guard.judge([answer], [h])
                    h = answer
        return h

    def join(self, number: int, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        h, skip = self.before.join(number, h, skip) if self.before else (h, skip)
        for tap in self.own:
            if tap.kind == "join" and (layer := tap.layers.get(("output", number))):
                with self.guard.within("block"):
                    answer = tap.function(self.step(), layer, h, skip)
                    if not (isinstance(answer, tuple) and len(answer) == 2):
                        raise TypeError("a skip function must answer (h, skip)")
                    answers = _checked(answer[0], h.shape, "skip"), _checked(answer[1], skip.shape, "skip")
                    self.guard.judge(answers, (h, skip))
                    h, skip = answers
        return h, skip


@dataclass
class _Weight:
    """A parameter that another stands for."""

    module: nn.Module
    name: str
    change: Callable[[Tensor], Tensor]
    below: nn.Parameter | None = None
    """What lies beneath; None while ours is not on."""
    made: tuple[nn.Parameter, nn.Parameter] | None = None
    """What was made last, behind what it was made of: networks of a prompt change that over the steps."""

    def put_on(self, fresh: bool, guard: Guard) -> None:
        """``fresh``: no weight was changed where it lies since the last time."""
        now = self.module._parameters[self.name]
        assert now is not None
        if self.below is not None:
            return
        if self.made is None or self.made[0] is not now or not fresh:
            new = _checked(self.change(now.detach().clone()), now.shape, "weights")
            self.made = now, nn.Parameter(new.to(now).detach().clone(), requires_grad=False)
            guard.judge([self.made[1]], [now])
        self.below, self.module._parameters[self.name] = now, self.made[1]

    def take_off(self) -> None:
        if self.below is not None:
            self.module._parameters[self.name] = self.below
            self.below = None


def layers_of(unet: UNet) -> dict[Layer, nn.Module]:
    """The attentions and blocks of a UNet with their modules, in the order of the computation."""
    found: dict[Layer, nn.Module] = {}
    level = 0
    blocks: list[tuple[str, int, nn.Module]] = [("input", i, block) for i, block in enumerate(unet.input_blocks)]
    blocks += [("middle", 0, unet.middle_block)]
    blocks += [("output", i, block) for i, block in enumerate(unet.output_blocks)]
    for place, number, block in blocks:
        kinds = [type(child) for child in block.children()]
        level += Downsample in kinds
        name = f"{place}.{number}"
        depth = 0
        for child in block.children():
            for inner in child.transformer_blocks if isinstance(child, SpatialTransformer) else ():
                assert isinstance(inner, TransformerBlock)
                for kind, attention in (("self", inner.attn1), ("cross", inner.attn2)):
                    heads = attention.heads
                    layer = Layer(f"{name}.{depth}.{kind}", place, number, level, kind, depth, heads)  # type: ignore[arg-type]
                    found[layer] = attention
                depth += 1
        found[Layer(name, place, number, level, "block")] = block  # type: ignore[arg-type]
        level -= any(kind.__name__ == "Upsample" for kind in kinds)
    return found


def matches(layer: Layer, where: str) -> bool:
    """Whether a pattern means a layer: its name, or the end of it."""
    return fnmatchcase(layer.name, where) or fnmatchcase(layer.name, f"*.{where}")


def _modules(model: LatentDiffusion) -> Iterator[tuple[str, nn.Module]]:
    for part, network in model.parts().items():
        for name, module in network.named_modules():
            yield f"{part}.{name}" if name else part, module


def _parameters(model: LatentDiffusion) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    for name, module in _modules(model):
        for own, parameter in module._parameters.items():
            if parameter is not None:
                yield f"{name}.{own}", (module, own)


def _is(module: nn.Module, name: str, where: type[nn.Module] | str) -> bool:
    return fnmatchcase(name, where) if isinstance(where, str) else isinstance(module, where)


@contextmanager
def _attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module, and put back what was there, or that there was none of its own."""
    before = vars(module).get(name, _ABSENT)
    object.__setattr__(module, name, value)
    try:
        yield
    finally:
        if before is _ABSENT:
            object.__delattr__(module, name)
        else:
            object.__setattr__(module, name, before)


def _checked(answer: Any, shape: tuple[int, ...], hook: str) -> Tensor:
    if not isinstance(answer, Tensor) or tuple(answer.shape) != tuple(shape):
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise TypeError(f"a function of {hook} must answer a tensor of shape {tuple(shape)}, not {found}")
    return answer


def _unknown(kind: str, where: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(where, known, n=3, cutoff=0.3) or list(known)[:3]
    return f"no {kind} of this model is named {where!r}; there are {', '.join(near)} and others"
