"""Upscalers: A1111's sizes, tiles, and networks from files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from modules.builtin import register
from modules.devices import Device
from modules.errors import Cancelled, CheckpointError, UnknownName, UserError
from modules.extension.host import Host
from modules.imaging.tiles import starts
from modules.nn import rrdb
from modules.restoration.upscale import (
    BUILTIN,
    Networks,
    UpscalerSpec,
    Work,
    file_upscalers,
    in_tiles,
    target_size,
    upscale,
)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise, a little smoothed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))


def levels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def networks() -> Networks:
    return Networks(lambda: Device(torch.device("cpu"), torch.float32))


def by_name(name: str) -> UpscalerSpec:
    return next(spec for spec in BUILTIN if spec.name == name)


def counting(turns: list[tuple[int, int]], factor: int) -> UpscalerSpec:
    def enlarge(image: Image.Image, scale: float, work: Work) -> Image.Image:
        turns.append(image.size)
        return image.resize((image.width * factor, image.height * factor), Resampling.NEAREST)

    return UpscalerSpec("counting", enlarge)


# ------------------------------------------------------------------------------------------------------ turns and sizes


def test_built_in_names_are_a1111s_and_come_first() -> None:
    host = Host()
    register(host)
    assert host.upscalers.names() == ("None", "Lanczos", "Nearest")
    with pytest.raises(UnknownName, match="did you mean 'Lanczos'"):
        host.upscalers.get("Lanczoss")


@pytest.mark.parametrize(
    ("factor", "scale", "turns"),
    [(2, 2, 1), (2, 4, 2), (2, 8, 3), (2, 100, 3), (4, 2, 1), (4, 1, 1), (1, 4, 1), (4, 0.5, 0)],
)
def test_a_network_has_as_many_turns_as_the_size_needs_and_at_most_three(factor: int, scale: float, turns: int) -> None:
    seen: list[tuple[int, int]] = []
    result = upscale(counting(seen, factor), picture(16, 24), scale)
    assert result.size == (16 * scale, 24 * scale) if scale >= 1 else (8, 12)
    assert len(seen) == turns
    assert seen == [(16 * factor**n, 24 * factor**n) for n in range(turns)]


def test_lanczos_and_nearest_are_pillows_to_the_factor_and_lanczos_to_the_multiple_of_eight() -> None:
    image = picture(33, 47)
    for name, how in (("Lanczos", Resampling.LANCZOS), ("Nearest", Resampling.NEAREST)):
        expected = image.resize((75, 108), how).resize((72, 104), Resampling.LANCZOS)
        assert np.array_equal(levels(upscale(by_name(name), image, 2.3)), levels(expected))


def test_none_leaves_the_pixels_to_lanczos() -> None:
    image = picture(16, 16)
    assert np.array_equal(
        levels(upscale(by_name("None"), image, 2)), levels(image.resize((32, 32), Resampling.LANCZOS))
    )
    assert np.array_equal(levels(upscale(by_name("None"), image, 1)), levels(image))


def test_transparency_is_enlarged_with_the_picture() -> None:
    image = picture(16, 16)
    image.putalpha(Image.linear_gradient("L").resize((16, 16)))
    result = upscale(by_name("Nearest"), image, 2)
    assert result.mode == "RGBA"
    assert np.array_equal(levels(result)[..., :3], levels(image).repeat(2, 0).repeat(2, 1)[..., :3])
    assert np.array_equal(levels(result)[..., 3], levels(image.getchannel("A").resize((32, 32), Resampling.LANCZOS)))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), 1e5])
def test_senseless_factors_are_one_sentence(scale: float) -> None:
    with pytest.raises(UserError) as raised:
        upscale(by_name("Lanczos"), picture(64, 64), scale)
    assert raised.value.field == "by"


def test_tiny_pictures_do_not_vanish() -> None:
    assert target_size((3, 5), 1) == (8, 8)
    assert upscale(by_name("Nearest"), picture(1, 1), 1.0).size == (8, 8)


# --------------------------------------------------------------------------------------------------------------- tiles


def doubled(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 2, image.height * 2), Resampling.NEAREST)


@pytest.mark.parametrize("size", [(64, 64), (100, 37), (37, 100), (65, 129), (8, 8), (200, 31)])
@pytest.mark.parametrize("work", [Work(32, 8), Work(16, 3), Work(64, 0), Work(0, 8), Work(40, 39)])
def test_a_pointwise_network_gives_the_same_in_tiles_byte_for_byte(size: tuple[int, int], work: Work) -> None:
    image = picture(*size)
    assert np.array_equal(levels(in_tiles(image, 2, doubled, work)), levels(doubled(image)))


def test_a_network_that_sees_one_pixel_further_gives_the_same_in_tiles() -> None:
    """A tile's first column has no share in the result yet, and its last are covered by the next tile."""
    image = picture(150, 90)

    def blur(tile: Image.Image) -> Image.Image:
        return tile.filter(ImageFilter.Kernel((3, 3), [1] * 9))

    assert np.array_equal(levels(in_tiles(image, 1, blur, Work(64, 8))), levels(blur(image)))


