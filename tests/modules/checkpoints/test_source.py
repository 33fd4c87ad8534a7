"""Files and folders as other programs write them: the same tensors under ldm's names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.files import INDEX, Hashes, list_models, read_header
from modules.checkpoints.model import LatentDiffusion, load, load_vae
from modules.checkpoints.source import open_source
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import FAMILIES, write_tiny_checkpoint
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn.configs import CLIP
from modules.nn.text import TextEncoder
from tests.diffusers_vae import diffusers_vae
from tests.modules.nn.test_against_diffusers import as_transformers, diffusers_unet, reference_config
from tests.modules.nn.test_layouts import KEYS

CPU = Device(torch.device("cpu"), torch.float32)


def same(a: LatentDiffusion, b: LatentDiffusion) -> bool:
    def tensors(model: LatentDiffusion) -> dict[str, Tensor]:
        return {f"{part}.{k}": t for part, module in model.parts().items() for k, t in module.state_dict().items()}

    ours, theirs = tensors(a), tensors(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# -------------------------------------------------------------------------------------------------------------- folders


def text_of(text: TextEncoder) -> Any:
    if text.config.layout == CLIP:
        clip = CLIPTextModel(reference_config(text.config))
        clip.load_state_dict(text.state_dict())
        return clip
    state = text.state_dict()
    state.setdefault("text_projection", torch.zeros(text.config.width, 512))  # SD2's has none that is used
    reference = CLIPTextModelWithProjection(reference_config(text.config))
    reference.load_state_dict(as_transformers(state))
    return reference


def write_folder(folder: Path, model: LatentDiffusion, kind: str, **scheduler: Any) -> Path:
    """A model as diffusers and transformers themselves write it."""
    diffusers_unet(model.config.unet, model.unet.state_dict(), numbers=256).save_pretrained(folder / "unet")
    diffusers_vae(model).save_pretrained(folder / "vae")
    parts = ("text_encoder_2",) if kind == "sdxl-refiner" else ("text_encoder", "text_encoder_2")
    for part, text in zip(parts, model.text, strict=False):
        assert isinstance(text, TextEncoder)
        text_of(text).save_pretrained(folder / part)
    DDIMScheduler(**scheduler).save_pretrained(folder / "scheduler")
    name = "StableDiffusionXLPipeline" if "sdxl" in kind else "StableDiffusionPipeline"
    (folder / INDEX).write_text(json.dumps({"_class_name": name}))
    return folder / INDEX


@pytest.mark.parametrize("family", FAMILIES)
def test_a_diffusers_folder_is_the_model_of_the_file(family: str, tmp_path: Path) -> None:
    model = load(write_tiny_checkpoint(tmp_path / "tiny.safetensors", family), CPU)
    index = write_folder(tmp_path / "models" / "sub" / "my model", model, family, prediction_type="v_prediction")
    found = load(index, CPU)
    assert found.config.family is model.config.family
    assert (found.config.unet, found.config.vae, found.config.latent) == (
        model.config.unet,
        model.config.vae,
        model.config.latent,
    )
    assert found.config.texts == model.config.texts
    assert found.config.prediction == "v"
    assert same(model, found)


def test_a_folder_is_listed_as_one_model_and_hashed_by_its_weights(tmp_path: Path) -> None:
    model = load(write_tiny_checkpoint(tmp_path / "tiny.safetensors"), CPU)
    folder = tmp_path / "Stable-diffusion"
    index = write_folder(folder / "sub" / "My [old] Modell ü", model, "sd1")
    write_tiny_checkpoint(folder / "other.safetensors")
    assert [m.name for m in list_models(folder)] == ["other", "sub/My [old] Modell ü"]
    hashes = Hashes(tmp_path / "hashes.json")
    found = ModelStore(folder, CPU, hashes).load("sub/My [old] Modell ü")
    assert found.name == "My [old] Modell ü"
    card = CheckpointCatalogue(tmp_path, hashes).card("My [old] Modell ü")
    assert (card.family, card.prediction, card.sha256) == ("Stable Diffusion 1.x", "eps", found.sha256)
    assert card.nbytes > 1e6
    unet = index.parent / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor + 1 for key, tensor in load_file(unet).items()}, unet)
    assert Hashes().sha256(index) != found.sha256


def test_a_folder_of_another_kind_or_without_weights_says_what_it_is(tmp_path: Path) -> None:
    index = tmp_path / "flux" / INDEX
    index.parent.mkdir()
    index.write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(CheckpointError, match="flux is a folder for diffusers' FluxPipeline"):
        load(index, CPU)
    index.write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(CheckpointError, match="flux has no safetensors in unet"):
        load(index, CPU)
    index.write_text("[1]")
    with pytest.raises(CheckpointError, match="which is not supported"):
        load(index, CPU)


@pytest.mark.parametrize("layout", KEYS)
def test_every_layer_of_the_full_sizes_comes_back_from_diffusers_names(layout: str, tmp_path: Path) -> None:
    """Names alone, of the published layouts: ldm's as diffusers' own converter turns them, and back."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from modules.checkpoints.foreign_names import unet_names, vae_names

    prefix = "model.diffusion_model."
    ldm = {key: torch.tensor(i) for i, key in enumerate(KEYS[layout]) if key.startswith(prefix)}
    config = {"layers_per_block": 2, "addition_embed_type": "text_time" if "sdxl" in layout else None}
    config |= {"class_embed_type": None, "num_class_embeds": None}
    there = convert_ldm_unet_checkpoint(dict(ldm), config)
    back = unet_names(there)
    assert {prefix + back[key]: int(tensor) for key, tensor in there.items()} == {k: int(t) for k, t in ldm.items()}
    vae = {k: torch.zeros(s) for k, s in KEYS[layout].items() if k.startswith("first_stage_model.")}
    names = vae_names(convert_ldm_vae_checkpoint(dict(vae), {"down_block_types": [0] * 4, "up_block_types": [0] * 4}))
    assert {f"first_stage_model.{name}" for name in names.values()} == vae.keys()


