"""Tiny random checkpoints are real ones, only narrower."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules.checkpoints.detect import detect
from modules.checkpoints.families.base import UNET
from modules.checkpoints.families.base import VAE as AUTOENCODER
from modules.checkpoints.families.sd1 import TEXT
from modules.checkpoints.files import read_header
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.errors import OutputError, UserError
from modules.nn.clip import CLIPText
from modules.nn.unet import UNet
from modules.nn.vae import VAE

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint_keys.json"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "deeper" / "tiny.safetensors")


def test_layers_are_those_of_stable_diffusion_1_5(path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())["sd15"]
    header = read_header(path)
    buffers = {f"{TEXT}embeddings.position_ids"}
    assert set(header.tensors) == set(golden) - buffers
    assert all(len(info.shape) == len(golden[name]) for name, info in header.tensors.items())
    assert {info.dtype for info in header.tensors.values()} == {"F16"}


def test_is_small(path: Path) -> None:
    assert path.stat().st_size < 1_000_000


def test_networks_built_from_what_is_detected_take_the_weights_and_compute(path: Path) -> None:
    config, state = detect(path.name, read_header(path)), load_file(path)

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): value.float() for key, value in state.items() if key.startswith(prefix)}

    text, unet, vae = CLIPText(config.texts[0]), UNet(config.unet), VAE(config.vae)
    text.load_state_dict(part(TEXT), strict=True)
    unet.load_state_dict(part(UNET), strict=True)
    vae.load_state_dict(part(AUTOENCODER), strict=True)
    side = config.native_size // 8
    ids = torch.full((2, 77), 49407)
    ids[:, 0], ids[0, 1:4] = 49406, torch.tensor([320, 736, 2368])
    with torch.inference_mode():
        x = torch.randn(1, 4, side, side).expand(2, -1, -1, -1)
        eps = unet(x, torch.tensor([500.0, 500.0]), text(ids).context)
        picture = vae.decode(eps)
    assert picture.shape == (2, 3, config.native_size, config.native_size)
    assert picture.isfinite().all()
    assert (eps[0] - eps[1]).abs().mean() > 0.01 * eps.std()  # the words are heard


def test_seed_decides_every_byte_and_leaves_the_global_generator_alone(path: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = write_tiny_checkpoint(tmp_path / "again.safetensors", seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert again.read_bytes() == path.read_bytes()
    assert write_tiny_checkpoint(tmp_path / "other.safetensors", seed=1).read_bytes() != path.read_bytes()


def test_unknown_family_and_unwritable_place_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no family named 'sd9'; there is sd1, sd2, sdxl, sdxl-refiner"):
        write_tiny_checkpoint(tmp_path / "x.safetensors", family="sd9")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_tiny_checkpoint(tmp_path / "file" / "x.safetensors")
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_any_whole_number_is_a_seed_and_no_other_ending_a_checkpoint(tmp_path: Path) -> None:
    written = [
        write_tiny_checkpoint(tmp_path / f"{seed}.safetensors", seed=seed).read_bytes() for seed in (1, 2**64 + 1, -1)
    ]
    assert written[0] == written[1] != written[2]
    with pytest.raises(OutputError, match=r"another ending; name it tiny\.safetensors"):
        write_tiny_checkpoint(tmp_path / "tiny.ckpt")
