"""Networks for faces against independent outputs for the same weights, their decoding in closed form, their files.

GFPGAN and CodeFormer: spandrel 0.4.2 and spandrel-extra-arches 0.2.0. RetinaFace: facexlib 0.3.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.checkpoints.faces import load_detector, load_restorer
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn import codeformer, gfpgan, retinaface

CPU = Device(torch.device("cpu"), torch.float32)
Seeded = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
Picture = Callable[[int, int], Tensor]

GFPGAN = gfpgan.GFPGANConfig((64, 64, 64, 64), style=16)
# Every thirteenth pixel for a face of 32x32, colour by colour.
GFPGAN_OUTPUT = [
    [0.0086, -0.5062, -0.3431, -0.3354, -0.5056, -0.1171, -0.0554, -0.5844, -0.2915],
    [-0.0286, 0.043, -0.042, -0.414, -0.4727, -0.5041, -0.388, -0.023, -0.6273],
    [-0.0138, 0.5332, 0.4461, -0.0434, 0.4522, 0.0262, 0.05, 0.3628, 0.0464],
]

CODEFORMER = codeformer.CodeFormerConfig((32, 64), 16, codes=16, width=16, layers=2, fused=(32,))
# Every twenty-first pixel for a face of 32x32, colour by colour, by weight.
CODEFORMER_OUTPUT = {
    0.0: [[-0.0413, 0.0681, 0.1499, 0.3773], [0.0583, -0.1172, -0.0804, 0.2545], [-0.0464, -0.3584, -0.222, -0.1694]],
    0.5: [[0.1019, 0.0423, 0.1424, 0.4093], [0.1082, 0.2207, 0.0282, 0.0301], [-0.0818, -0.1653, -0.2703, -0.3489]],
    1.0: [[0.1061, 0.0334, 0.133, 0.3958], [0.1151, 0.2333, 0.0324, 0.0204], [-0.0881, -0.1703, -0.2761, -0.3545]],
}

RETINAFACE = retinaface.RetinaFaceConfig(8, (1, 2, 1, 1), 68)
# For a picture of 97x64: number of the anchor, then score, box and points.
RETINAFACE_OUTPUT = {
    0: [
        0.4174,
        -3.8341,
        -3.8688,
        11.8923,
        11.8317,
        3.9425,
        4.0778,
        4.185,
        4.0293,
        4.1585,
        3.818,
        3.7953,
        3.9098,
        3.8065,
        4.1362,
    ],
    37: [
        0.5479,
        27.7298,
        -4.0857,
        60.2613,
        28.1119,
        43.8376,
        12.4621,
        43.3469,
        11.3466,
        43.943,
        11.9966,
        43.7939,
        11.5675,
        44.3144,
        12.2019,
    ],
    150: [
        0.4162,
        76.1647,
        36.1238,
        91.8807,
        51.8518,
        83.9187,
        44.0821,
        84.2114,
        44.0238,
        84.1538,
        43.8192,
        83.7972,
        43.9012,
        83.8307,
        44.1439,
    ],
}


def written(folder: Path, state: Mapping[str, Tensor], wrapper: str = "params_ema") -> Path:
    torch.save({wrapper: dict(state)} if wrapper else dict(state), folder / "faces.pth")
    return folder / "faces.pth"


def test_a_gfpgan_file_gives_spandrels_face(tmp_path: Path, seeded: Seeded, picture: Picture) -> None:
    trained = {f"stylegan_decoder.style_mlp.{n}.weight": torch.zeros(16, 16) for n in (1, 3)}
    trained |= {"toRGB.0.weight": torch.zeros(3, 32, 1, 1), "toRGB.0.bias": torch.zeros(3)}
    state = seeded(gfpgan.GFPGAN(GFPGAN).state_dict())
    net = load_restorer(written(tmp_path, state | trained), CPU)
    assert isinstance(net, gfpgan.GFPGAN)
    assert net.config == GFPGAN
    assert net.size == 32
    with torch.no_grad():
        got = net(picture(32, 32) * 2 - 1)[0]
    torch.testing.assert_close(got[:, ::13, ::13].flatten(1), torch.tensor(GFPGAN_OUTPUT), rtol=1e-4, atol=1e-4)


def test_a_modulated_convolution_is_one_with_weights_of_its_own_for_each_style() -> None:
    """StyleGAN2's own words: weights times the style, each output channel's then brought to length 1."""
    torch.manual_seed(0)
    conv = gfpgan.ModulatedConv(5, 4, 3, style=6)
    nn.init.normal_(conv.weight)
    x, style = torch.randn(2, 5, 7, 7), torch.randn(2, 6)
    for n in range(2):
        kernel = conv.weight[0] * conv.modulation(style[n])[None, :, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = nn.functional.conv2d(x[n : n + 1], kernel, padding=1)
        torch.testing.assert_close(conv(x, style)[n : n + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_codeformer_file_gives_spandrels_face(
    tmp_path: Path, seeded: Seeded, picture: Picture, weight: float
) -> None:
    net = load_restorer(written(tmp_path, seeded(codeformer.CodeFormer(CODEFORMER).state_dict())), CPU)
    assert isinstance(net, codeformer.CodeFormer)
    assert net.config == CODEFORMER
    with torch.no_grad():
        got = net(picture(32, 32) * 2 - 1, weight)[0]
    expected = torch.tensor(CODEFORMER_OUTPUT[weight])
    torch.testing.assert_close(got[:, ::21, ::21].flatten(1), expected, rtol=1e-4, atol=1e-4)


def test_layers_of_the_published_codeformer_have_the_files_numbers() -> None:
    """In the paper's code: fused after encoder blocks 5, 8, 11, 14 and generator blocks 9, 12, 15, 18."""
    with torch.device("meta"):
        net = codeformer.CodeFormer(codeformer.CodeFormerConfig())
    assert net.size == 512
    assert {side: net.encoder.last[side] for side in (256, 128, 64, 32)} == {256: 5, 128: 8, 64: 11, 32: 14}
    assert {side: block for block, side in net.generator.first.items() if side < 512} == {
        32: 9,
        64: 12,
        128: 15,
        256: 18,
    }
    assert (len(net.encoder.blocks), len(net.generator.blocks)) == (25, 25)


