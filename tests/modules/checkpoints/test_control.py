"""What files of ControlNet's kin are, and that they are loaded for the model that they fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modules.checkpoints.control import control_kind
from modules.checkpoints.control_networks import load_control
from modules.checkpoints.foreign_names import controlnet_names
from modules.checkpoints.model import LatentDiffusion, load
from modules.checkpoints.tiny import FAMILIES, write_tiny_checkpoint, write_tiny_control
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn.controlnet import ControlNet, ControlNetUnion
from modules.nn.t2i_adapter import T2IAdapter

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "controlnet.json").read_text(encoding="utf-8"))
CPU = Device(torch.device("cpu"), torch.float32)


def shapes_of(said: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """A key set of the reference data, as a header has it."""
    found: dict[str, tuple[int, ...]] = {}
    for key, value in said.items():
        if key == "+":
            name, _, prefixed = value.partition(" with every key prefixed by ")
            prefix = prefixed
            found |= {f"{prefix}{k}": tuple(v) for k, v in GOLDEN["model_type"]["keysets"][name].items()}
        elif key.endswith("{}"):
            found |= {f"{key[:-2]}.{k}": tuple(v) for k, v in value.items()}
        else:
            found[key] = tuple(value)
    return found


@pytest.mark.parametrize("row", GOLDEN["model_type"]["rows"], ids=lambda row: f"{row[0]} {row[2]}")
def test_files_are_what_the_reference_takes_them_for(row: list[Any]) -> None:
    path, keys, kind, facts = row
    found = control_kind(Path(path), shapes_of(keys))
    assert (found.name if found else "ERROR") == kind
    assert (dict(found.facts) if found else {}) == facts


def test_names_of_diffusers_become_the_authors() -> None:
    for theirs, own in GOLDEN["diffusers_keys"]["rows"]:
        assert controlnet_names([theirs]) == {theirs: own}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return load(write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny.safetensors"), CPU)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return load(write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "xl.safetensors", "sdxl"), CPU)


def state_of(path: Path, model: LatentDiffusion) -> dict[str, Tensor]:
    return dict(load_control(path, model).network.state_dict())


@pytest.fixture
def written(tmp_path: Path) -> Callable[[dict[str, Tensor], str], Path]:
    def write(state: dict[str, Tensor], name: str = "x.safetensors") -> Path:
        if name.endswith(".safetensors"):
            save_file({key: value.clone().contiguous() for key, value in state.items()}, tmp_path / name)
        else:
            torch.save(state, tmp_path / name)
        return tmp_path / name

    return write


def test_every_layout_of_a_controlnet_is_the_same_network(
    model: LatentDiffusion, tmp_path: Path, written: Callable[..., Path]
) -> None:
    own = state_of(write_tiny_control(tmp_path / "tiny.safetensors", FAMILIES["sd1"].unet), model)
    prefixed = {f"control_model.{key}": value.half() for key, value in own.items()}
    linear = {key: value[:, :, 0, 0] if ".proj_" in key and value.dim() == 4 else value for key, value in own.items()}
    theirs = model.unet.state_dict()
    base = {key: value - theirs[key] for key, value in own.items() if key in theirs}
    difference = {**own, **base, "difference": torch.zeros(1)}
    for name, state in (("a.safetensors", prefixed), ("b.pth", prefixed), ("c.safetensors", linear)):
        found = state_of(written(state, name), model)
        assert all(torch.equal(found[key], own[key]) for key in own), name
    found = state_of(written(difference), model)
    assert all(torch.allclose(found[key], own[key], atol=1e-6) for key in own)


def test_a_control_lora_is_the_models_own_weights_and_products(
    model: LatentDiffusion, written: Callable[..., Path], tmp_path: Path
) -> None:
    own = state_of(write_tiny_control(tmp_path / "tiny.safetensors", FAMILIES["sd1"].unet), model)
    theirs = model.unet.state_dict()
    stored = {key: value for key, value in own.items() if key not in theirs}
    generator = torch.Generator().manual_seed(3)
    factors: dict[str, Tensor] = {}
    for name in ("input_blocks.11.0.in_layers.2", "middle_block.1.transformer_blocks.0.attn1.to_q"):
        out, inner = theirs[f"{name}.weight"].shape[0], theirs[f"{name}.weight"][0].numel()
        shape = theirs[f"{name}.weight"].shape
        factors[f"{name}.up"] = torch.randn(out, 2, *[1] * (len(shape) - 2), generator=generator)
        factors[f"{name}.down"] = torch.randn(2, *shape[1:], generator=generator)
        assert inner == factors[f"{name}.down"][0].numel()
    marker = {
        "lora_controlnet": torch.zeros(0),
        "input_blocks.11.0.in_layers.0.weight": own["input_blocks.11.0.in_layers.0.weight"],
    }
    found = state_of(written({**stored, **factors, **marker}), model)
    for key, value in found.items():
        module = key.removesuffix(".weight")
        expected = stored.get(key, marker.get(key, theirs.get(key)))
        if f"{module}.up" in factors:
            expected = theirs[key] + torch.einsum(
                "or,r...->o...", factors[f"{module}.up"].flatten(1), factors[f"{module}.down"]
            )
        assert expected is not None
        assert torch.allclose(value, expected, atol=1e-5), key


def test_networks_of_other_kinds_and_families_are_told(
    model: LatentDiffusion, sdxl: LatentDiffusion, written: Callable[..., Path], tmp_path: Path
) -> None:
    small = write_tiny_control(tmp_path / "small.safetensors", FAMILIES["sd1"].unet)
    large = write_tiny_control(tmp_path / "large.safetensors", FAMILIES["sdxl"].unet)
    assert isinstance(load_control(large, sdxl).network, ControlNet)
    for path, given in ((small, sdxl), (large, model)):
        with pytest.raises(CheckpointError, match=r"is a ControlNet for .*, and .* is a model of"):
            load_control(path, given)
    sparse = written({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="is a SparseCtrl, which is not supported"):
        load_control(sparse, model)
    with pytest.raises(CheckpointError, match="is no ControlNet, and nothing of its kin"):
        load_control(written({"foo": torch.zeros(1)}), model)
    own = state_of(small, model)
    own.pop("zero_convs.3.0.weight")
    with pytest.raises(CheckpointError, match=r"it lacks zero_convs.3.0.weight"):
        load_control(written(own), model)


def test_union_models_and_adapters_are_loaded(model: LatentDiffusion, sdxl: LatentDiffusion, tmp_path: Path) -> None:
    union = load_control(write_tiny_control(tmp_path / "u.safetensors", FAMILIES["sdxl"].unet, types=6), sdxl)
    assert isinstance(union.network, ControlNetUnion) and union.types == 6
    for name, given in (("sd1", model), ("sdxl", sdxl)):
        path = write_tiny_control(tmp_path / f"{name}.safetensors", FAMILIES[name].unet, adapter=True)
        assert isinstance(load_control(path, given).network, T2IAdapter)
        with pytest.raises(CheckpointError, match="is a T2I-Adapter for"):
            load_control(path, sdxl if given is model else model)
