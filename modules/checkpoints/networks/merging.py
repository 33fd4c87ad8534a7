"""Networks put on a model: weights with their changes added stand beside the model's own, and take their places for a
while.

Nothing is ever subtracted. A model's own parameters are the very objects that were loaded, put back as they are.
Where there is no room for both, a weight is changed in its place and read from the checkpoint again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from modules.checkpoints.model import LatentDiffusion, read_again
from modules.checkpoints.networks.files import Network
from modules.checkpoints.networks.keys import candidates, is_text
from modules.checkpoints.networks.kinds import Change
from modules.nn import openclip
from modules.nn.configs import CLIP


@dataclass(frozen=True)
class Applied:
    """A network at its strengths of the moment."""

    key: Hashable
    """What tells it from every other: a file and its state."""
    network: Network
    te: float
    unet: float
    dyn: int | None = None
    blocks: Callable[[str], float] = lambda layer: 1.0
    """The part of the strength that a layer gets, by kohya's name."""

    def strength(self, layer: str) -> float:
        return (self.te if is_text(layer) else self.unet) * self.blocks(layer)


@dataclass(frozen=True)
class Place:
    """The weights of a layer of a model."""

    module: nn.Module
    part: str
    """As `LatentDiffusion.parts` calls it: "unet", "text", "text_2"."""
    path: str
    """Of the module within that part."""
    weight: str = "weight"
    bias: str = "bias"
    """Attributes of the module."""
    rows: tuple[int, int] | None = None
    """The part of the weight that is the layer's, where it holds several; None: all of it."""

    @property
    def name(self) -> str:
        """Of the parameter in the model: layers that share one have one name."""
        return f"{self.part}.{self.path}.{self.weight}"


def places_of(model: LatentDiffusion) -> dict[str, Place]:
    """The layers with weights, by the names that A1111 gives them (`keys.ldm_name`)."""
    found = {f"diffusion_model_{_flat(path)}": Place(module, "unet", path) for path, module in _layers(model.unet)}
    encoders = model.config.family.encoders
    for i, (spec, text) in enumerate(zip(encoders, model.text, strict=True)):
        number = "" if model.config.family.name in ("sd1", "sd2") else f"{i}_"
        begin = f"{number}transformer_text_model_" if spec.layout == CLIP else f"{number}model_"
        found |= {begin + _flat(path): Place(module, spec.part, path) for path, module in _layers(text)}
        for path, module in text.named_modules():
            if isinstance(module, openclip.Attention):
                width = module.in_proj_weight.shape[1]
                for n, name in enumerate(("q_proj", "k_proj", "v_proj")):
                    rows = n * width, (n + 1) * width
                    place = Place(module, spec.part, path, "in_proj_weight", "in_proj_bias", rows)
                    found[f"{begin}{_flat(path)}_{name}"] = place
    return found


