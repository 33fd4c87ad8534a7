"""What each kind of network adds to a weight, in float32.

LoRA: Hu et al. (2021), arXiv:2106.09685. LoHa, LoKr, full and norm differences as LyCORIS has them: Yeh et al. (2023),
arXiv:2309.14859. (IA)3: Liu et al. (2022), arXiv:2205.05638. DoRA: Liu et al. (2024), arXiv:2402.09353. OFT: Qiu et al.
(2023), arXiv:2306.07280. BOFT: Liu et al. (2023), arXiv:2311.06243. GLoRA: Chavan et al. (2023), arXiv:2306.07967.

A weight is (out, in), of a convolution (out, in, h, w). W' = W + multiplier * scale * delta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.checkpoints.networks.keys import kind_of

Parts = Mapping[str, Tensor]
"""The tensors of one layer of a network file, by kohya's names (`keys.part_name`)."""
_TINY = 1e-30


@dataclass(frozen=True)
class Kind:
    """A way to say a change of a weight."""

    name: str
    delta: Callable[[Parts, Tensor, int | None], Tensor]
    """``(parts, weight, dyn) -> delta`` before it is scaled; ``dyn``: the ranks that count, None: all."""
    ranks: tuple[str, ...] = ()
    """Parts whose first size is the rank; the first that is there counts."""
    alpha_scales: bool = True
    """Alpha over rank scales the delta; else alpha means something else."""


@dataclass(frozen=True)
class Change:
    """What a network does to one layer."""

    kind: Kind
    parts: Parts

    @property
    def scale(self) -> float:
        if not self.kind.alpha_scales:
            return 1.0
        if "scale" in self.parts:
            return float(self.parts["scale"])
        rank = next((self.parts[name].shape[0] for name in self.kind.ranks if name in self.parts), 0)
        return float(self.parts["alpha"]) / rank if rank and "alpha" in self.parts else 1.0

    @property
    def changes_weight(self) -> bool:
        """Whether it changes more than a bias."""
        return self.kind is not BIAS

    @property
    def looks_at_weight(self) -> bool:
        """Whether what it adds depends on the weight that it finds, and so on the networks before it."""
        return "dora_scale" in self.parts or "magnitude" in self.parts or self.kind in (IA3, GLORA, OFT)

    def factors(self, multiplier: float, dyn: int | None = None) -> tuple[Tensor, Tensor] | None:
        """(out, rank), in float32, and (rank, in) whose product is added, where it is one of few ranks."""
        bent = {"lora_mid.weight", "bias_indices"} & self.parts.keys()
        if self.kind is not LORA or self.looks_at_weight or bent:
            return None
        up, down = self.parts["lora_up.weight"], self.parts["lora_down.weight"]
        return _flat(up)[:, :dyn] * (self.scale * multiplier), down.reshape(len(down), -1)[:dyn]

    def weight_delta(self, weight: Tensor, multiplier: float, dyn: int | None = None) -> Tensor:
        """What is added to a float32 ``weight``, in its shape."""
        parts = {name: part.to(weight.device, torch.float32) for name, part in self.parts.items()}
        delta = self.kind.delta(parts, weight, dyn)
        if "bias_indices" in parts:
            delta = delta + _sparse(parts).reshape(delta.shape)
        delta = _reshaped(delta, weight) * self.scale
        if (magnitude := parts.get("dora_scale", parts.get("magnitude"))) is not None:
            delta = _decomposed(weight, delta, magnitude, by_output="magnitude" in parts)
        return delta * multiplier

    def bias_delta(self, multiplier: float) -> Tensor | None:
        """What is added to a bias, float32."""
        for name in ("diff_b", "b_norm"):
            if name in self.parts:
                return self.parts[name].float() * multiplier
        if "lora_up.bias" in self.parts:
            return self.parts["lora_up.bias"].float() * (self.scale * multiplier)
        return None


def change_of(parts: Parts) -> Change | None:
    """The change that a layer's parts say; None: no kind that is known."""
    name = kind_of(parts)
    return Change(KINDS[name], parts) if name else None


def _flat(factor: Tensor) -> Tensor:
    """(first, all others) in float32."""
    return factor.float().reshape(factor.shape[0], -1)


def _reshaped(delta: Tensor, weight: Tensor) -> Tensor:
    """In the weight's shape. A change of a 4-channel first convolution says nothing on an inpainting model's other
    five.
    """
    if delta.numel() == weight.numel():
        return delta.reshape(weight.shape)
    if weight.dim() == 4 and weight.shape[1] == 9 and delta.numel() * 9 == weight.numel() * 4:
        out, _, h, w = weight.shape
        return torch.nn.functional.pad(delta.reshape(out, 4, h, w), (0, 0, 0, 0, 0, 5))
    raise ValueError(f"a change of {tuple(delta.shape)} does not fit a weight of {tuple(weight.shape)}")


def _check_size(count: int, weight: Tensor) -> None:
    """Before factors are multiplied: what a file says may be far larger than any weight."""
    inpainting = weight.dim() == 4 and weight.shape[1] == 9 and count * 9 == weight.numel() * 4
    if count != weight.numel() and not inpainting:
        raise ValueError(f"a change of {count} numbers does not fit a weight of {weight.numel()}")


def _sparse(parts: Parts) -> Tensor:
    indices, size = parts["bias_indices"].long(), parts["bias_size"].long().tolist()
    return torch.sparse_coo_tensor(indices, parts["bias_values"], size, check_invariants=True).to_dense()