def test_colours_are_those_of_the_other_picture(picture: Picture) -> None:
    other = picture(9, 7) * 3 + 1
    got = codeformer.in_the_colours_of(torch.randn(1, 3, 8, 8), other)
    torch.testing.assert_close(got.mean((2, 3)), other.mean((2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.std((2, 3)), other.std((2, 3)), rtol=1e-4, atol=1e-5)


def test_a_retinaface_file_gives_facexlibs_scores_boxes_and_points(
    tmp_path: Path, seeded: Seeded, picture: Picture
) -> None:
    state = {f"module.{key}": tensor for key, tensor in seeded(retinaface.RetinaFace(RETINAFACE).state_dict()).items()}
    net = load_detector(written(tmp_path, state, ""), CPU)
    assert net.config == RETINAFACE
    with torch.no_grad():
        scores, boxes, points = net(retinaface.prepared(picture(64, 97) * 255))
    for number, expected in RETINAFACE_OUTPUT.items():
        got = torch.cat((scores[0, number, None], boxes[0, number], points[0, number].flatten()))
        torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-3)


def test_anchors_stand_in_the_middle_of_their_squares() -> None:
    found = retinaface.anchors(20, 33).tolist()
    assert len(found) == 2 * (3 * 5 + 2 * 3 + 1 * 2)
    assert found[:4] == [[4, 4, 16], [4, 4, 32], [12, 4, 16], [12, 4, 32]]
    assert found[10][:2] == [4, 12]
    assert found[30:32] == [[8, 8, 64], [8, 8, 128]]
    assert found[-1] == [48, 16, 512]


def test_numbers_of_the_heads_are_read_as_they_are_trained() -> None:
    """Deng et al.: centres move by a tenth of the anchor, sizes are exponents of a fifth."""
    places = torch.tensor([[100.0, 60.0, 32.0]])
    boxes, points = torch.tensor([[1.0, -2.0, 5.0, 0.0]]), torch.arange(10.0)[None]
    box, five = retinaface.decoded(places, boxes, points)
    width, height = 32 * torch.e, 32.0
    x, y = 100 + 3.2, 60 - 6.4
    expected = torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])
    torch.testing.assert_close(box, expected)
    assert five[0].tolist() == [
        [pytest.approx(100 + 3.2 * 2 * n), pytest.approx(60 + 3.2 * (2 * n + 1))] for n in range(5)
    ]


def test_of_boxes_that_cover_each_other_the_best_stays() -> None:
    boxes = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 9], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]], dtype=torch.float32
    )
    scores = torch.tensor([0.9, 0.95, 0.8, 0.5, 0.2])
    assert retinaface.without_doubles(boxes, scores) == [1, 2, 3]
    assert retinaface.without_doubles(boxes, scores, overlap=0.95) == [1, 0, 2, 3]
    assert retinaface.without_doubles(boxes[:0], scores[:0]) == []


@pytest.mark.parametrize(
    ("make", "loader", "says"),
    [
        (lambda state: {"a": torch.zeros(1)}, load_restorer, "of a family that is not read here"),
        (lambda state: state, load_detector, "it finds no faces"),
        (lambda state: state | {"final_conv.weight": torch.zeros(2)}, load_restorer, "do not fit each other"),
        (
            lambda state: {k: v for k, v in state.items() if k != "final_linear.bias"},
            load_restorer,
            "do not fit each other",
        ),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, seeded: Seeded, make: Any, loader: Any, says: str
) -> None:
    state = seeded(gfpgan.GFPGAN(GFPGAN).state_dict())
    with pytest.raises(CheckpointError, match=says) as raised:
        loader(written(tmp_path, make(state)), CPU)
    assert "faces.pth" in str(raised.value)
    assert raised.value.field == "face_restorer"