def test_sd2_text_encoders_without_the_unused_last_layer_say_the_same(tmp_path: Path) -> None:
    model = load(write_tiny_checkpoint(tmp_path / "whole.safetensors", "sd2"), CPU)
    tensors = load_file(tmp_path / "whole.safetensors")
    config = json.loads(read_header(tmp_path / "whole.safetensors").metadata["reprise.config"])
    del config["text"]["layers"]
    kept = {key: tensor for key, tensor in tensors.items() if ".resblocks.23." not in key}
    save_file(kept, tmp_path / "cut.safetensors", {"reprise.config": json.dumps(config)})
    cut = load(tmp_path / "cut.safetensors", CPU)
    ids = torch.full((1, 77), 49407)
    with torch.inference_mode():
        assert torch.equal(cut.encode_text(ids).context, model.encode_text(ids).context)


# ---------------------------------------------------------------------------------------------------------------- files


def rewritten(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    found = path.with_name("changed.safetensors")
    save_file(change(load_file(path)), found, metadata=dict(read_header(path).metadata))
    return found


@pytest.mark.parametrize("prefix", ["model.model.", "diffusion_model.", "net.", ""])
def test_unets_under_other_programs_prefixes_are_found(prefix: str, tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "tiny.safetensors", "sdxl")
    old = "model.diffusion_model."
    other = rewritten(
        path, lambda tensors: {prefix + k.removeprefix(old) if k.startswith(old) else k: t for k, t in tensors.items()}
    )
    assert same(load(path, CPU), load(other, CPU))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("end", ["", ".scale_weight", ".weight_scale"])
def test_weights_in_eight_bits_are_read_with_their_scales(dtype: torch.dtype, end: str, tmp_path: Path) -> None:
    """What the numbers mean: the 8 bits as float32, times the scale that lies beside them."""
    path = write_tiny_checkpoint(tmp_path / "tiny.safetensors")
    name = "model.diffusion_model.time_embed.0.weight"

    def shrunk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for key in [key for key in tensors if key.endswith(".weight") and tensors[key].dim() == 2]:
            tensors[key] = tensors[key].to(dtype)
            if end:
                tensors[key.removesuffix(".weight") + end] = torch.tensor(0.5)
        return tensors

    found = load(rewritten(path, shrunk), CPU).unet.get_parameter("time_embed.0.weight")
    expected = load_file(path)[name].to(dtype).float() * (0.5 if end else 1.0)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_position_ids_may_be_of_any_type(dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "tiny.safetensors")
    key = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    load(rewritten(path, lambda tensors: tensors | {key: torch.arange(77)[None].to(dtype)}), CPU)


def test_an_autoencoder_as_diffusers_writes_it_stands_in_for_the_files_own(tmp_path: Path) -> None:
    model = load(write_tiny_checkpoint(tmp_path / "tiny.safetensors"), CPU)
    diffusers_vae(model).save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    stated = {"reprise.config": json.dumps({"vae": {"norm_groups": model.config.vae.norm_groups}})}
    save_file(load_file(path), path, metadata=stated)
    found = load_vae(path, CPU, model.config.vae)
    assert all(torch.equal(t, found.state_dict()[k]) for k, t in model.vae.state_dict().items())


def test_names_that_are_ldms_stay_as_they_are(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "tiny.safetensors")
    source, header = open_source(path), read_header(path)
    assert source.header == header
    assert all(origin.pieces == ((path, key),) for key, origin in source.origins.items())