def _decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor, *, by_output: bool) -> Tensor:
    """DoRA: the changed weight in the lengths that ``magnitude`` says, less the weight.

    A length is that of what an input channel gives, or where there is one for each output, of an output channel.
    """
    changed = weight + delta
    by_output = by_output or (magnitude.dim() > 1 and magnitude.shape[0] == len(weight) and magnitude.shape[1] == 1)
    axis = 0 if by_output else 1
    others = [i for i in range(weight.dim()) if i != axis]
    lengths: Tensor = torch.linalg.vector_norm(changed, dim=others, keepdim=True).clamp_min(_TINY)
    return changed * (magnitude.reshape(lengths.shape) / lengths) - weight


def _lora(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    up, down = _flat(parts["lora_up.weight"]), parts["lora_down.weight"]
    size = parts["lora_mid.weight"][0, 0].numel() if "lora_mid.weight" in parts else 1
    _check_size(len(up) * down[0].numel() * size, weight)
    if "lora_mid.weight" in parts:
        return torch.einsum("nmkl,in,mj->ijkl", parts["lora_mid.weight"], up, _flat(down))
    return up[:, :dyn] @ _flat(down)[:dyn]


def _core(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Tucker: the core (r, s, h, w) between a (r, out) and b (s, in)."""
    return torch.einsum("rshw,ro,si->oihw", core, a, b)


def _loha(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    def one(n: int) -> Tensor:
        a, b = parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"]
        if f"hada_t{n}" not in parts:
            _check_size(len(a) * b[0].numel(), weight)
        return _core(parts[f"hada_t{n}"], a, b) if f"hada_t{n}" in parts else _flat(a) @ _flat(b)

    return one(1) * one(2)


def _lokr(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    def one(n: int) -> Tensor:
        if f"lokr_w{n}" in parts:
            return parts[f"lokr_w{n}"]
        a, b = parts[f"lokr_w{n}_a"], parts[f"lokr_w{n}_b"]
        return _core(parts["lokr_t2"], a, b) if n == 2 and "lokr_t2" in parts else _flat(a) @ _flat(b)

    small, large = one(1), one(2)
    _check_size(small.numel() * large.numel(), weight)
    if large.dim() == 4:
        small = small[:, :, None, None]
    return torch.kron(small, large.contiguous())


def _full(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    return parts["diff"]


def _norm(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    return parts["w_norm"]


def _ia3(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    if "ia3_l" in parts:  # PEFT keeps the factor itself, in a shape that spreads over the weight
        factor = parts["ia3_l"]
        if factor.dim() == 4 and factor.shape[1] == len(weight):  # over a convolution that of outputs lies across
            factor = factor.transpose(0, 1)
        return weight * (factor - 1)
    axis = 1 if bool(parts["on_input"]) else 0
    shape = [1] * weight.dim()
    shape[axis] = -1
    return weight * parts["weight"].reshape(shape)


def _glora(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    a1, a2, b1, b2 = (_flat(parts[f"{name}.weight"]) for name in ("a1", "a2", "b1", "b2"))
    return b2 @ b1 + (_flat(weight) @ a2) @ a1


def _oft(parts: Parts, weight: Tensor, dyn: int | None) -> Tensor:
    """The output channels turned within blocks by an orthogonal matrix, Cayley's of a skew one; less the weight."""
    if "oft_diag" in parts:
        turned = _turned(weight, parts["oft_diag"].mT)
    else:
        turn = _cayley(parts["oft_blocks"], len(weight), parts.get("alpha"))
        turned = _butterfly(weight, turn) if turn.dim() == 4 else _turned(weight, turn.mT)
    if "rescale" in parts:
        turned = turned * parts["rescale"].reshape(-1, *[1] * (weight.dim() - 1))
    return turned - weight


def _cayley(blocks: Tensor, channels: int, alpha: Tensor | None) -> Tensor:
    skew = blocks - blocks.mT
    if alpha is not None and float(alpha) != 0:
        length = torch.linalg.vector_norm(skew)
        skew = skew * ((length.clamp(max=float(alpha) * channels) + 1e-8) / (length + 1e-8))
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    turn: Tensor = (eye + skew) @ torch.linalg.inv(eye - skew)
    return turn


def _turned(weight: Tensor, turn: Tensor) -> Tensor:
    """Blocks of output channels times (blocks, size, size)."""
    count, size, _ = turn.shape
    if count * size != len(weight):
        raise ValueError(f"{count} blocks of {size} do not make {len(weight)} channels")
    turned: Tensor = turn @ weight.reshape(count, size, -1)
    return turned.reshape(weight.shape)


def _butterfly(weight: Tensor, turns: Tensor) -> Tensor:
    """BOFT: one turn after the other, the channels shuffled around each so that far ones meet."""
    half = turns.shape[-1] // 2
    for i, turn in enumerate(turns):
        far = 2**i * half
        weight = _shuffled(_turned(_shuffled(weight, 2, far), turn), far, 2)
    return weight


def _shuffled(weight: Tensor, groups: int, each: int) -> Tensor:
    """Channels (c, groups, each) as (c, each, groups)."""
    return weight.reshape(-1, groups, each, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


LORA = Kind("LoRA", _lora, ("lora_down.weight",))
LOHA = Kind("LoHa", _loha, ("hada_w1_b",))
IA3 = Kind("(IA)3", _ia3)
LOKR = Kind("LoKr", _lokr, ("lokr_w2_b", "lokr_w1_b"))
FULL = Kind("full", _full)
NORM = Kind("norm", _norm)
GLORA = Kind("GLoRA", _glora)
OFT = Kind("OFT", _oft, alpha_scales=False)
BIAS = Kind("bias", lambda parts, weight, dyn: torch.zeros_like(weight))
KINDS = {kind.name: kind for kind in (LORA, LOHA, IA3, LOKR, FULL, NORM, GLORA, OFT, BIAS)}
"""By their names in `keys.SIGNS`."""