def _layers(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in part.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            yield path, module


def _flat(path: str) -> str:
    return path.replace(".", "_")


def fitting(network: Network, places: Mapping[str, Place], *, sd2: bool = False) -> dict[str, Place]:
    """The places of those of a network's layers that the model has, by kohya's names.

    Where one matrix gives queries, keys and values, A1111 changes it only if these and the output are all named.
    """
    found, names = {}, {}
    for layer in network.changes:
        name = next((name for name in candidates(layer, sd2=sd2) if name in places), None)
        if name is not None:
            found[layer], names[layer] = places[name], name
    there = set(names.values())
    whole = {
        layer: all(f"{name.removesuffix(end)}{other}" in there for other in _ATTENTION)
        for layer, name in names.items()
        for end in _ATTENTION
        if name.endswith(end) and f"{name.removesuffix(end)}q_proj" in places
        if places[f"{name.removesuffix(end)}q_proj"].rows
    }
    return {layer: place for layer, place in found.items() if whole.get(layer, True)}


_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Step:
    """A change of one layer at a strength, and what tells it from every other."""

    change: Change
    strength: float
    dyn: int | None = None
    key: Hashable = None
    rows: tuple[int, int] | None = None
    """Of the weight, that are changed; None: all."""


def merged(
    weight: Tensor, steps: Sequence[Step], misfit: Callable[[Step], None], into: Tensor | None = None
) -> Tensor | None:
    """``weight`` with all changes added in float32, in the prompt's order; None: none of them changes it.

    ``misfit`` hears of a change that has another shape. Neighbouring LoRAs are one product: their factors stand side by
    side. Where there is nothing else the product is added in the weight's own type, in which an unmerged LoRA would be
    computed too, and only its sum is rounded to it: with matrix units that takes a third of the time. ``into``: memory
    that such a sum may take; what fresh pages cost is a third of it.
    """
    if any(step.rows for step in steps):
        return _merged_rows(weight, steps, misfit)
    factors = [_factors(weight, step) for step in steps]
    if all(factors):
        return _plus(weight, [pair for pair in factors if pair], into)
    total, pairs = weight, list[tuple[Tensor, Tensor]]()
    for step, pair in zip(steps, factors, strict=True):
        if pair:
            pairs.append(pair)
        elif step.change.changes_weight:
            total, pairs = _plus(total.float(), pairs), []
            try:
                total = total + step.change.weight_delta(total, step.strength, step.dyn)
            except (RuntimeError, ValueError):  # shapes that cannot be brought together
                misfit(step)
    total = _plus(total.float(), pairs) if pairs else total
    return None if total is weight else total


def _merged_rows(weight: Tensor, steps: Sequence[Step], misfit: Callable[[Step], None]) -> Tensor | None:
    """`merged` for a weight of several layers, each by itself."""
    total = weight.float().clone()
    changed = False
    for rows in dict.fromkeys(step.rows for step in steps):
        place = slice(*rows) if rows else slice(None)
        own = [replace(step, rows=None) for step in steps if step.rows == rows]
        new = merged(weight[place], own, misfit)
        if new is not None:
            total[place], changed = new.float(), True
    return total if changed else None


def _factors(weight: Tensor, step: Step) -> tuple[Tensor, Tensor] | None:
    """(out, rank) and (rank, in) whose product is added to a weight; None: it is no such change, or none that fits."""
    factors = step.change.factors(step.strength, step.dyn)
    if factors is None:
        return None
    up, down = factors
    if len(up) != len(weight) or len(up) * down.shape[1] != weight.numel():
        return None
    if weight.dim() == 4:  # in the order (h, w, in), in which convolutions keep their weights
        down = down.reshape(-1, *weight.shape[1:]).permute(0, 2, 3, 1).reshape(len(down), -1)
    return up.to(weight.device), down.to(weight.device)


def _plus(weight: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], into: Tensor | None = None) -> Tensor:
    """``weight`` and the products of factors, summed in float32 and rounded once to its type."""
    if not pairs:
        return weight
    dtype = weight.dtype if weight.dtype.itemsize > 1 else torch.float32
    ups, downs = [up.to(dtype) for up, _ in pairs], [down.to(dtype) for _, down in pairs]
    up, down = (ups[0], downs[0]) if len(pairs) == 1 else (torch.cat(ups, dim=1), torch.cat(downs))
    own = weight.to(dtype)
    if into is None or not _can_take(into, own):
        into = torch.empty_like(own)
    if weight.dim() != 4:
        return torch.addmm(own, up, down, out=into)
    flat, place = own.permute(0, 2, 3, 1), into.permute(0, 2, 3, 1)
    if place.is_contiguous():  # in memory as it is computed
        torch.addmm(flat.reshape(len(weight), -1), up, down, out=place.view(len(weight), -1))
        return into
    return torch.addmm(flat.reshape(len(weight), -1), up, down).reshape(flat.shape).permute(0, 3, 1, 2)


def _can_take(into: Tensor, like: Tensor) -> bool:
    """Whether a sum may be written there: in main memory, in the same layout, and not kept from changes."""
    same = (into.device, into.dtype, into.shape, into.stride()) == (like.device, like.dtype, like.shape, like.stride())
    return same and like.device.type == "cpu" and (torch.is_inference_mode_enabled() or not into.is_inference())


@dataclass
class _Layer:
    """A module whose weights networks change: its own parameters, the changed ones, and what these were made of."""

    place: Place
    own: dict[str, nn.Parameter | None]
    made: dict[str, nn.Parameter] = field(default_factory=dict)
    key: tuple[Hashable, ...] = ()
    overwritten: bool = False
    """There was no room: the weight was changed where it lies, and is read from the file again."""


