"""Hypernetworks as A1111 has them: small networks before the keys and values of every attention.

``x + multiplier * net(x)`` stands for the context x (b, tokens, width) of a width that the file has networks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.checkpoints import unpickle
from modules.checkpoints.networks.listing import Unusable
from modules.checkpoints.unpickle import StoredTensor
from modules.nn.unet import CrossAttention, UNet

MAX_BYTES = 2**30
Net = Callable[[Tensor], Tensor]
"""(b, tokens, width) -> the same shape."""


@dataclass(frozen=True)
class Hypernetwork:
    """By width the networks for keys and for values."""

    path: Path
    nets: Mapping[int, tuple[Net, Net]]


def read(path: Path) -> Hypernetwork:
    """A ``.pt`` of A1111's training; raises `Unusable` with the file's name and the reason."""
    try:
        with unpickle.opened(path, MAX_BYTES) as table:
            nets = _nets(table)
    except (OSError, ValueError) as error:
        raise Unusable(f"{path.name} is no hypernetwork: {error}", hint="copy it again", field="prompt") from error
    return Hypernetwork(path, nets)


def _nets(table: Any) -> dict[int, tuple[Net, Net]]:
    """By width those for keys and for values; raises `ValueError` with the reason."""
    if not isinstance(table, Mapping):
        raise ValueError("it holds no table")
    activation = activation_named(table.get("activation_func"))
    at_end = bool(table.get("activate_output", True))
    found = {}
    for width, pair in table.items():
        if isinstance(width, int):
            if not isinstance(pair, (list, tuple)) or len(pair) < 2:
                raise ValueError(f"for width {width} it has no pair of networks")
            first, second = (net(_numbers(state), activation, at_end) for state in pair[:2])
            found[width] = first, second
    if not found:
        raise ValueError("it holds no networks")
    return found


def _numbers(state: Any) -> dict[str, Tensor]:
    tensors = state.items() if isinstance(state, Mapping) else ()
    return {str(key): torch.tensor(value.numbers()) for key, value in tensors if isinstance(value, StoredTensor)}


_OWN_NAMES = {"swish": "hardswish"}


def activation_named(name: Any) -> Net | None:
    """By A1111's name, which is that of torch's class in small letters; None: there is none."""
    if name in (None, "linear"):
        return None
    wanted = _OWN_NAMES.get(str(name), str(name))
    classes = vars(nn.modules.activation).values()
    found = next((c for c in classes if isinstance(c, type) and c.__name__.lower() == wanted), None)
    if found is None or not issubclass(found, nn.Module) or found is nn.MultiheadAttention:
        raise ValueError(f"its activation {str(name)[:40]!r} is not known")
    activation: Net = found()
    return activation


def net(state: Mapping[str, Tensor], activation: Net | None, activate_output: bool) -> Net:
    """A network from its layers, in the order of their numbers: linear ones, each activated, and norms behind them.

    The last linear layer is activated only where ``activate_output`` says so. Dropout does nothing here.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, part = _place(key)
        layers.setdefault(number, {})[part] = value.float()
    ordered = [layers[number] for number in sorted(layers)]
    if any(layer.keys() != {"weight", "bias"} for layer in ordered):
        raise ValueError("a layer of it is not whole")
    last = max((i for i, layer in enumerate(ordered) if layer["weight"].dim() == 2), default=-1)

    def apply(x: Tensor) -> Tensor:
        for i, layer in enumerate(ordered):
            weight, bias = layer["weight"].to(x.device), layer["bias"].to(x.device)
            if weight.dim() == 1:
                x = F.layer_norm(x, weight.shape, weight, bias)
                continue
            x = F.linear(x, weight, bias)
            if activation and (i != last or activate_output):
                x = activation(x)
        return x

    return apply


def _place(key: str) -> tuple[int, str]:
    """Number and part of "linear.0.weight", or of "linear1.weight" in the oldest files."""
    name, _, part = key.rpartition(".")
    old = {"linear1": 0, "linear2": 1}
    return (old[name], part) if name in old else (int(name.removeprefix("linear.")), part)


Used = Sequence[tuple[Hypernetwork, float]]
"""Hypernetworks with their multipliers, in the order of the prompt."""


def through(used: Used, x: Tensor, side: int) -> Tensor:
    """A context through the networks for keys (``side`` 0) or values (1), one after the other, in float32."""
    dtype = x.dtype
    for hypernetwork, multiplier in used:
        if pair := hypernetwork.nets.get(x.shape[-1]):
            wide = x.float()
            x = wide + multiplier * pair[side](wide)
    return x.to(dtype)


def widths(unet: UNet) -> frozenset[int]:
    """Of what a UNet's attentions make keys and values of: a hypernetwork without one of them changes nothing."""
    return frozenset(module.to_k.in_features for module in unet.modules() if isinstance(module, CrossAttention))


@contextmanager
def hooked(unet: UNet, used: Used) -> Iterator[None]:
    """While this lasts, every attention of a UNet has its context sent through."""
    with ExitStack() as stack:
        for module in unet.modules() if used else ():
            if isinstance(module, CrossAttention):
                for side, layer in enumerate((module.to_k, module.to_v)):
                    handle = layer.register_forward_pre_hook(_sent(used, side))
                    stack.callback(handle.remove)
        yield


def _sent(used: Used, side: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    return lambda _module, arguments: (through(used, arguments[0], side),)
