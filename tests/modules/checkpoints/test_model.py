"""Loading whole checkpoints: what fits is used, what does not is named."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.checkpoints.detect import detect
from modules.checkpoints.families.base import UNET
from modules.checkpoints.families.sd1 import SD1, TEXT
from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.model import LatentDiffusion, load, load_vae
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.errors import CheckpointError, RepriseError
from modules.nn.configs import TextConfig, UNetConfig, VAEConfig
from modules.nn.unet import UNet
from tests.modules.nn.test_layouts import KEYS

CPU = Device(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    write_tiny_checkpoint(path)
    return path


@pytest.fixture
def model(tiny: Path) -> LatentDiffusion:
    return load(tiny, CPU)


def changed(tiny: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """A copy of the tiny checkpoint with its tensors changed and its metadata kept."""
    tensors = load_file(tiny)
    change(tensors)
    path = tiny.with_name("changed.safetensors")
    save_file(tensors, path, metadata=dict(read_header(tiny).metadata))
    return path


def test_every_tensor_of_the_file_is_in_the_networks(tiny: Path, model: LatentDiffusion) -> None:
    stored = load_file(tiny)
    ours = {f"model.diffusion_model.{k}": v for k, v in model.unet.state_dict().items()}
    ours |= {f"first_stage_model.{k}": v for k, v in model.vae.state_dict().items()}
    ours |= {f"{TEXT}{k}": v for k, v in model.text[0].state_dict().items()}
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[key], stored[key].float()) for key in stored)
    assert not any(p.requires_grad or p.is_meta for p in model.unet.parameters())


def test_model_encodes_text_and_pictures_and_decodes(model: LatentDiffusion) -> None:
    with torch.inference_mode():
        states = model.encode_text(torch.full((2, 77), 49407))
        assert states.context.shape == (2, 77, model.config.text_width)
        latents = model.encode(torch.zeros(2, 3, 64, 72))
        assert latents.shape == (2, 4, 8, 9)
        assert model.decode(latents).shape == (2, 3, 64, 72)


def test_old_files_without_the_text_models_prefix_load_alike(tiny: Path, model: LatentDiffusion) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for key in [k for k in tensors if k.startswith(TEXT)]:
            tensors[SD1.encoders[0].prefixes[1] + key.removeprefix(TEXT)] = tensors.pop(key)

    old = load(changed(tiny, rename), CPU)
    name = "final_layer_norm.weight"
    assert torch.equal(old.text[0].get_parameter(name), model.text[0].get_parameter(name))


def test_training_leftovers_in_a_file_are_ignored(tiny: Path) -> None:
    extra = {
        "model_ema.decay": torch.zeros(1),
        "alphas_cumprod": torch.zeros(1000),
        "first_stage_model.loss.logvar": torch.zeros(1),
        "first_stage_model.model_ema.decoderconv_inweight": torch.zeros(1),
        f"{TEXT}embeddings.position_ids": torch.arange(77)[None],
    }
    load(changed(tiny, lambda tensors: tensors.update(extra)), CPU)


@pytest.mark.parametrize(
    "key",
    [
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
        "conditioner.embedders.0.transformer.x",
        "cond_stage_model.model.logit_scale",
        "cond_stage_model.roberta.pooler.dense.bias",
        "embedder.x",
        "control_model.x",
        "model.diffusion_model.steps",
        "first_stage_model.quantize.embedding.weight",
        f"{TEXT}text_projection.weight",
        "x_embedder.proj.weight",
    ],
)
def test_a_left_over_tensor_neither_hides_the_family_nor_stops_the_loading(
    key: str, tiny: Path, model: LatentDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with_more = load(changed(tiny, lambda tensors: tensors.update({key: torch.ones(4, 4)})), CPU)
    for part, ours in model.parts().items():
        known = with_more.parts()[part].state_dict()
        assert all(torch.equal(tensor, known[name]) for name, tensor in ours.state_dict().items())
    assert ("are left out" in caplog.text) == key.startswith((UNET, "first_stage_model.", TEXT))


def test_an_old_file_with_a_stray_new_name_loads(tiny: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for key in [k for k in tensors if k.startswith(TEXT)]:
            tensors[SD1.encoders[0].prefixes[1] + key.removeprefix(TEXT)] = tensors.pop(key)
        tensors[f"{TEXT}embeddings.position_ids"] = torch.arange(77)[None]

    load(changed(tiny, rename), CPU)


@pytest.mark.parametrize(
    "stated",
    [
        {"unet": {"model_channels": "4"}},
        {"unet": {"channel_mult": [1, None]}},
        {"vae": {"norm_groups": -1}},
        {"text": {"heads": 10**12}},
        {"text": {"activation": 3}},
    ],
    ids=str,
)
def test_a_stated_configuration_that_cannot_be_used_is_refused_in_a_sentence(
    stated: dict[str, object], tiny: Path
) -> None:
    path = tiny.with_name("stated.safetensors")
    save_file(load_file(tiny), path, metadata={"reprise.config": json.dumps(stated)})
    with pytest.raises(CheckpointError, match="stated carries a configuration whose"):
        load(path, CPU)


@pytest.mark.parametrize("stated", ["[]", "{", "[" * 100_000, '{"unet": 3}', '{"native_size": 1e999}', "1" * 5000])
def test_a_stated_configuration_that_is_none_is_left_aside(stated: str, tmp_path: Path) -> None:
    """The layout of SD 1.5 without any data behind it."""
    path = sd15(tmp_path / "sd15.safetensors", {"reprise.config": stated})
    assert detect("sd15", read_header(path)) == detect("sd15", read_header(sd15(tmp_path / "plain.safetensors")))


def sd15(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A file with the shapes of the real SD 1.5 and no data: sparse, so that it takes no room."""
    entries: dict[str, object] = {"__metadata__": metadata or {}}
    end = 0
    for key, shape in KEYS["sd15"].items():
        size = 2 * int(torch.Size(shape).numel())
        entries[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
    return path


def only(tensors: dict[str, Tensor], name: str) -> None:
    tensors.clear()
    tensors[name] = torch.zeros(4, 4)


UNET_KEY = "model.diffusion_model.out.2.bias"
MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a tensor missing": (lambda t: t.pop("model.diffusion_model.time_embed.2.bias"), "lacks time_embed.2.bias"),
    "a wrong shape": (lambda t: t.update({UNET_KEY: torch.zeros(5)}), r"has the wrong shape for out\.2\.bias"),
    "only an autoencoder": (lambda t: [t.pop(k) for k in list(t) if not k.startswith("first_stage")], "VAE folder"),
    "a LoRA": (
        lambda t: only(t, "lora_unet_mid_block.lora_up.weight"),
        "Lora folder",
    ),
    "SDXL": (lambda t: t.update({"conditioner.embedders.1.model.ln_final.weight": torch.zeros(4)}), "SDXL"),
    "SD2": (
        lambda t: t.update(
            {"cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(3072, 1024)}
        ),
        "Stable Diffusion 2",
    ),
    "half an autoencoder": (
        lambda t: [t.pop(k) for k in list(t) if k.startswith("first_stage_model.decoder.up")],
        r"lacks decoder\.up\.0",
    ),
    "a UNet that sees something else": (
        lambda t: t.update({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 7, 3, 3)}),
        "7 input channels",
    ),
    "only a text encoder": (lambda t: only(t, "text_model.embeddings.token_embedding.weight"), "models/text_encoder"),
    "a ControlNet": (lambda t: only(t, "control_model.input_blocks.0.0.weight"), "models/ControlNet"),
    "a Flux model": (lambda t: only(t, "double_blocks.0.img_attn.qkv.weight"), "Flux or SD 3 family, which is not"),
    "something else": (lambda t: only(t, "x"), "not a diffusion model"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_file_that_does_not_fit_says_what_it_is(case: str, tiny: Path) -> None:
    change, sentence = MISFITS[case]
    with pytest.raises(CheckpointError, match=sentence) as error:
        load(changed(tiny, change), CPU)
    assert "changed" in str(error.value)


def test_widths_that_no_network_can_have_are_told_with_the_models_name(tiny: Path, tmp_path: Path) -> None:
    """A small checkpoint whose description is lost: its widths are no multiples of 32."""
    path = tmp_path / "stripped.safetensors"
    save_file(load_file(tiny), path)
    with pytest.raises(CheckpointError, match=r"networks of stripped cannot be built .*divisible by num_groups"):
        load(path, Device(torch.device("cpu"), torch.float32))


def test_widths_that_no_autoencoder_can_have_are_told_with_the_files_name(tiny: Path, tmp_path: Path) -> None:
    """A small VAE whose description is lost."""
    path = tmp_path / "small.safetensors"
    save_file({key: tensor for key, tensor in load_file(tiny).items() if key.startswith("first_stage_model.")}, path)
    with pytest.raises(CheckpointError, match=r"networks of small\.safetensors cannot be built .*num_groups") as error:
        load_vae(path, Device(torch.device("cpu"), torch.float32), VAEConfig())
    assert error.value.field == "vae"


def test_truncated_file_is_refused_before_it_is_mapped(tiny: Path) -> None:
    path = tiny.with_name("cut.safetensors")
    path.write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is not a usable .* cut off"):
        load(path, CPU)


def test_config_of_full_size_is_read_off_the_shapes(tmp_path: Path) -> None:
    """The real SD1.5 layout, with its shapes and no data: detection reads nothing but the header."""
    path = sd15(tmp_path / "sd15.safetensors")
    config = detect("sd15", read_header(path))
    assert (config.unet, config.vae, config.texts) == (UNetConfig(), VAEConfig(), (TextConfig(),))
    assert (config.latent.scale, config.native_size) == (0.18215, 512)


def test_autoencoder_that_overflows_runs_in_float32_from_then_on(tiny: Path) -> None:
    model = load(tiny, Device(torch.device("cpu"), torch.float16))
    # A constant near the top of float16's range, doubled by the first residual block.
    model.vae.decoder.conv_in.weight.data.zero_()
    assert model.vae.decoder.conv_in.bias is not None
    model.vae.decoder.conv_in.bias.data.fill_(60000.0)
    with torch.inference_mode():
        model.vae.decoder.mid.block_1.conv2.bias.data.fill_(60000.0)  # type: ignore[union-attr]
        image = model.decode(torch.zeros(1, 4, 4, 4))
    assert image.isfinite().all()
    assert model.vae.post_quant_conv.weight.dtype == torch.float32


def test_values_that_are_no_numbers_never_become_a_black_picture(model: LatentDiffusion) -> None:
    with pytest.raises(RepriseError, match=r"no numbers; choose another sampler or a lower CFG scale$"):
        model.decode(torch.full((1, 4, 4, 4), float("nan")))
    narrow = replace(model, device=Device(torch.device("cpu"), torch.float16))
    with pytest.raises(RepriseError, match=r", or start with --dtype float32$"):
        narrow.decode(torch.full((1, 4, 4, 4), float("nan")))


@pytest.mark.parametrize(("part", "spoken"), [("vae", "autoencoder"), ("text", "text encoder")])
def test_a_file_with_weights_that_are_no_numbers_is_called_damaged(tiny: Path, part: str, spoken: str) -> None:
    model = load(tiny, Device(torch.device("cpu"), torch.float32))
    next(model.parts()[part].parameters()).data.fill_(float("nan"))
    said = model.no_numbers("choose another VAE")
    assert said.message == f"{tiny.name} is damaged: weights of its {spoken} are no numbers"
    assert said.hint == "get the file again, or choose another"


def test_peak_memory_of_loading_stays_near_the_size_of_the_model(tmp_path: Path) -> None:
    """In a process of its own, on a file big enough to tell: a second copy anywhere would show."""
    script = """
import sys, torch
from pathlib import Path
from modules.checkpoints.model import load
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device, peak_memory
path = Path(sys.argv[1])
load(path.with_name("small.safetensors"), Device(torch.device("cpu"), torch.bfloat16))
before = peak_memory()
model = load(path, Device(torch.device("cpu"), torch.bfloat16))
print((peak_memory() - before) / path.stat().st_size)
"""
    small = tmp_path / "small.safetensors"
    write_tiny_checkpoint(small)
    config = json.loads(read_header(small).metadata["reprise.config"])
    config["unet"] |= {"model_channels": 128, "num_heads": 2}
    with torch.device("meta"):
        unet = UNet(UNetConfig(**{**config["unet"], "channel_mult": (1, 2, 4, 4), "transformer_depth": (1, 1, 1, 0)}))
    tensors = {k: v for k, v in load_file(small).items() if not k.startswith(UNET)}
    tensors |= {UNET + k: torch.zeros(v.shape, dtype=torch.float16) for k, v in unet.state_dict().items()}
    path = tmp_path / "big.safetensors"
    save_file(tensors, path, metadata={"reprise.config": json.dumps(config)})
    assert path.stat().st_size > 250e6
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.25 + 128 * 2**20 / path.stat().st_size  # and the group that is mapped at a time


def test_store_keeps_models_within_its_budget_and_notices_changed_files(tiny: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiny_checkpoint(tmp_path / f"{name}.safetensors", seed=ord(name))
    roomy = ModelStore(tmp_path, CPU, Hashes())
    first = roomy.load("a")
    assert roomy.load("b") is not first
    assert roomy.load("a") is first
    os.utime(tmp_path / "a.safetensors", ns=(1, 1))
    assert roomy.load("a") is not first
    tight = ModelStore(tmp_path, CPU, Hashes(), budget=1)
    first = tight.load("a")
    tight.load("b")
    assert tight.load("a") is not first


def test_a_model_that_fails_to_load_leaves_the_old_one_in_use(tiny: Path, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    store = ModelStore(tmp_path, CPU, Hashes())
    good = store.load("good")
    with pytest.raises(CheckpointError, match="bad"):
        store.load("bad")
    assert store.load("good") is good
