"""Files with only averaged weights, and UNets that lie alone under other programs' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.checkpoints.files import read_header
from modules.checkpoints.foreign_names import ema_name
from modules.checkpoints.model import load
from modules.checkpoints.tiny import FAMILIES, write_tiny_checkpoint
from modules.devices import Device

CPU = Device(torch.device("cpu"), torch.float32)
UNET = "model.diffusion_model."


def averaged(key: str) -> str:
    """As ldm's LitEma names it: the dots are taken out."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_averaged_weights_get_their_dots_back(family: str, tmp_path: Path) -> None:
    header = read_header(write_tiny_checkpoint(tmp_path / "x.safetensors", family))
    keys = [key for key in header.tensors if key.startswith(UNET)]
    assert [UNET + ema_name(averaged(key)) for key in keys] == keys


def test_a_file_of_averaged_weights_alone_loads_and_of_both_the_plain_ones_count(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "plain.safetensors")
    state, metadata = load_file(path), dict(read_header(path).metadata)
    unet = {key: tensor for key, tensor in state.items() if key.startswith(UNET)}
    rest = {key: tensor for key, tensor in state.items() if key not in unet}
    save_file(rest | {averaged(k): v for k, v in unet.items()}, tmp_path / "only.safetensors", metadata=metadata)
    save_file(state | {averaged(k): v + 1 for k, v in unet.items()}, tmp_path / "both.safetensors", metadata=metadata)
    expected = load(path, CPU).unet.state_dict()
    for name in ("only", "both"):
        found = load(tmp_path / f"{name}.safetensors", CPU).unet.state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.float32, torch.float16, torch.uint8])
def test_position_ids_of_any_type_are_no_trouble(kind: torch.dtype, tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "x.safetensors")
    state, metadata = load_file(path), dict(read_header(path).metadata)
    for end in ("text_model.embeddings.position_ids", "embeddings.position_ids"):
        state[f"cond_stage_model.transformer.{end}"] = torch.arange(77)[None].to(kind)
    save_file(state, path, metadata=metadata)
    assert load(path, CPU).config.family.name == "sd1"
