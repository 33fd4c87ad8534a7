"""Face restoration: the geometry against closed forms, and whole pictures through networks made on the spot."""

from __future__ import annotations

import cmath
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import CheckpointError, UserError
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.nn import codeformer, gfpgan, retinaface
from modules.params.generation import GenerationParams, Init, Mask
from modules.replay import replay_recipe
from modules.restoration.faces import (
    RESTORERS,
    UPRIGHT,
    FaceNetworks,
    Points,
    Similarity,
    best_similarity,
    cut_out,
    file_restorers,
    lay_back,
    restore_each,
    soft_square,
    upright,
)

CPU = Device(torch.device("cpu"), torch.float32)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise, much smoothed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(8))


def levels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def face_at(centre: complex, side: float, turned: float = 0.0) -> Points:
    """The points of a face whose own picture has ``side`` pixels and stands there, turned by an angle."""
    move = Similarity(cmath.rect(side / 512, turned), 0j)
    return tuple(centre + move(point - (256 + 256j)) for point in UPRIGHT)


# ---------------------------------------------------------------------------------------------------------- geometry

number = st.floats(-300, 300)
plane = st.builds(complex, number, number)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), plane)
def test_points_that_were_turned_scaled_and_moved_are_brought_back_exactly(
    scale: float, angle: float, shift: complex
) -> None:
    asked = Similarity(cmath.rect(scale, angle), shift)
    found = best_similarity([asked(point) for point in UPRIGHT], UPRIGHT)
    for point in UPRIGHT:
        assert abs(found(asked(point)) - point) < 1e-6
        assert abs(asked.inverse(asked(point)) - point) < 1e-6


@settings(deadline=None, max_examples=60)
@given(st.lists(plane, min_size=5, max_size=5, unique=True), plane, plane)
def test_no_other_similarity_comes_nearer(points: list[complex], turn: complex, shift: complex) -> None:
    """By least squares: the error is no larger than that of a nearby one."""
    if max(abs(p - q) for p in points for q in points) < 1:
        return

    def error(move: Similarity) -> float:
        return sum(abs(move(p) - q) ** 2 for p, q in zip(points, UPRIGHT, strict=True))

    best = best_similarity(points, UPRIGHT)
    assert error(best) <= error(Similarity(best.turn + turn / 1e4, best.shift + shift / 100)) * (1 + 1e-9) + 1e-6


def test_a_face_that_stands_upright_is_cut_out_pixel_for_pixel() -> None:
    whole = picture(100, 80)
    face = cut_out(whole, upright(face_at(50 + 40j, 64), 64), 64)
    assert np.abs(levels(face) - levels(whole.crop((18, 8, 82, 72)))).max() <= 1


def test_a_face_that_lies_on_its_side_is_set_upright() -> None:
    whole = picture(100, 80)
    face = cut_out(whole, upright(face_at(50 + 40j, 64, cmath.pi / 2), 64), 64)
    turned = whole.crop((18, 8, 82, 72)).transpose(Image.Transpose.ROTATE_90)
    assert np.abs(levels(face) - levels(turned)).max() <= 1


@pytest.mark.parametrize("side", [40, 64, 300])
@pytest.mark.parametrize("turned", [0.0, 0.4])
def test_a_face_laid_back_as_it_was_changes_little(side: float, turned: float) -> None:
    whole = picture(400, 360)
    to_face = upright(face_at(200 + 180j, side, turned), 128)
    back = lay_back(whole, cut_out(whole, to_face, 128), to_face)
    assert np.abs(levels(back) - levels(whole)).max() <= 8


