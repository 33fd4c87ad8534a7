"""Networks on a UNet of SD1.5's full size, random weights: merging one and ten, and sampling with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.checkpoints.networks.kinds import LORA, Change
from modules.checkpoints.networks.merging import Step, merged
from modules.devices import Device, choose
from modules.nn.configs import UNetConfig
from modules.nn.unet import UNet
from tests.benchmarks.clock import interleaved

RANK = 32


def main() -> None:
    measure(UNetConfig(), latent=32, rounds=5)


def measure(config: UNetConfig, latent: int, rounds: int) -> None:
    """Seconds and ratios: one network to a plain sum over the same weights, ten to one, a step with to without."""
    device = choose()
    torch.manual_seed(0)
    unet = device.prepare(UNet(config).eval()).requires_grad_(False)
    weights = [module.weight.data for module in _targets(unet)]
    sums = [torch.randn_like(weight) for weight in weights]
    one = [[Step(_lora(weight), 0.8)] for weight in weights]
    ten = [[Step(_lora(weight), 0.1) for _ in range(10)] for weight in weights]

    def all_merged(steps: list[list[Step]]) -> list[Tensor | None]:
        return [merged(weight, own, _no_misfit) for weight, own in zip(weights, steps, strict=True)]

    with torch.inference_mode():
        held = all_merged(one)
    ways = {
        "sum": lambda: [weight + other for weight, other in zip(weights, sums, strict=True)],
        "one": lambda: all_merged(one),
        "ten": lambda: all_merged(ten),
        "one again": lambda: [merged(w, own, _no_misfit, i) for w, own, i in zip(weights, one, held, strict=True)],
    }
    count = sum(weight.numel() for weight in weights)
    print(f"{device.describe()}, {torch.get_num_threads()} threads, {len(weights)} layers, {count / 1e6:.0f} M weights")
    with torch.inference_mode():
        times = interleaved(ways, rounds)
        for name, taken in times.items():
            print(f"{name}: {taken:.3f} s")
        print(f"one to a plain sum {times['one'] / times['sum']:.2f}, ten to one {times['ten'] / times['one']:.2f}")
        print(f"one where another was before, to a plain sum {times['one again'] / times['sum']:.2f}")
        step = _steps(unet, device, latent, all_merged(one), rounds)
        plain, patched = step["plain"], step["patched"]
        print(f"a step: {plain:.3f} s, with a network {patched:.3f} s, ratio {patched / plain:.3f}")


def _steps(unet: UNet, device: Device, latent: int, made: list[Tensor | None], rounds: int) -> dict[str, float]:
    """Seconds of a step at (1, 4, latent, latent) with the weights as they are, and with those that were made."""
    modules = _targets(unet)
    own = [module.weight for module in modules]
    patched = [nn.Parameter(_like(weight, new), requires_grad=False) for weight, new in zip(own, made, strict=True)]
    x, t = device.place(torch.randn(1, 4, latent, latent)), torch.tensor([500.0], device=device.device)
    context = device.place(torch.randn(1, 77, unet.config.context_dim))

    def step(weights: Sequence[Any]) -> Tensor:
        for module, weight in zip(modules, weights, strict=True):
            module.weight = weight
        return unet(x, t, context)  # type: ignore[no-any-return]

    return interleaved({"plain": lambda: step(own), "patched": lambda: step(patched)}, rounds)


def _like(weight: Tensor, made: Tensor | None) -> Tensor:
    assert made is not None
    return torch.empty_like(weight).copy_(made)


def _targets(unet: UNet) -> list[nn.Linear | nn.Conv2d]:
    """What kohya trains by default: the linear layers of attention, and the projections around it."""
    return [
        module
        for module in unet.modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ]


def _lora(weight: Tensor) -> Change:
    up, down = torch.randn(len(weight), RANK), torch.randn(RANK, weight[0].numel())
    down = down.reshape(RANK, *weight.shape[1:])
    return Change(LORA, {"lora_up.weight": up.half(), "lora_down.weight": down.half(), "alpha": torch.tensor(16.0)})


def _no_misfit(step: Step) -> None:
    raise AssertionError(f"{step.change.kind.name} does not fit")