class Patch:
    """Networks on one model. Between batches its own weights are in their places, and the changed ones stay ready."""

    def __init__(self, model: LatentDiffusion, budget: int = 2**62):
        self.budget = budget
        """Bytes of changed weights that may stand beside the model's own."""
        self._path, self._device, self._family = model.path, model.device, model.config.family
        self._places = places_of(model)
        self._layers: dict[str, _Layer] = {}
        self._fitting: dict[int, tuple[Network, dict[str, Place]]] = {}
        self._on: set[str] = set()
        self.nbytes = 0
        """Of the changed weights that stand beside the model's own."""
        self.misfits: dict[Hashable, set[str]] = defaultdict(set)
        """Layers of a network that have another shape here, by what it is known by."""

    def touched(self, network: Network) -> int:
        """How many of a network's layers the model has."""
        return len(self._places_of(network))

    def _places_of(self, network: Network) -> dict[str, Place]:
        if id(network) not in self._fitting:
            self._fitting[id(network)] = network, fitting(network, self._places, sd2=self._family.name == "sd2")
        return self._fitting[id(network)][1]

    def put(self, applied: Sequence[Applied]) -> bool:
        """Give the model the weights that ``applied`` makes, and say whether that changed any.

        Only layers are made anew whose changes are not those that they were made with.
        """
        wanted: dict[str, tuple[Place, list[Step]]] = {}
        threads = torch.get_num_threads()  # sums are rounded differently by another number of them
        for one in applied:
            for name, place in self._places_of(one.network).items():
                if strength := one.strength(name):
                    key = one.key, name, strength, one.dyn, threads
                    step = Step(one.network.changes[name], strength, one.dyn, key, place.rows)
                    wanted.setdefault(place.name, (place, []))[1].append(step)
        gone = self._on - wanted.keys()
        for name in gone:
            self._take_off(name)
            self._drop(self._layers[name])
        return any([self._put_on(name, *layer) for name, layer in wanted.items()] + [bool(gone)])

    def _put_on(self, name: str, place: Place, steps: Sequence[Step]) -> bool:
        key = tuple(step.key for step in steps)
        layer = self._layers.get(name)
        if layer is None:
            own = {part: getattr(place.module, part, None) for part in (place.weight, place.bias)}
            layer = self._layers[name] = _Layer(place, own)
        if layer.key == key and name in self._on:
            return False
        self._on.add(name)  # first: whatever happens now, it is taken off
        if layer.key != key:
            self._make(layer, steps)
            layer.key = key
        for part, parameter in layer.made.items():
            setattr(place.module, part, parameter)
        return True

    def _make(self, layer: _Layer, steps: Sequence[Step]) -> None:
        """A layer's changed parameters, from its own."""
        self._restore(layer)
        before = layer.made.get(layer.place.weight)
        self._drop(layer)

        def misfit(step: Step) -> None:
            assert isinstance(step.key, tuple)
            network, name, *_ = step.key
            self.misfits[network].add(name)

        place = layer.place
        weight = layer.own[place.weight]
        assert weight is not None
        changed = merged(weight.data, steps, misfit, None if before is None else before.data)
        if changed is not None:
            if self.nbytes + weight.nbytes > self.budget:
                layer.overwritten = True
                weight.data.copy_(changed)
            else:
                self._keep(layer, place.weight, changed, weight)
        biases = [step.change.bias_delta(step.strength) for step in steps if not step.rows]
        deltas = [delta.to(weight.device).reshape(len(weight)) for delta in biases if delta is not None]
        if deltas:
            total, own = torch.stack(deltas).sum(0), layer.own[place.bias]
            self._keep(layer, place.bias, total if own is None else own.float() + total, weight)

    def _keep(self, layer: _Layer, part: str, changed: Tensor, like: Tensor) -> None:
        """In the type of the model's weights, or in that of its computations where weights are kept in 8 bits."""
        dtype = like.dtype if like.dtype.itemsize > 1 else self._device.dtype
        if part == layer.place.weight and (changed.dtype != dtype or changed.stride() != like.stride()):
            changed = torch.empty_like(like, dtype=dtype).copy_(changed)
        layer.made[part] = nn.Parameter(changed.to(dtype), requires_grad=False)
        self.nbytes += layer.made[part].nbytes

    def _drop(self, layer: _Layer) -> None:
        self.nbytes -= sum(parameter.nbytes for parameter in layer.made.values())
        layer.made = {}
        layer.key = ()

    def _take_off(self, name: str) -> None:
        """Put a layer's own parameters back."""
        layer = self._layers[name]
        for part, own in layer.own.items():  # not of `made` alone: making others may have failed half way
            if getattr(layer.place.module, part, None) is not own:
                setattr(layer.place.module, part, own)
        self._restore(layer)
        self._on.discard(name)

    def _restore(self, layer: _Layer) -> None:
        """The weight that was changed where it lies, as the file has it."""
        if layer.overwritten:
            place = layer.place
            weight = layer.own[place.weight]
            assert weight is not None
            name = f"{place.path}.{place.weight}"
            weight.data.copy_(read_again(self._path, self._family, self._device, place.part, name))
            layer.overwritten = False
            layer.key = ()

    def suspend(self) -> None:
        """Put the model's own weights back. What was made stays, for a batch that wants the same."""
        for name in list(self._on):
            self._take_off(name)
        self._fitting.clear()  # networks may be let go of
        self.misfits.clear()

    def forget(self) -> None:
        """Let go of what was made, where it is not in use."""
        for name, layer in self._layers.items():
            if name not in self._on:
                self._drop(layer)
        self._fitting.clear()