@pytest.mark.parametrize("size", [32, 512])
def test_the_edge_is_soft_and_its_last_pixel_is_nothing(size: int) -> None:
    mask = np.asarray(soft_square(size))
    assert mask[0].max() == mask[-1].max() == mask[:, 0].max() == mask[:, -1].max() == 0
    middle = size // 5
    assert mask[middle:-middle, middle:-middle].min() == 255
    assert np.all(np.diff(mask[size // 2, : size // 2]) >= 0)
    assert np.array_equal(mask, mask.T) and np.array_equal(mask, mask[::-1])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(-40, 240), st.integers(-40, 200), st.floats(12, 150), st.floats(-3.1, 3.1), st.sampled_from((32, 64))
)
def test_only_pixels_of_the_faces_square_change(x: int, y: int, side: float, turned: float, size: int) -> None:
    """Byte for byte, wherever the face is: inside, over the edge of the picture, or beyond it."""
    whole = picture(200, 160)
    points = face_at(complex(x, y), side, turned)
    done = restore_each(whole, [points], lambda face: Image.new("RGB", face.size, "red"), size)
    to_face = upright(points, size)
    across, down = np.meshgrid(np.arange(200) + 0.5, np.arange(160) + 0.5)
    there = to_face.turn * (across + 1j * down) + to_face.shift
    outside = np.maximum(abs(there.real - size / 2), abs(there.imag - size / 2)) > size / 2 + 1e-6
    assert np.array_equal(levels(done)[outside], levels(whole)[outside])
    inner = np.maximum(abs(there.real - size / 2), abs(there.imag - size / 2)) < size * 0.3
    assert np.all(levels(done)[inner] == (255, 0, 0))


def test_without_faces_the_very_same_picture_comes_back_and_with_them_transparency_stays() -> None:
    whole = picture(64, 64)
    assert restore_each(whole, [], lambda face: face, 32) is whole
    whole.putalpha(Image.linear_gradient("L").resize((64, 64)))
    done = restore_each(whole, [face_at(32 + 32j, 40)], lambda face: Image.new("RGB", face.size), 32)
    assert done.mode == "RGBA"
    assert np.array_equal(levels(done.getchannel("A")), levels(whole.getchannel("A")))
    assert done.getpixel((32, 32)) == (0, 0, 0, done.getchannel("A").getpixel((32, 32)))


# ------------------------------------------------------------------------------------------------------------- files


def write_detector(path: Path, *, sure: bool = False) -> None:
    """A tiny detector with random weights, which is sure of nothing; or one that finds one face, at the upper left.

    All weights of the latter are 0 and its biases say the same at every place: a face in the square of 512 pixels, in a
    box so large that the first covers all others.
    """
    torch.manual_seed(0)
    net = retinaface.RetinaFace(retinaface.RetinaFaceConfig(8, (1, 1, 1, 1), 68))
    if sure:
        face = torch.tensor([[p.real - 256, p.imag - 256] for p in UPRIGHT]).flatten() / 512 / retinaface.VARIANCES[0]
        biases = {
            "ClassHead.0": torch.tensor([9.0, 0.0, 9.0, 0.0]),  # no face, no face
            "ClassHead.1": torch.tensor([9.0, 0.0, 9.0, 0.0]),
            "ClassHead.2": torch.tensor([9.0, 0.0, 0.0, 9.0]),
            "BboxHead.2": torch.tensor([0.0] * 6 + [20.0, 20.0]),
            "LandmarkHead.2": torch.cat((torch.zeros(10), face)),
        }
        net.load_state_dict({key: torch.zeros_like(tensor) for key, tensor in net.state_dict().items()})
        net.load_state_dict({f"{head}.conv1x1.bias": bias for head, bias in biases.items()}, strict=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)


def write_gfpgan(path: Path, colour: float) -> None:
    """A tiny one that draws every face in one grey: all weights are 0 but a bias of the last size."""
    net = gfpgan.GFPGAN(gfpgan.GFPGANConfig((8, 8, 8, 8), style=8))
    net.load_state_dict({key: torch.zeros_like(tensor) for key, tensor in net.state_dict().items()})
    net.load_state_dict({"stylegan_decoder.to_rgbs.2.bias": torch.full((1, 3, 1, 1), colour)}, strict=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params_ema": net.state_dict()}, path)


def write_codeformer(path: Path) -> None:
    torch.manual_seed(1)
    net = codeformer.CodeFormer(codeformer.CodeFormerConfig((32, 32), 16, 8, 16, 16, 1, (32,)))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)


def host_of(models_dir: Path) -> Host:
    host = Host()
    there, host.absent_face_restorers = file_restorers(models_dir, FaceNetworks(lambda: CPU))
    for spec in there:
        host.add_face_restorer(spec.name, spec.restore, spec.files)
    return host


def test_a_detector_that_is_sure_of_nothing_leaves_the_very_picture(tmp_path: Path) -> None:
    write_detector(tmp_path / "GFPGAN" / "detection_Resnet50_Final.pth")
    write_gfpgan(tmp_path / "GFPGAN" / "GFPGANv1.4.pth", 1.0)
    whole = picture(90, 60)
    assert host_of(tmp_path).face_restorer("GFPGAN").restore(whole, 0.5) is whole


def test_a_face_that_is_found_is_drawn_anew_within_its_square(tmp_path: Path) -> None:
    """The first anchor of stride 32 is centred at (16, 16), so the square ends at 272. Of 32 pixels 4 are edge."""
    write_detector(tmp_path / "GFPGAN" / "detection_Resnet50_Final.pth", sure=True)
    write_gfpgan(tmp_path / "GFPGAN" / "GFPGANv1.4.pth", 1.0)
    whole = picture(960, 640)
    done = levels(host_of(tmp_path).face_restorer("gfpgan").restore(whole, 0.5))
    assert np.all(done[:199, :199] == 255)
    changed = np.any(done != levels(whole), -1)
    assert not changed[272:].any() and not changed[:, 272:].any()
    assert changed[200:255, 100].all()


def test_codeformers_weight_changes_the_face(tmp_path: Path) -> None:
    write_detector(tmp_path / "Codeformer" / "detection_Resnet50_Final.pth", sure=True)
    write_codeformer(tmp_path / "Codeformer" / "codeformer-v0.1.0.pth")
    spec, whole = host_of(tmp_path).face_restorer("CodeFormer"), picture(400, 300)
    first, second, again = (levels(spec.restore(whole, weight)) for weight in (0.0, 1.0, 0.0))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, levels(whole))


def test_a_face_too_small_to_restore_is_left(tmp_path: Path) -> None:
    """In a picture of 12 pixels the eyes are 2.4 apart."""
    write_detector(tmp_path / "GFPGAN" / "detection_Resnet50_Final.pth", sure=True)
    write_gfpgan(tmp_path / "GFPGAN" / "GFPGANv1.4.pth", 1.0)
    whole = picture(12, 12)
    assert host_of(tmp_path).face_restorer("GFPGAN").restore(whole, 0.5) is whole


@pytest.mark.parametrize(
    ("files", "there", "absent"),
    [
        (
            (),
            (),
            {
                "CodeFormer": "codeformer-v0.1.0.pth is missing in {m}/Codeformer and "
                "detection_Resnet50_Final.pth is missing in {m}/GFPGAN",
                "GFPGAN": "GFPGANv1.4.pth is missing in {m}/GFPGAN and "
                "detection_Resnet50_Final.pth is missing in {m}/GFPGAN",
            },
        ),
        (
            ("GFPGAN/GFPGANv1.3.pth", "facelib/detection_Resnet50_Final.pth"),
            ("GFPGAN",),
            {"CodeFormer": "codeformer-v0.1.0.pth is missing in {m}/Codeformer"},
        ),
        (
            ("CodeFormer/codeformer.pth", "gfpgan/GFPGANv1.4.pth", "Codeformer/detection_Resnet50_Final.pth"),
            ("CodeFormer", "GFPGAN"),
            {},
        ),
        (
            ("GFPGAN/GFPGANv1.4.pth",),
            (),
            {
                "CodeFormer": "codeformer-v0.1.0.pth is missing in {m}/Codeformer and "
                "detection_Resnet50_Final.pth is missing in {m}/GFPGAN",
                "GFPGAN": "detection_Resnet50_Final.pth is missing in {m}/GFPGAN",
            },
        ),
    ],
)
def test_what_is_there_is_listed_and_what_is_not_is_named_with_its_folder(
    tmp_path: Path, files: tuple[str, ...], there: tuple[str, ...], absent: dict[str, str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    host = host_of(tmp_path)
    assert host.face_restorers.names() == there
    assert host.absent_face_restorers == {name: text.format(m=tmp_path.name) for name, text in absent.items()}
    for name in absent:
        with pytest.raises(UserError, match=f"{name} is not installed: .* is missing in") as raised:
            host.face_restorer(name)
        assert raised.value.field == "face_restorer"


def test_of_several_versions_the_usual_one_is_taken_else_the_last(tmp_path: Path) -> None:
    for name in ("GFPGANv1.2.pth", "GFPGANv1.3.pth", "other.pth"):
        (tmp_path / "GFPGAN").mkdir(exist_ok=True)
        (tmp_path / "GFPGAN" / name).touch()
    assert RESTORERS["GFPGAN"].find(tmp_path) == tmp_path / "GFPGAN" / "GFPGANv1.3.pth"
    for name in ("GFPGANv1.4.pth", "GFPGANv1.5.pth"):
        (tmp_path / "GFPGAN" / name).touch()
    assert RESTORERS["GFPGAN"].find(tmp_path) == tmp_path / "GFPGAN" / "GFPGANv1.4.pth"


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    write_detector(tmp_path / "GFPGAN" / "detection_Resnet50_Final.pth", sure=True)
    (tmp_path / "GFPGAN" / "GFPGANv1.4.pth").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(CheckpointError, match=r"GFPGANv1\.4\.pth cannot be used: it is damaged"):
        host_of(tmp_path).face_restorer("GFPGAN").restore(picture(64, 64), 0.5)


# -------------------------------------------------------------------------------------------------------- generation


def engine_in(folder: Path, *, sure: bool) -> Engine:
    """With a tiny model, a detector that is sure of one face or of none, and both restorers."""
    write_tiny_checkpoint(folder / "Stable-diffusion" / "tiny.safetensors")
    write_detector(folder / "GFPGAN" / "detection_Resnet50_Final.pth", sure=sure)
    write_gfpgan(folder / "GFPGAN" / "GFPGANv1.4.pth", 1.0)
    write_codeformer(folder / "Codeformer" / "codeformer-v0.1.0.pth")
    host = host_of(folder)
    register(host)
    store = ModelStore(folder / "Stable-diffusion", CPU, Hashes())
    return Engine(store, host, version="0.0", inputs=InputStore(folder / "inputs"))


def made(engine: Engine, params: GenerationParams, notes: list[str] | None = None) -> Result:
    results: list[Result] = []
    engine.run(params, results.append, RunCallbacks(on_note=(notes if notes is not None else []).append))
    (result,) = results
    return result


PARAMS = GenerationParams(prompt="a fox", width=128, height=128, steps=2, seed=5)


def test_faces_of_a_generated_picture_are_restored_told_and_made_again(tmp_path: Path) -> None:
    """The square of the face ends at 272 of the 640 pixels that the detector saw: at 54 of 128."""
    engine = engine_in(tmp_path, sure=True)
    plain = made(engine, PARAMS)
    asked = PARAMS.changed(restore_faces=True, face_restorer="gfpgan")
    restored = made(engine, asked)
    before, after = levels(plain.image), levels(restored.image)
    assert np.all(after[:38, :38] == 255)
    assert np.array_equal(after[55:], before[55:]) and np.array_equal(after[:, 55:], before[:, 55:])
    assert ", Face restoration: GFPGAN, Size: 128x128" in restored.infotext
    assert "Face restoration" not in plain.infotext
    roles = {file.role: file.name for file in restored.recipe.files}
    assert roles["face restorer"] == "GFPGANv1.4.pth"
    assert roles["face detector"] == "detection_Resnet50_Final.pth"
    assert str(replay_recipe(engine, restored.recipe).verdict) == "identical"
    write_gfpgan(tmp_path / "GFPGAN" / "GFPGANv1.4.pth", 0.5)
    verdict = replay_recipe(engine_in(tmp_path / "other", sure=False), restored.recipe).verdict
    assert str(verdict).startswith("cannot")


def test_codeformers_weight_is_told_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, sure=True)
    usual = made(engine, PARAMS.changed(restore_faces=True))
    other = made(engine, PARAMS.changed(restore_faces=True, code_former_weight=0.0))
    assert "Face restoration: CodeFormer" in usual.infotext and "CodeFormer weight" not in usual.infotext
    assert "CodeFormer weight: 0.0" in other.infotext
    assert usual.recipe.pixels != other.recipe.pixels


def test_a_generated_picture_without_a_face_stays_and_is_said_so(tmp_path: Path) -> None:
    engine, notes = engine_in(tmp_path, sure=False), list[str]()
    assert made(engine, PARAMS.changed(restore_faces=True), notes).recipe.pixels == made(engine, PARAMS).recipe.pixels
    assert notes == ["CodeFormer found no face in the picture"]


def test_what_a_mask_protects_is_kept_from_the_restored_face(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, sure=True)
    assert engine.inputs is not None
    start, mask = picture(128, 128), Image.new("L", (128, 128))
    mask.paste(255, (64, 0, 128, 128))
    keys = [engine.inputs.put(png(image)) for image in (start, mask)]
    init = Init(image=keys[0], mask=Mask(image=keys[1], blur=0))
    done = made(engine, PARAMS.changed(init=init, restore_faces=True, face_restorer="GFPGAN"))
    assert np.array_equal(levels(done.image)[:, :64], levels(start)[:, :64])


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_restorer_that_is_not_there_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, sure=True)
    engine.host = Host()
    register(engine.host)
    engine.host.absent_face_restorers = file_restorers(tmp_path / "none", FaceNetworks(lambda: CPU))[1]
    with pytest.raises(UserError, match=r"CodeFormer is not installed: codeformer-v0\.1\.0\.pth is missing in"):
        made(engine, PARAMS.changed(restore_faces=True))
