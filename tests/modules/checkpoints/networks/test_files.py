"""Network files as trainers write them, each spelling of the same network giving the same changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modules.checkpoints.networks.files import Network, read
from modules.checkpoints.networks.keys import candidates
from modules.checkpoints.networks.listing import NetworkFolders
from modules.errors import CheckpointError


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


UP, DOWN = random(1, 4, 2), random(2, 2, 6)
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
QUERY = "lora_unet_" + DOTTED.replace(".", "_")
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"

SPELLINGS = {
    "kohya": (f"{QUERY}.lora_up.weight", f"{QUERY}.lora_down.weight"),
    "diffusers with peft": (f"unet.{DOTTED}.lora_B.weight", f"unet.{DOTTED}.lora_A.weight"),
    "a peft model": (f"base_model.model.{DOTTED}.lora_B.weight", f"base_model.model.{DOTTED}.lora_A.weight"),
    "a peft adapter": (f"unet.{DOTTED}.lora_B.default.weight", f"unet.{DOTTED}.lora_A.default.weight"),
    "diffusers of 2023": (f"unet.{DOTTED}.lora.up.weight", f"unet.{DOTTED}.lora.down.weight"),
    "linear layers": (f"unet.{DOTTED}.lora_linear_layer.up.weight", f"unet.{DOTTED}.lora_linear_layer.down.weight"),
    "processors": (
        f"{DOTTED.replace('to_q', 'processor.to_q_lora')}.up.weight",
        f"{DOTTED.replace('to_q', 'processor.to_q_lora')}.down.weight",
    ),
}


@pytest.mark.parametrize("names", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_is_the_same_network(names: tuple[str, str], tmp_path: Path) -> None:
    save_file({names[0]: UP, names[1]: DOWN}, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")
    assert list(found.changes) == [QUERY] and found.kinds == ("LoRA",)
    torch.testing.assert_close(found.changes[QUERY].weight_delta(torch.zeros(4, 6), 1.0), UP @ DOWN)


def test_layers_of_comfyui_go_by_the_names_of_ldm(tmp_path: Path) -> None:
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.lora_up.weight": UP, f"{layer}.lora_down.weight": DOWN}, tmp_path / "x.safetensors")
    (found,) = read(tmp_path / "x.safetensors").changes
    assert layer.replace(".", "_") in candidates(found)


@pytest.mark.parametrize("prefix", ["text_encoder.", "lora_te_", "lora_te1_", "text_encoders.clip_l.transformer."])
def test_text_encoders_have_their_prefixes(prefix: str, tmp_path: Path) -> None:
    layer = prefix + (TEXT if prefix.endswith(".") else TEXT.replace(".", "_"))
    save_file({f"{layer}.lora_up.weight": UP, f"{layer}.lora_down.weight": DOWN}, tmp_path / "x.safetensors")
    (found,) = read(tmp_path / "x.safetensors").changes
    assert "transformer_text_model_encoder_layers_0_self_attn_q_proj" in candidates(found)


def test_sdxl_has_its_second_text_encoder(tmp_path: Path) -> None:
    layer = f"text_encoder_2.{TEXT}"
    save_file({f"{layer}.lora_B.weight": UP, f"{layer}.lora_A.weight": DOWN}, tmp_path / "x.safetensors")
    (found,) = read(tmp_path / "x.safetensors").changes
    assert next(candidates(found)) == "1_model_transformer_resblocks_0_attn_q_proj"


def scale_of(network: Network) -> float:
    (change,) = network.changes.values()
    return change.scale


def test_alpha_stands_in_metadata_by_layer_or_for_all(tmp_path: Path) -> None:
    tensors = {f"unet.{DOTTED}.lora_B.weight": UP, f"unet.{DOTTED}.lora_A.weight": DOWN}
    for stated, wanted in (
        ({"unet.r": 2, "unet.lora_alpha": 8}, 4.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_q": 1}}, 4.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 8 / 2**0.5),
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ):
        save_file(tensors, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": json.dumps(stated)})
        assert scale_of(read(tmp_path / "x.safetensors")) == pytest.approx(wanted)


def test_alpha_stands_in_the_file_beside_a_peft_adapter(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{DOTTED}.lora_B.weight": UP, f"base_model.model.{DOTTED}.lora_A.weight": DOWN}, path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6}), encoding="utf-8")
    assert scale_of(read(path)) == 3.0


def test_loha_and_lokr_of_peft_are_scaled_by_the_rank_that_is_stated(tmp_path: Path) -> None:
    """PEFT divides alpha by the rank of the configuration, where LoKr keeps whole matrices too."""
    path = tmp_path / "adapter_model.safetensors"
    loha = {name: torch.ones(3, 2) if name.endswith("a") else torch.ones(2, 3) for name in _LOHA}
    lokr = {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(3, 3)}
    for parts in (loha, lokr):
        save_file({f"base_model.model.{DOTTED}.{name}": tensor for name, tensor in parts.items()}, path)
        for stated, wanted in (
            ({"r": 4, "alpha": 2}, 0.5),
            ({"r": 4, "alpha": 2, "rank_pattern": {"to_q": 8}, "alpha_pattern": {"to_q": 16}}, 2.0),
            ({"alpha": 2}, 1.0),
        ):
            (tmp_path / "adapter_config.json").write_text(json.dumps(stated), encoding="utf-8")
            assert scale_of(read(path)) == wanted


_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def test_pickles_are_read_without_running_them(tmp_path: Path) -> None:
    parts = {"lora_up.weight": UP.half(), "lora_down.weight": DOWN, "alpha": torch.tensor(1.0)}
    tensors = {f"{QUERY}.{part}": tensor for part, tensor in parts.items()}
    torch.save({"state_dict": tensors}, tmp_path / "x.pt")
    assert scale_of(read(tmp_path / "x.pt")) == 0.5
    torch.save({"x": Path("/")}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt cannot be used"):
        read(tmp_path / "bad.pt")


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    save_file({"model.weight": UP}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors is no network"):
        read(tmp_path / "x.safetensors")


def test_embeddings_that_come_along_are_kept_apart(tmp_path: Path) -> None:
    bundled = {"bundle_emb.charm.string_to_param.*": random(5, 2, 768)}
    save_file({f"{QUERY}.diff": random(3, 4, 6), **bundled}, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")
    assert list(found.changes) == [QUERY] and [file.name for file in found.embeddings] == ["charm"]


def test_a_pickles_layers_tell_its_family(tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    torch.save({f"{layer}.lora_down.weight": random(1, 4, 2048)}, tmp_path / "xl.pt")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    bad, xl = NetworkFolders([tmp_path]).read().files
    assert xl.described.family == "SDXL"
    assert bad.described.problem == "bad.pt cannot be read: it is no file as PyTorch writes them"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_file_of_values_that_are_no_numbers_is_named(value: float, tmp_path: Path) -> None:
    down = random(1, 2, 4)
    down[1, 2] = value
    path = tmp_path / "diverged.safetensors"
    save_file({"lora_unet_a.lora_down.weight": down, "lora_unet_a.lora_up.weight": random(2, 4, 2)}, path)
    with pytest.raises(CheckpointError, match=r"diverged.safetensors is damaged: 1 of its 2 tensors"):
        read(path)
