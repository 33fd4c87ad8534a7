"""Steps and decodings at the full sizes of SD1.5 and SDXL, random weights, beside diffusers' classes in one run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from modules.devices import Device, choose
from modules.nn.configs import UNetConfig, VAEConfig
from modules.nn.unet import UNet
from modules.nn.vae import VAE
from tests.benchmarks.card import DIFFUSERS_SD15, DIFFUSERS_SDXL, SD15, SDXL, diffusers_call, new
from tests.benchmarks.clock import interleaved

DIFFUSERS_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}


def main() -> None:
    device = choose()
    print(device.describe())
    compare(device, latent=64, rounds=3)


def compare(device: Device, latent: int, rounds: int) -> None:
    """Prints seconds and our ratio to diffusers, in the device's number format: a step is the conditional and the
    unconditional call in one.
    """
    with torch.inference_mode():
        for name, config, peer in (("SD1.5", SD15, DIFFUSERS_SD15), ("SDXL", SDXL, DIFFUSERS_SDXL)):
            report(f"{name} UNet step, {latent * 8}x{latent * 8}", steps(device, config, peer, latent), rounds)
        report(f"VAE decode, {latent * 8}x{latent * 8}", decodes(device, latent), rounds)


def report(what: str, ways: dict[str, Callable[[], Any]], rounds: int) -> None:
    times = interleaved(ways, rounds)
    ours, peer = times["ours"], times["diffusers"]
    print(f"{what}: {ours:.3f} s, diffusers {peer:.3f} s, ratio {ours / peer:.2f}", flush=True)


def steps(
    device: Device, config: UNetConfig, peer_config: Mapping[str, Any], latent: int
) -> dict[str, Callable[[], Any]]:
    ours = new(UNet, config, device)
    with torch.device("meta"):
        peer = UNet2DConditionModel(**peer_config).eval()
    lend(ours, peer, device)
    x = device.place(torch.randn(2, 4, latent, latent))
    context, t = device.place(torch.randn(2, 77, config.context_dim)), torch.full((2,), 500.0, device=device.device)
    vector = device.place(torch.randn(2, config.vector_dim)) if config.vector_dim else None
    text = ours.text_keys(context)
    return {
        "ours": lambda: ours.run(x, ours.embed(t, vector), text),
        "diffusers": diffusers_call(peer, device, 1, latent),
    }


def lend(ours: nn.Module, peer: nn.Module, device: Device) -> None:
    """Give a network without weights those of another that have the same shapes, so that two of SDXL's size fit into
    memory; what they say does not matter here."""
    pool: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in ours.parameters():
        pool[parameter.shape].append(parameter.data)
    for module in peer.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            same = pool[parameter.shape]
            data = same.pop() if same else device.weight(torch.randn(parameter.shape) * 0.02)
            setattr(module, name, nn.Parameter(data, requires_grad=False))


def decodes(device: Device, latent: int) -> dict[str, Callable[[], Any]]:
    ours, peer = new(VAE, VAEConfig(), device), new(AutoencoderKL, None, device, **DIFFUSERS_VAE)
    z = device.place(torch.randn(1, 4, latent, latent))
    return {"ours": lambda: ours.decode(z), "diffusers": lambda: peer.decode(z)}