def test_overlapping_tiles_fade_into_each_other_linearly() -> None:
    """Two tiles of different grey: the second's share of pixel i of the overlap is i / overlap."""
    greys = iter((0, 200))
    result = in_tiles(
        Image.new("RGB", (56, 32)), 1, lambda tile: Image.new("RGB", tile.size, (next(greys),) * 3), Work(32, 8)
    )
    row = levels(result)[5, :, 0]
    assert row[:24].tolist() == [0] * 24
    assert np.abs(row[24:32] - 200 * np.arange(8) / 8).max() <= 1
    assert row[32:].tolist() == [200] * 24


@pytest.mark.parametrize(("length", "size", "overlap"), [(400, 192, 8), (193, 192, 8), (1000, 64, 16), (100, 33, 32)])
def test_tiles_cover_the_whole_length_with_at_least_the_overlap(length: int, size: int, overlap: int) -> None:
    found = starts(length, size, overlap)
    assert found[0] == 0
    assert found[-1] == length - size
    assert all(after + overlap <= before + size and after > before for before, after in pairwise(found))


def test_tiles_no_larger_than_their_overlap_are_refused() -> None:
    with pytest.raises(UserError, match="larger than their overlap"):
        in_tiles(picture(64, 64), 2, doubled, Work(8, 8))


def test_each_tile_is_told_and_a_stop_comes_at_the_next() -> None:
    told: list[tuple[int, int]] = []
    in_tiles(picture(64, 40), 2, doubled, Work(32, 8, on_tile=lambda *n: told.append(n)))
    assert told == [(n, 6) for n in range(1, 7)]
    seen: list[Image.Image] = []

    def noted(tile: Image.Image) -> Image.Image:
        seen.append(tile)
        return doubled(tile)

    with pytest.raises(Cancelled):
        in_tiles(picture(64, 40), 2, noted, Work(32, 8, cancelled=lambda: True))
    assert len(seen) == 1


# --------------------------------------------------------------------------------------------------------------- files


def write_esrgan(path: Path, doublings: int = 2, seed: int = 0, keys: Callable[[str], str] = str) -> dict[str, Any]:
    """A random network of a few kB; its outputs are around one half."""
    torch.manual_seed(seed)
    net = rrdb.RRDBNet(rrdb.RRDBConfig(features=8, growth=4, blocks=2, doublings=doublings))
    torch.nn.init.constant_(net.conv_last.bias, 0.5)  # type: ignore[arg-type]
    torch.nn.init.normal_(net.conv_last.weight, std=0.3)
    state = net.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params_ema": {keys(key): tensor for key, tensor in state.items()}}, path)
    return state


