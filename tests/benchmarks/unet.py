"""One denoising step and one decoding at SD1.5's full size, random weights, beside diffusers' classes in one run."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from modules.devices import choose
from modules.nn.configs import UNetConfig, VAEConfig
from modules.nn.unet import UNet
from modules.nn.vae import VAE
from tests.benchmarks.clock import interleaved


def main() -> None:
    compare(latent=64, rounds=3)


def compare(latent: int, rounds: int) -> None:
    """Prints seconds and our ratio to diffusers for conditional + unconditional in one call, in the device's dtype."""
    device = choose()
    print(f"{device.describe()}, {latent * 8}x{latent * 8}")
    torch.manual_seed(0)
    ours, our_vae = device.prepare(UNet(UNetConfig()).eval()), device.prepare(VAE(VAEConfig()).eval())
    channels = (320, 640, 1280, 1280)
    peer = device.prepare(UNet2DConditionModel(block_out_channels=channels, cross_attention_dim=768).eval())
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
    peer_vae = device.prepare(AutoencoderKL(**kinds, **sizes).eval())
    x, z = device.place(torch.randn(2, 4, latent, latent)), device.place(torch.randn(1, 4, latent, latent))
    context, t = device.place(torch.randn(2, 77, 768)), torch.tensor([500.0, 500.0], device=device.device)
    with torch.inference_mode():
        emb, text = ours.embed(t), ours.text_keys(context)
        steps = interleaved(
            {"ours": lambda: ours.run(x, emb, text), "diffusers": lambda: peer(x, t, encoder_hidden_states=context)},
            rounds,
        )
        decodes = interleaved({"ours": lambda: our_vae.decode(z), "diffusers": lambda: peer_vae.decode(z)}, rounds)
    for what, times in (("UNet step", steps), ("VAE decode", decodes)):
        ratio = times["ours"] / times["diffusers"]
        print(f"{what}: {times['ours']:.3f} s, diffusers {times['diffusers']:.3f} s, ratio {ratio:.2f}")
