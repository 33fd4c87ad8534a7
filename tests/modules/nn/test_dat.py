"""DAT against spandrel 0.4.2's outputs for the same weights, its windows against their closed forms, and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules.checkpoints.upscalers import load
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn import dat

CPU = Device(torch.device("cpu"), torch.float32)
Seeded = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

MEDIUM = dat.DATConfig(32, (4, 1), (4, 2), (2, 4), 64, scale=2)
LIGHT = dat.DATConfig(32, (3,), (2,), (4, 8), 64, scale=3, end="pixelshuffledirect", three_convs=True)
# Every seventh, every thirteenth pixel of spandrel's output for a 9x14 picture, colour by colour.
MEDIUM_OUTPUT = [
    [-1.7722, 5.9662, -5.7564, 7.2762, -13.3329, 6.1615, -27.9829, -2.0158, -2.5628, 3.2045, 6.1124, 7.0293],
    [-0.9607, 5.8913, -5.685, 3.0247, -1.6232, -11.4437, -7.0217, -10.5738, -6.8468, 13.8025, -8.7576, 6.6553],
    [-5.9822, 2.5337, 2.4803, 4.6457, 1.5275, 10.5661, 16.8564, 26.0349, -8.2609, -1.9944, 2.5051, -2.6232],
]
LIGHT_OUTPUT = [
    [0.7746, 0.8378, 0.7032, 0.8749, 0.9207, 0.2999, 0.7587, 0.9256, 0.1608, 0.7178, 0.1898, 0.9521],
    [0.0893, 0.9729, -0.0828, 0.2724, 0.4259, 0.9074, 0.611, -0.4322, 0.4872, 0.741, 0.6691, 0.2813],
    [1.1698, 0.814, 0.7535, 1.0674, 0.8832, 1.0892, -0.1373, 0.3492, 0.4643, 0.3131, 0.4558, 0.278],
]


def in_file(config: dat.DATConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With what a file keeps beside the weights: displacements and indices of each window, masks of shifted ones."""
    state = dict(weights)
    for key in weights:
        if key.endswith("pos.pos_proj.weight"):
            attn = key.removesuffix("pos.pos_proj.weight")
            window = config.windows[int(attn.split(".")[-2])]
            state[f"{attn}rpe_biases"] = dat.ways(window).float()
            state[f"{attn}relative_position_index"] = dat.displacements(window)
    state["layers.0.blocks.2.attn.attn_mask_0"] = dat.shift_mask(16, 16, config.window)
    return state


@pytest.mark.parametrize(
    ("config", "step", "expected"), [(MEDIUM, 7, MEDIUM_OUTPUT), (LIGHT, 13, LIGHT_OUTPUT)], ids=["medium", "light"]
)
def test_a_file_is_recognised_and_gives_spandrels_output(
    tmp_path: Path,
    seeded: Seeded,
    picture: Callable[[int, int], Tensor],
    config: dat.DATConfig,
    step: int,
    expected: list[list[float]],
) -> None:
    state = in_file(config, seeded(dat.DAT(config).state_dict()))
    torch.save({"params": state}, tmp_path / "DAT.pth")
    net = load(tmp_path / "DAT.pth", CPU)
    assert isinstance(net, dat.DAT)
    assert net.config == config
    with torch.no_grad():
        got = net(picture(9, 14))
    assert got.shape == (1, 3, 9 * config.scale, 14 * config.scale)
    torch.testing.assert_close(got[0, :, ::step, ::step].flatten(1), torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [(2, 4), (4, 2), (3, 3)])
def test_a_displacement_leads_from_one_pixel_to_the_other(window: dat.Window) -> None:
    ways, places = dat.ways(window).tolist(), [(y, x) for y in range(window[0]) for x in range(window[1])]
    for i, row in enumerate(dat.displacements(window).tolist()):
        for j, way in enumerate(row):
            assert ways[way] == [places[i][0] - places[j][0], places[i][1] - places[j][1]]


@pytest.mark.parametrize("window", [(2, 4), (4, 2), (4, 4)])
def test_shifted_windows_hide_what_the_roll_brought_from_the_other_edge(window: dat.Window) -> None:
    height, width, (down, right) = 8, 12, window
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(height, width, 2)
    rolled = torch.roll(places, (-(down // 2), -(right // 2)), (0, 1))
    windows = rolled.view(height // down, down, width // right, right, 2).transpose(1, 2).reshape(-1, down * right, 2)
    mask = dat.shift_mask(height, width, window)
    for seen, hidden in zip(windows, mask, strict=True):
        apart = (seen[:, None] - seen[None]).abs()
        near = (apart[..., 0] < down) & (apart[..., 1] < right)
        assert torch.equal(hidden == 0, near)


def test_displacements_that_make_no_window_are_refused(tmp_path: Path, seeded: Seeded) -> None:
    state = in_file(MEDIUM, seeded(dat.DAT(MEDIUM).state_dict()))
    state["layers.0.blocks.0.attn.attns.0.rpe_biases"] = torch.full((21, 2), 1e6)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="do not fit each other"):
        load(tmp_path / "odd.pth", CPU)
