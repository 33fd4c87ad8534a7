"""HAT against spandrel 0.4.2's output for the same weights, its windows against their closed forms, and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from modules.checkpoints.upscalers import load
from modules.devices import Device
from modules.nn import hat, swinir

CPU = Device(torch.device("cpu"), torch.float32)
Seeded = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

CONFIG = hat.HATConfig(12, (2, 1), (2, 3), window=4, overlapping=6, mlp=24, compressed=4, squeezed=3, scale=2)
# Every seventh pixel of spandrel's output for a 9x14 picture, colour by colour.
OUTPUT = [
    [0.3345, 1.2889, 0.6583, 2.4156, 1.1092, 0.7126, 2.3694, 3.3024, 0.1913, 3.8873, 2.1237, 3.9813],
    [2.424, -0.9891, 0.7885, 1.8944, -0.2903, 0.3289, -5.877, -3.8016, -0.5812, 6.4048, 4.1557, 10.8599],
    [0.5883, 2.0834, -2.8199, -1.0059, -2.5111, -1.6272, -7.2599, 3.6731, 1.1703, -3.8934, 2.0105, 1.7476],
]


def test_a_file_is_recognised_and_gives_spandrels_output(
    tmp_path: Path, seeded: Seeded, picture: Callable[[int, int], Tensor]
) -> None:
    indices = {
        "relative_position_index_SA": swinir.displacements(4),
        "relative_position_index_OCA": hat.ways_out(4, 6),
    }
    torch.save({"params_ema": seeded(hat.HAT(CONFIG).state_dict()) | indices}, tmp_path / "HAT.pth")
    net = load(tmp_path / "HAT.pth", CPU)
    assert isinstance(net, hat.HAT)
    assert net.config == CONFIG
    with torch.no_grad():
        got = net(picture(9, 14))
    assert got.shape == (1, 3, 18, 28)
    torch.testing.assert_close(got[0, :, ::7, ::7].flatten(1), torch.tensor(OUTPUT), rtol=1e-4, atol=1e-4)


def test_each_way_out_of_a_window_has_a_row_of_its_own() -> None:
    """The same displacement shares a row, two different ones never do."""
    window, around = 4, 6
    inside = [(y, x) for y in range(window) for x in range(window)]
    outside = [(y, x) for y in range(around) for x in range(around)]
    rows: dict[tuple[int, int], int] = {}
    for i, line in enumerate(hat.ways_out(window, around).tolist()):
        for j, row in enumerate(line):
            way = (outside[j][0] - inside[i][0], outside[j][1] - inside[i][1])
            assert rows.setdefault(way, row) == row
    assert len(set(rows.values())) == len(rows) == (window + around - 1) ** 2
    assert sorted(rows.values()) == list(range((window + around - 1) ** 2))


def test_an_overlapping_window_sees_as_far_as_it_reaches(seeded: Seeded) -> None:
    """A change of one pixel is felt by the windows whose large window holds it, and by no other."""
    attention = hat.OverlappingAttention(CONFIG, 2)
    attention.load_state_dict(seeded(attention.state_dict()))
    x = torch.randn(1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, 4, 4, 0] += 1
    with torch.no_grad():
        felt = (attention(x) - attention(changed)).abs().amax((0, 3)).view(3, 4, 3, 4).amax((1, 3)) > 1e-6
    assert felt.tolist() == [[True, True, False], [True, True, False], [False, False, False]]
