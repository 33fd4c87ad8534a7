"""The networks of upscalers against their formulas, written out without modules, and every layout of their files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.checkpoints.upscalers import load
from modules.devices import Device
from modules.nn import compact, rrdb, swinir

CPU = Device(torch.device("cpu"), torch.float32)
State = dict[str, Tensor]


def random_like(state: State) -> State:
    torch.manual_seed(3)
    return {key: torch.randn(tensor.shape) * 0.1 for key, tensor in state.items()}


def esrgan(state: State, x: Tensor, ups: int) -> Tensor:
    """ESRGAN's generator (arXiv:1809.00219, sec. 3.1) from its weights alone."""

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def dense(name: str, x0: Tensor) -> Tensor:
        x1 = leaky(conv(f"{name}.conv1", x0))
        x2 = leaky(conv(f"{name}.conv2", torch.cat((x0, x1), 1)))
        x3 = leaky(conv(f"{name}.conv3", torch.cat((x0, x1, x2), 1)))
        x4 = leaky(conv(f"{name}.conv4", torch.cat((x0, x1, x2, x3), 1)))
        return conv(f"{name}.conv5", torch.cat((x0, x1, x2, x3, x4), 1)) * 0.2 + x0

    first = conv("conv_first", x)
    h = first
    for block in range(2):
        inner = h
        for part in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{part}", inner)
        h = inner * 0.2 + h
    h = first + conv("conv_body", h)
    for up in range(1, ups + 1):
        h = leaky(conv(f"conv_up{up}", h.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    return conv("conv_last", leaky(conv("conv_hr", h)))


def in_paper(key: str) -> str:
    key = re.sub(r"^body\.(\d+)\.rdb(\d)\.", r"RRDB_trunk.\1.RDB\2.", key)
    names = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
    head, _, tail = key.partition(".")
    return f"{names.get(head, head)}.{tail}"


def numbered(ups: int) -> Callable[[str], str]:
    """The oldest layout, whose numbers depend on how often the size is doubled."""
    names = {"conv_first": 0, "conv_hr": 3 * ups + 2, "conv_last": 3 * ups + 4}
    names |= {f"conv_up{n}": 3 * n for n in range(1, ups + 1)}

    def rename(key: str) -> str:
        key = re.sub(r"^body\.(\d+)\.rdb(\d)\.conv(\d)\.", r"model.1.sub.\1.RDB\2.conv\3.0.", key)
        head, _, tail = key.partition(".")
        if head == "conv_body":
            return f"model.1.sub.2.{tail}"
        return f"model.{names[head]}.{tail}" if head in names else key

    return rename


@pytest.mark.parametrize("ups", [0, 1, 2, 3])
@pytest.mark.parametrize("layout", ["new", "paper", "numbered", "module."])
def test_esrgan_is_its_formula_in_every_layout(tmp_path: Path, ups: int, layout: str) -> None:
    if layout == "paper" and ups != 2:
        ups = min(ups, 2)
    state = random_like(rrdb.RRDBNet(rrdb.RRDBConfig(8, 4, 2, ups)).state_dict())
    layouts: dict[str, Callable[[str], str]] = {
        "new": str,
        "paper": in_paper,
        "numbered": numbered(ups),
        "module.": lambda key: f"module.{key}",
    }
    rename = layouts[layout]
    torch.save({"params": {rename(key): tensor for key, tensor in state.items()}}, tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", CPU)
    x = torch.rand(2, 3, 7, 5)
    got = net(x)
    assert net.scale == 2**ups
    assert got.shape == (2, 3, 7 * 2**ups, 5 * 2**ups)
    torch.testing.assert_close(got, esrgan(state, x, ups), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fold", "scale"), [(2, 2), (4, 1)])
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_real_esrgan_x2_folds_pixels_into_channels(
    tmp_path: Path, fold: int, scale: int, size: tuple[int, int]
) -> None:
    """The x4 network on the picture whose channels are the pixels of each fold x fold square."""
    state = random_like(rrdb.RRDBNet(rrdb.RRDBConfig(8, 4, 2, 2, unshuffle=fold)).state_dict())
    torch.save({"params_ema": state}, tmp_path / "x2.pth")
    net = load(tmp_path / "x2.pth", CPU)
    assert net.scale == scale
    x = torch.rand(1, 3, *size)
    padded = F.pad(x, (0, -size[1] % fold, 0, -size[0] % fold), mode="reflect")
    parts = [padded[:, c, i::fold, j::fold] for c in range(3) for i in range(fold) for j in range(fold)]
    expected = esrgan(state, torch.stack(parts, 1), 2)[..., : size[0] * scale, : size[1] * scale]
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_compact_network_is_its_formula(tmp_path: Path, scale: int) -> None:
    """A chain of convolutions and PReLUs, its channels laid out as pixels, added to the picture enlarged by nearest."""
    state = random_like(compact.CompactNet(compact.CompactConfig(6, 3, scale)).state_dict())
    torch.save(state, tmp_path / "small.pth")
    net = load(tmp_path / "small.pth", CPU)
    x = torch.rand(1, 3, 6, 5)
    h = x
    for n in range(0, 9, 2):
        h = F.conv2d(h, state[f"body.{n}.weight"], state[f"body.{n}.bias"], padding=1)
        if n < 8:
            h = torch.where(h > 0, h, state[f"body.{n + 1}.weight"][None, :, None, None] * h)
    expected = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3).clone()
    for c in range(3):
        for i in range(scale):
            for j in range(scale):
                expected[:, c, i::scale, j::scale] += h[:, c * scale**2 + i * scale + j]
    assert net.scale == scale
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- SwinIR

ENDS = [
    swinir.SwinIRConfig(8, (2, 2), (2, 2), 4, 16, 4, "nearest+conv", between=6),
    swinir.SwinIRConfig(8, (2, 3), (2, 4), 4, 16, 2, "nearest+conv", three_convs=True, between=6),
    swinir.SwinIRConfig(8, (2, 2), (2, 2), 4, 16, 4, "pixelshuffle", between=6),
    swinir.SwinIRConfig(8, (2, 2), (2, 2), 4, 16, 3, "pixelshuffle", between=6),
    swinir.SwinIRConfig(8, (2, 2), (2, 2), 4, 16, 2, "pixelshuffledirect"),
    swinir.SwinIRConfig(8, (2, 2), (2, 2), 4, 16, 1, ""),
]


@pytest.mark.parametrize("config", ENDS, ids=lambda config: f"{config.end}-{config.scale}")
def test_swinir_is_recognised_by_its_shapes(tmp_path: Path, config: swinir.SwinIRConfig) -> None:
    state = random_like(swinir.SwinIR(config).state_dict())
    masks = {
        "layers.0.residual_group.blocks.0.attn.relative_position_index": swinir.displacements(4),
        "layers.0.residual_group.blocks.1.attn_mask": swinir.shift_mask(16, 16, 4),
    }
    torch.save({"params_ema": state | masks}, tmp_path / "swin.pth")
    net = load(tmp_path / "swin.pth", CPU)
    assert isinstance(net, swinir.SwinIR)
    assert net.config == dataclasses.replace(config, between=net.config.between)
    x = torch.rand(1, 3, 6, 9)
    assert net(x).shape == (1, 3, 6 * config.scale, 9 * config.scale)
    whole = F.pad(x, (0, 3, 0, 2), mode="reflect")
    cut = net(whole)[..., : 6 * config.scale, : 9 * config.scale]
    torch.testing.assert_close(net(x), cut, rtol=1e-4, atol=1e-5)


def layer_by_hand(state: State, name: str, x: Tensor, window: int, shift: int, heads: int) -> Tensor:
    """One Swin layer on (h, w, c), pixel by pixel: each looks at those of its own window of the shifted grid."""

    def normed(x: Tensor, which: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.{which}.weight"], state[f"{name}.{which}.bias"])

    height, width, channels = x.shape
    qkv = normed(x, "norm1") @ state[f"{name}.attn.qkv.weight"].T + state[f"{name}.attn.qkv.bias"]
    q, k, v = qkv.chunk(3, -1)
    table, dim = state[f"{name}.attn.relative_position_bias_table"], channels // heads

    def home(place: int) -> int:  # the windows begin at `shift`, so the first and the last are smaller
        return (place - shift) // window

    mixed = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            seen = [(a, b) for a in range(height) for b in range(width) if home(a) == home(i) and home(b) == home(j)]
            for head in range(heads):
                part = slice(head * dim, (head + 1) * dim)
                bias = [table[(i - a + window - 1) * (2 * window - 1) + j - b + window - 1, head] for a, b in seen]
                scores = [q[i, j, part] @ k[a, b, part] / dim**0.5 for a, b in seen]
                weights = torch.softmax(torch.stack(scores) + torch.stack(bias), 0)
                mixed[i, j, part] = sum(
                    (w * v[a, b, part] for w, (a, b) in zip(weights, seen, strict=True)), torch.zeros(dim)
                )
    x = x + mixed @ state[f"{name}.attn.proj.weight"].T + state[f"{name}.attn.proj.bias"]
    hidden = F.gelu(normed(x, "norm2") @ state[f"{name}.mlp.fc1.weight"].T + state[f"{name}.mlp.fc1.bias"])
    return x + hidden @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]


@pytest.mark.parametrize("shift", [0, 2])
def test_a_swin_layer_lets_each_pixel_see_its_window_alone(shift: int) -> None:
    config = swinir.SwinIRConfig(8, (2,), (2,), 4, 16)
    block = swinir.Block(config, 2, shift)
    state = random_like(block.state_dict())
    block.load_state_dict(state)
    x = torch.randn(8, 12, 8)
    expected = layer_by_hand({f"b.{key}": tensor for key, tensor in state.items()}, "b", x, 4, shift, 2)
    with torch.no_grad():
        got = block(x[None], swinir.shift_mask(8, 12, 4))[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
