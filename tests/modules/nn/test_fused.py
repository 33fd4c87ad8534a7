"""Layers in one pass: the plain forms against the layers one by one, and the kernels of a card against float64."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.devices import choose
from modules.nn import fused
from modules.nn.configs import UNetConfig, VAEConfig
from modules.nn.unet import UNet
from modules.nn.vae import VAE

GLOBALS = {"Any", "Tensor", "torch", "ROWS", "CHANNELS"}
"""Names of the kernels' file that a compiled function cannot read."""
SMALL = UNetConfig(model_channels=32, channel_mult=(1, 2), transformer_depth=(1, 1), context_dim=16, num_heads=2)
WIDE = UNetConfig(
    model_channels=32, channel_mult=(1, 2), transformer_depth=(0, 2), context_dim=16, head_channels=32, linear_proj=True
)


def made(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    network.requires_grad_(False).eval()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def fusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fused forms where otherwise the layers go one by one."""
    with torch.inference_mode():
        monkeypatch.setattr(fused, "suits", lambda x: True)
        yield


def latents(n: int, side: int = 8) -> Tensor:
    return torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(1)).to(
        memory_format=torch.channels_last
    )


def states(n: int) -> Tensor:
    return torch.randn(n, 5, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["convolutions", "linear"])
@pytest.mark.parametrize("side", [8, 7])
def test_fused_unet_answers_what_its_layers_answer(
    config: UNetConfig, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = made(UNet(config))
    x, t, context = latents(2, side), torch.tensor([999.0, 3.5]), states(2)
    with torch.inference_mode():
        expected = unet(x, t, context)
        monkeypatch.setattr(fused, "suits", lambda x: True)
        assert torch.allclose(unet(x, t, context), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fuse", [False, True])
def test_what_all_texts_share_is_computed_once_and_gives_the_same(fuse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = made(UNet(SMALL))
    assert isinstance(unet, UNet)
    x, context = latents(2), states(6)
    monkeypatch.setattr(fused, "suits", lambda x: fuse)
    rows: list[int] = []
    with torch.inference_mode():
        emb, text = unet.embed(torch.tensor([500.0])).expand(6, -1), unet.text_keys(context)
        expected = unet.run(x.repeat(3, 1, 1, 1), emb, text)
        own = F.conv2d
        monkeypatch.setattr(F, "conv2d", lambda x, *rest: (rows.append(len(x)), own(x, *rest))[1])  # type: ignore[func-returns-value]
        shared = unet.run(x, emb, text, 3)
    assert torch.allclose(shared, expected, atol=1e-4, rtol=1e-4)
    if fuse:
        # Before the first cross-attention there are the input's convolution and the two of the first block.
        assert rows[:3] == [2, 2, 2]
        assert set(rows[3:]) == {6}


def test_fused_autoencoder_answers_what_its_layers_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = made(VAE(VAEConfig(channels=32, channel_mult=(1, 2))))
    assert isinstance(vae, VAE)
    with torch.inference_mode():
        expected, image = vae.decode(latents(2)), torch.rand(1, 3, 16, 16)
        means = vae.encode(image)[0]
        monkeypatch.setattr(fused, "suits", lambda x: True)
        assert torch.allclose(vae.decode(latents(2)), expected, atol=1e-4, rtol=1e-4)
        assert torch.allclose(vae.encode(image)[0], means, atol=1e-4, rtol=1e-4)


def test_a_processor_and_gradients_keep_the_layers_as_they_are() -> None:
    assert not fused.suits(torch.zeros(1, dtype=torch.float16))
    with torch.no_grad():
        assert not fused.suits(torch.zeros(1, dtype=torch.bfloat16))
        assert fused.suits(torch.zeros(1, dtype=torch.float16, device="meta"))
        assert not fused.suits(torch.zeros(1, device="meta"))
    assert not fused.suits(torch.zeros(1, dtype=torch.float16, device="meta"))


def test_hooks_are_called_though_fusing_would_pass_them_by(fusing: None) -> None:
    unet = made(UNet(SMALL))
    assert isinstance(unet, UNet)
    called: list[nn.Module] = []
    block = unet.input_blocks[1][0]  # type: ignore[index]
    handle = block.in_layers[0].register_forward_hook(lambda module, *_: called.append(module))
    unet(latents(1), torch.tensor([1.0]), states(1))
    assert called == [block.in_layers[0]]
    handle.remove()
    unet(latents(1), torch.tensor([1.0]), states(1))
    assert len(called) == 1
    block.out_layers[3].forward = lambda x: (called.append(block), torch.zeros_like(x))[1]  # type: ignore[func-returns-value]
    unet(latents(1), torch.tensor([1.0]), states(1))
    assert len(called) == 2


def test_layers_of_another_class_are_not_passed_by() -> None:
    class Packed(nn.Linear):
        pass

    assert fused.Layers(nn.Sequential(nn.Linear(2, 2))).untouched()
    assert not fused.Layers(nn.Sequential(Packed(2, 2))).untouched()
    assert not fused.untouched(Packed(2, 2))


def test_group_norm_adds_what_a_convolution_left_out(fusing: None) -> None:
    norm = nn.GroupNorm(4, 8)
    x, shift, bias = torch.randn(2, 8, 5, 3), torch.randn(2, 8), torch.randn(8)
    expected = F.silu(norm(x + shift[:, :, None, None] + bias[:, None, None]))
    assert torch.allclose(fused.group_norm(norm, x, silu=True, shift=shift, conv_bias=bias), expected, atol=1e-5)


def test_kernels_have_no_annotations_but_those_of_their_constants() -> None:
    """Triton compiles annotations too, and knows no name but its own."""
    tree = ast.parse((Path(fused.__file__).parent / "triton_kernels.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    kernels = [f for f in functions if any(ast.unparse(d) == "triton.jit" for d in f.decorator_list)]
    assert len(kernels) == 6
    for kernel in kernels:
        arguments = kernel.args.args + kernel.args.kwonlyargs
        found = {ast.unparse(argument.annotation) for argument in arguments if argument.annotation}
        assert found <= {"tl.constexpr"}, kernel.name
        assert kernel.returns is None, kernel.name
        names = {node.id for node in ast.walk(kernel) if isinstance(node, ast.Name)}
        assert not names & GLOBALS, kernel.name


@pytest.mark.gpu
class TestOnACard:
    """The kernels themselves, whose every number is compared with float64."""

    @pytest.fixture(autouse=True)
    def _card(self) -> Iterator[None]:
        if not torch.cuda.is_available():
            pytest.skip("there is no card")
        torch.manual_seed(0)
        with torch.inference_mode():
            yield

    @pytest.mark.parametrize("dtype", fused.HALVES, ids=str)
    @pytest.mark.parametrize(
        "shape", [(2, 320, 9, 7), (3, 64, 16, 16), (1, 960, 8, 8), (1, 96, 70, 70), (2, 128, 1, 1)]
    )
    def test_group_norm(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        c = shape[1]
        norm = nn.GroupNorm(32, c).to("cuda:0", dtype)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        x = (torch.randn(shape, device="cuda:0") * 2 + 3).to(dtype).contiguous(memory_format=torch.channels_last)
        shift, bias = (torch.randn(n, device="cuda:0").to(dtype) for n in ((1, c), (c,)))
        moved = x.double() + shift.double()[:, :, None, None] + bias.double()[:, None, None]
        expected = F.silu(F.group_norm(moved, 32, norm.weight.double(), norm.bias.double(), norm.eps))
        found = fused.group_norm(norm, x, silu=True, shift=shift.expand(shape[0], -1), conv_bias=bias)
        close(found, expected)
        assert torch.equal(found[:1], fused.group_norm(norm, x[:1], silu=True, shift=shift, conv_bias=bias))

    @pytest.mark.parametrize("dtype", fused.HALVES, ids=str)
    def test_the_others(self, dtype: torch.dtype) -> None:
        x = torch.randn(3, 5, 2560, device="cuda:0").to(dtype)
        value, gate = x.double().chunk(2, dim=-1)
        close(fused.geglu(x), value * F.gelu(gate))
        layer = nn.LayerNorm(320).to("cuda:0", dtype)
        x, delta = (torch.randn(2, 7, 320, device="cuda:0").to(dtype) for _ in range(2))
        total, normed = fused.add_layer_norm(layer, x, delta)
        assert torch.equal(total, x + delta)
        close(normed, F.layer_norm((x + delta).double(), (320,), eps=layer.eps))
        a, b = (torch.randn(2, 64, 9, 7, device="cuda:0").to(dtype) for _ in range(2))
        bias = torch.randn(64, device="cuda:0").to(dtype)
        close(fused.add_bias(a, b, bias), a.double() + b.double() + bias.double()[:, None, None])

    @pytest.mark.parametrize("config", [SMALL, WIDE], ids=["convolutions", "linear"])
    def test_a_whole_unet_is_as_near_to_float32_as_its_layers_are(
        self, config: UNetConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unet, device = made(UNet(config)), choose("cuda", "float16")
        x, t, context = latents(2), torch.tensor([999.0, 3.5]), states(2)
        exact = unet(x, t, context)
        unet = device.prepare(unet)
        arguments = device.place(x), t.to(device.device), device.place(context)
        near = (unet(*arguments).cpu().float() - exact).norm()
        monkeypatch.setattr(fused, "suits", lambda x: False)
        plain = (unet(*arguments).cpu().float() - exact).norm()
        assert near < 1.5 * plain + 1e-3 * exact.norm()


def close(found: Tensor, expected: Tensor) -> None:
    """Within one rounding to the format of ``found``."""
    step = torch.finfo(found.dtype).eps
    error = (found.double() - expected).abs()
    assert (error <= step * expected.abs() + 2 * step).all(), error.max()
