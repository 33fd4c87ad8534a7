"""TAESD against diffusers' AutoencoderTiny, on random weights, from files in both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import Tensor

from modules.builtin import register
from modules.checkpoints.approximations import Approximations
from modules.checkpoints.detect import detect
from modules.checkpoints.families.base import ModelConfig
from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import CheckpointError
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.imaging.tensors import to_images, to_tensor
from modules.params.generation import GenerationParams, Init

CPU = Device(torch.device("cpu"), torch.float32, channels_last=False)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def theirs() -> AutoencoderTiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoencoderTiny().eval()


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelConfig]:
    folder = tmp_path_factory.mktemp("models")
    paths = {name: write_tiny_checkpoint(folder / f"{name}.safetensors", name) for name in ("sd1", "sd2", "sdxl")}
    return {name: detect(name, read_header(path)) for name, path in paths.items()}


def authors(model: AutoencoderTiny, part: str) -> State:
    """One part as the author's files name it: his decoder begins with a layer that has no weights."""
    shift = part == "decoder"
    found = {}
    for key, tensor in model.state_dict().items():
        if key.startswith(f"{part}.layers."):
            number, _, rest = key.removeprefix(f"{part}.layers.").partition(".")
            found[f"{int(number) + shift}.{rest}"] = tensor.clone()
    return found


def write(folder: Path, layout: str, model: AutoencoderTiny, stem: str = "taesd") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "diffusers":
        (folder / stem).mkdir()
        save_file(model.state_dict(), folder / stem / "diffusion_pytorch_model.safetensors")
        return
    for part in ("encoder", "decoder"):
        if layout == "pickle":
            torch.save(authors(model, part), folder / f"{stem}_{part}.pth")
        else:
            save_file(authors(model, part), folder / f"{stem}_{part}.safetensors")


@pytest.mark.parametrize("layout", ["pickle", "safetensors", "diffusers"])
@torch.inference_mode()
def test_both_ways_agree_with_diffusers(
    layout: str, theirs: AutoencoderTiny, configs: dict[str, ModelConfig], tmp_path: Path
) -> None:
    write(tmp_path, layout, theirs)
    tiny, generator = Approximations(tmp_path, CPU), torch.Generator().manual_seed(1)
    latents, picture = torch.randn(2, 4, 8, 6, generator=generator) * 2, torch.rand(2, 3, 64, 48, generator=generator)
    decoded, encoded = (tiny.load(configs["sd1"], part)[0] for part in ("decoder", "encoder"))
    assert torch.allclose(decoded(latents), theirs.decode(latents).sample, atol=1e-5)
    assert torch.allclose(encoded(picture * 2 - 1), theirs.encode(picture * 2 - 1).latents, atol=1e-5)


def test_each_family_has_its_own_file(theirs: AutoencoderTiny, configs: dict[str, ModelConfig], tmp_path: Path) -> None:
    for stem in ("taesd", "taesdxl"):
        write(tmp_path, "pickle", theirs, stem)
    tiny = Approximations(tmp_path, CPU)
    found = {name: tiny.load(config, "decoder")[1].name for name, config in configs.items()}
    assert found == {"sd1": "taesd_decoder.pth", "sd2": "taesd_decoder.pth", "sdxl": "taesdxl_decoder.pth"}


def test_what_is_missing_or_something_else_is_said(configs: dict[str, ModelConfig], tmp_path: Path) -> None:
    tiny = Approximations(tmp_path, CPU)
    with pytest.raises(CheckpointError, match=r"put taesdxl_decoder\.pth into models/"):
        tiny.load(configs["sdxl"], "decoder")
    save_file({"1.weight": torch.zeros(4)}, tmp_path / "taesd_decoder.safetensors")
    with pytest.raises(CheckpointError, match=r"taesd_decoder\.safetensors is no decoder of TAESD"):
        tiny.load(configs["sd1"], "decoder")


def test_pictures_go_through_it_where_asked_and_text_and_recipe_say_so(theirs: AutoencoderTiny, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "models" / "x.safetensors")
    write(tmp_path / "VAE-approx", "pickle", theirs)
    host, inputs = Host(), InputStore(tmp_path / "inputs")
    register(host)
    store = ModelStore(tmp_path / "models", CPU, Hashes(), approximations=tmp_path / "VAE-approx")
    engine = Engine(store, host, version="0.0", inputs=inputs)

    def make(**changes: object) -> Result:
        results: list[Result] = []
        engine.run(GenerationParams(width=64, height=64, steps=2, seed=7).changed(**changes), results.append)
        return results[0]

    plain = make()
    decoded = make(sd_vae_decode_method="TAESD", sd_vae_encode_method="TAESD")
    assert "VAE Decoder: TAESD" in decoded.infotext and "VAE Encoder" not in decoded.infotext
    assert [file.role for file in decoded.recipe.files] == ["checkpoint", "tiny decoder"]
    assert all(map(engine.inventory.has, decoded.recipe.files))
    latents: list[Tensor] = []
    watch = RunCallbacks(on_progress=lambda p: latents.append(to_tensor(p.preview())), preview_type="TAESD")
    engine.run(GenerationParams(width=64, height=64, steps=2, seed=7), lambda _: None, watch)
    assert torch.allclose(latents[-1], to_tensor(decoded.image), atol=0.02)  # a preview rounds otherwise
    start = inputs.put(to_images(torch.rand(1, 3, 64, 64) * 2 - 1)[0])
    encoded = make(init=Init(start, 0.5), sd_vae_encode_method="TAESD")
    assert "VAE Encoder: TAESD" in encoded.infotext
    assert len({plain.recipe.pixels, decoded.recipe.pixels, encoded.recipe.pixels}) == 3
    assert encoded.recipe.pixels != make(init=Init(start, 0.5)).recipe.pixels