def test_files_are_listed_under_a1111s_names_and_found_by_their_own(tmp_path: Path) -> None:
    for name in (
        "ESRGAN/4x-UltraSharp.pth",
        "ESRGAN/sub/Second.safetensors",
        "RealESRGAN/RealESRGAN_x4plus.pth",
        "SwinIR/4x-UltraSharp.pth",
        "DAT/DAT_x4.pth",
        "HAT/HAT-L_SRx4.pth",
        "ESRGAN/notes.txt",
        "Stable-diffusion/model.safetensors",
        "ESRGAN/lanczos.pt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    host = Host()
    register(host)
    for spec in file_upscalers(tmp_path, networks()):
        host.add_upscaler(spec)
    assert host.upscalers.names()[3:] == (
        "4x-UltraSharp",
        "lanczos (ESRGAN/lanczos.pt)",
        "Second",
        "R-ESRGAN 4x+",
        "4x-UltraSharp (SwinIR/4x-UltraSharp.pth)",
        "DAT x4",
        "HAT-L_SRx4",
    )
    for name in ("R-ESRGAN 4x+", "RealESRGAN_x4plus", "realesrgan_x4plus.PTH"):
        assert host.upscalers.get(name).path == tmp_path / "RealESRGAN" / "RealESRGAN_x4plus.pth"
    assert host.upscalers.get("lanczos").path is None


def test_no_folder_is_no_files(tmp_path: Path) -> None:
    assert list(file_upscalers(tmp_path / "none", networks())) == []


def test_a_file_enlarges_as_its_network_by_hand(tmp_path: Path) -> None:
    state = write_esrgan(tmp_path / "ESRGAN" / "tiny.pth")
    (spec,) = file_upscalers(tmp_path, networks())
    image = picture(24, 16)
    net = rrdb.RRDBNet(rrdb.RRDBConfig(features=8, growth=4, blocks=2))
    net.load_state_dict(state)
    with torch.no_grad():
        x = torch.from_numpy(levels(image)).permute(2, 0, 1)[None] / 255.0
        expected = net(x).clamp(0, 1).mul(255)[0].permute(1, 2, 0).numpy()
    assert expected.std() > 5, "a picture with nothing in it proves nothing"
    assert np.abs(levels(upscale(spec, image, 4)) - expected).max() <= 0.51
    smaller = Image.fromarray(expected.round().astype(np.uint8)).resize((48, 32), Resampling.LANCZOS)
    assert np.abs(levels(upscale(spec, image, 2)) - levels(smaller)).max() <= 1


def test_a_network_in_tiles_agrees_with_itself_away_from_the_seams(tmp_path: Path) -> None:
    write_esrgan(tmp_path / "ESRGAN" / "tiny.pth", doublings=1)
    (spec,) = file_upscalers(tmp_path, networks())
    image = picture(96, 48)
    whole = levels(upscale(spec, image, 2, Work(0)))
    tiled = levels(upscale(spec, image, 2, Work(64, 32)))
    apart = np.abs(whole - tiled).max((0, 2))  # by column; the second tile begins at 32, the first ends at 64
    assert apart[:60].max() <= 1
    assert apart[134:].max() == 0
    assert np.abs(whole - tiled).mean() < 0.5


def test_the_network_is_loaded_once_and_again_when_the_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "ESRGAN" / "tiny.pth"
    write_esrgan(path)
    (spec,) = file_upscalers(tmp_path, networks())
    image = picture(8, 8)
    first = levels(upscale(spec, image, 4))
    write_esrgan(path, seed=1)
    os.utime(path, ns=(1, 1))
    assert not np.array_equal(first, levels(upscale(spec, image, 4)))


class _Hostile:
    def __reduce__(self) -> Any:
        return (print, ("this must never be printed",))


def test_broken_and_foreign_files_are_one_sentence_with_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ESRGAN"
    folder.mkdir()
    (folder / "cut.pth").write_bytes(b"PK\x03\x04 and nothing else")
    (folder / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    torch.save({"a": _Hostile()}, folder / "hostile.pth")
    torch.save({"params": {}}, folder / "empty.pth")
    torch.save({"params": {"patch_embed.weight": torch.zeros(3)}}, folder / "foreign.pth")
    torch.save([1, 2, 3], folder / "list.pth")
    state = write_esrgan(folder / "short.pth")
    state.pop("body.1.rdb2.conv4.bias")
    torch.save(state, folder / "short.pth")
    state["body.0.rdb1.conv1.weight"] = torch.zeros(4)
    torch.save(state, folder / "shapes.pth")
    grey = rrdb.RRDBNet(rrdb.RRDBConfig(features=8, growth=4, blocks=1, inputs=1, outputs=1))
    torch.save(grey.state_dict(), folder / "grey.pth")
    to_grey = rrdb.RRDBNet(rrdb.RRDBConfig(features=8, growth=4, blocks=1, outputs=1))
    torch.save(to_grey.state_dict(), folder / "to_grey.pth")
    for spec in file_upscalers(tmp_path, networks()):
        assert spec.path is not None
        with pytest.raises(CheckpointError, match=re.escape(spec.path.name)) as raised:
            upscale(spec, picture(8, 8), 2)
        assert "\n" not in str(raised.value)
        assert ("these are: ESRGAN" in str(raised.value)) == (spec.name == "foreign")
    assert "never be printed" not in capsys.readouterr().out


def test_a_file_that_went_away_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ESRGAN" / "tiny.pth"
    write_esrgan(path)
    (spec,) = file_upscalers(tmp_path, networks())
    path.unlink()
    with pytest.raises(CheckpointError, match=r"tiny\.pth cannot be used: it is not there any more"):
        upscale(spec, picture(8, 8), 2)
