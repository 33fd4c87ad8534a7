"""Families: each is told by its tensors, and its sizes, parts and habits are those of the published models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modules.checkpoints.detect import detect, family_label, family_of, native_size, text_width
from modules.checkpoints.families import FAMILIES
from modules.checkpoints.files import Header, TensorInfo
from modules.errors import CheckpointError
from modules.nn.configs import TextConfig, VAEConfig
from tests.modules.nn.test_layouts import BIG_G, KEYS, UNETS, VIT_H

ROOT = Path(__file__).parents[3]
NAMES = {"sd15": "sd1", "sd21": "sd2", "sdxl_base": "sdxl", "sdxl_refiner": "sdxl-refiner"}
TEXTS = {
    "sd15": (TextConfig(),),
    "sd21": (TextConfig(1024, 24, 16, 4096, activation="gelu", layout=VIT_H.layout),),
    "sdxl_base": (TextConfig(), BIG_G),
    "sdxl_refiner": (BIG_G,),
}
"""SD2's conditioning takes no pooled state, so its projection is left out."""
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def header(
    layout: str, metadata: dict[str, str] | None = None, changes: dict[str, tuple[int, ...]] | None = None
) -> Header:
    """A reference layout as a file's header, with shapes changed."""
    shapes = {key: tuple(shape) for key, shape in KEYS[layout].items()} | (changes or {})
    return Header({key: TensorInfo("F16", shape, 0) for key, shape in shapes.items()}, metadata or {})


@pytest.mark.parametrize("layout", NAMES)
def test_reference_layouts_give_the_published_sizes(layout: str) -> None:
    config = detect(layout, header(layout))
    assert config.family.name == NAMES[layout]
    assert (config.unet, config.vae, config.texts) == (UNETS[layout], VAEConfig(), TEXTS[layout])
    assert (config.latent.channels, config.latent.factor, config.latent.shift) == (4, 8, 0.0)
    assert config.latent.scale == (0.13025 if "sdxl" in layout else 0.18215)
    assert config.native_size == (1024 if "sdxl" in layout else 512)
    assert (config.prediction, config.schedule, config.variant) == ("eps", "scaled_linear", "")


@pytest.mark.parametrize("layout", NAMES)
def test_every_tensor_of_a_layout_has_its_place_or_is_a_buffer(layout: str) -> None:
    found = detect(layout, header(layout)).family
    left_out = KEYS[layout].keys() - found.places(KEYS[layout]).keys()
    ends = {key.rpartition(".")[2] for key in left_out if key.startswith(("cond", "model.d", "first"))}
    assert ends <= {"position_ids", "logit_scale"}


@pytest.mark.parametrize("layout", NAMES)
def test_inpainting_models_are_of_their_family(layout: str) -> None:
    shape = KEYS[layout][FIRST]
    changed = header(layout, changes={FIRST: (shape[0], 9, 3, 3)})
    config = detect(layout, changed)
    assert (config.family.name, config.variant, config.unet.in_channels) == (NAMES[layout], "inpainting", 9)
    assert family_label({key: info.shape for key, info in changed.tensors.items()}).endswith(", inpainting")


def test_sd2_that_predicts_v_has_768_pixels() -> None:
    assert native_size(header("sd21", {"modelspec.prediction_type": "v"})) == 768
    assert detect("x", header("sd21", {"modelspec.prediction_type": "v"})).native_size == 768
    assert detect("x", header("sdxl_base", {"modelspec.prediction_type": "v"})).native_size == 1024
    stated = {"reprise.config": json.dumps({"native_size": 640})}
    assert native_size(header("sd21", stated)) == 640


def test_sd2_turbo_is_told_from_the_refiner_whose_place_its_encoder_has() -> None:
    old, new = "cond_stage_model.model.", "conditioner.embedders.0.model."
    renamed = {key.replace(old, new): TensorInfo("F16", tuple(shape), 0) for key, shape in KEYS["sd21"].items()}
    config = detect("turbo", Header(renamed, {}))
    assert (config.family.name, config.texts) == ("sd2", TEXTS["sd21"])


def test_a_pruned_sdxl_is_an_sdxl() -> None:
    """SSD-1B: blocks of another depth on the way up, and a middle of one residual block."""
    tensors = dict(header("sdxl_base").tensors)
    unet = "model.diffusion_model."
    kept = {"input_blocks.7": 4, "input_blocks.8": 4, "output_blocks.0": 4, "output_blocks.1": 4, "output_blocks.2": 10}
    kept |= {"output_blocks.3": 2, "output_blocks.4": 1, "output_blocks.5": 1}
    for key in [key for key in tensors if key.startswith(unet)]:
        block, _, inside = key.removeprefix(unet).partition(".1.transformer_blocks.")
        too_deep = inside and int(inside.split(".")[0]) >= kept.get(block, 99)
        if too_deep or key.startswith((f"{unet}middle_block.1.", f"{unet}middle_block.2.")):
            del tensors[key]
    config = detect("ssd", Header(tensors, {}))
    assert config.unet.depths_down == (0, 0, 2, 2, 4, 4)
    assert config.unet.depths_up == (4, 4, 10, 2, 1, 1, 0, 0, 0)
    assert config.unet.middle_depth == -1
    assert family_label({key: info.shape for key, info in tensors.items()}) == "SDXL, pruned"


def test_what_is_not_run_is_named() -> None:
    for key, label in {
        "model.diffusion_model.x_embedder.proj.weight": "Stable Diffusion 3",
        "depth_model.model.pretrained.act_postprocess3.0.project.0.bias": "Stable Diffusion 2 depth",
        "embedder.model.ln_final.weight": "Stable Diffusion 2 unCLIP",
        "cond_stage_model.roberta.embeddings.word_embeddings.weight": "AltDiffusion",
    }.items():
        other = header("sd15", changes={key: (1,)})
        assert family_of({key: info.shape for key, info in other.tensors.items()}) is not None
        with pytest.raises(CheckpointError, match=f"x is of the family {label}, which is not supported; choose"):
            detect("x", other)
        assert text_width({key: (1,)}) == 0


def test_a_missing_layer_is_named_with_the_family() -> None:
    tensors = dict(header("sdxl_base").tensors)
    del tensors["conditioner.embedders.1.model.text_projection"]
    with pytest.raises(CheckpointError, match=r"not a whole SDXL checkpoint: .*text_projection is missing"):
        detect("x", Header(tensors, {}))


@pytest.mark.parametrize(
    "stated", [{"activation": "swish"}, {"layout": "other"}, {"heads": -1}, {"width": "wide"}], ids=str
)
def test_a_stated_text_encoder_that_cannot_be_is_refused(stated: dict[str, object]) -> None:
    metadata = {"reprise.config": json.dumps({"text_2": stated})}
    with pytest.raises(CheckpointError, match=f"whose {next(iter(stated))} cannot be used"):
        detect("x", header("sdxl_base", metadata))


def test_families_have_names_of_their_own_and_encoders_parts_of_their_own() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        parts = [spec.part for spec in family.encoders]
        assert parts == ["text", "text_2"][: len(parts)]
        assert bool(parts) == family.supported


def test_detection_needs_no_torch() -> None:
    script = "import sys, modules.checkpoints.detect, modules.nn.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
