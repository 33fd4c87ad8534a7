"""Whole runs over pictures and with a second pass: what goes in, what comes out, and the text, against the reference.

The engine itself runs; its model, text encoder and autoencoder are those that the reference data describes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.builtin import register
from modules.checkpoints.embeddings import Listing
from modules.checkpoints.families.base import variant
from modules.checkpoints.families.sd1 import SD1
from modules.checkpoints.way import Memory
from modules.devices import Device
from modules.diffusion.parameterization import NoiseTable
from modules.engine import Engine, Result
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.metadata import infotext
from modules.params.generation import CONTENTS, RESIZE_MODES, GenerationParams, Hires, Init, Mask
from modules.pipeline import plan
from modules.pipeline import run as runs
from modules.pipeline import sample as generation
from modules.pipeline.prompt_encoder import PromptEncoder
from modules.prompt.schedule import Pass, schedule_nodes
from modules.prompt.tree import Prompt
from tests.conformance.conftest import cases_of
from tests.conformance.test_images import picture, rectangle
from tests.conformance.test_runs import Toy, ToyCond, close, encoded, keys, longer

Case = dict[str, Any]
NOTHING = Listing()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = cases_of(metafunc.config.getoption("golden") / "pipeline.json", "cases")
    ours = {name: case for name, case in cases.items() if _is_ours(case["request"])}
    metafunc.parametrize("run", list(ours.values()), ids=list(ours))


def _is_ours(request: dict[str, Any]) -> bool:
    return request["kind"] == "img2img" or bool({"enable_hr", "conditioning_key"} & keys(request))


def config_of(channels: int) -> Any:
    """What the engine asks of a model's configuration; it predicts noise whatever a request says."""
    vae, unet = SimpleNamespace(z_channels=4), SimpleNamespace(in_channels=channels)
    config = SimpleNamespace(schedule="scaled_linear", zero_terminal_snr=False, prediction="eps", vae=vae, unet=unet)
    config.betas, config.from_yaml = None, False
    config.family, config.latent, config.variant = SD1, SD1.latent, variant(channels, 4)
    config.said_beside, config.own_vae = False, True
    config.predicting = lambda prediction: config
    return config


@dataclass(frozen=True)
class Model:
    """Blocks of 8 x 8 pixels are the latents."""

    config: Any
    embeddings: Listing = NOTHING
    memory: Memory = field(default_factory=Memory)
    name, short_hash, sha256 = "toy", "0123456789", "0123456789" + "0" * 54
    vae_path, vae_name, vae_sha256 = None, "", ""
    text_files = ()
    path = SimpleNamespace(name="toy.safetensors")
    device = Device(torch.device("cpu"), torch.float32)

    own_embeddings = SimpleNamespace(files=(), skipped={})
    unet = object()

    def encode(self, images: Tensor) -> Tensor:
        r, g, b = torch.nn.functional.avg_pool2d(images, 8).unbind(1)
        return torch.stack([r, g, b, 0.5 * r - 0.25 * g + 0.1 * b], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)


class Conditioner:
    """The stand-in text encoder over a pass."""

    def prompt(self, prompt: Prompt, run: Pass) -> list[ToyCond]:
        parts = [encoded(part.weight, schedule_nodes(part.items, run)) for part in prompt.parts]
        length = max(part.conds[0].context.shape[1] for part in parts)
        return [ToyCond(part.weight, part.segments, tuple(longer(c, length) for c in part.conds)) for part in parts]

    def negative(self, prompt: Prompt, run: Pass) -> ToyCond:
        (part,) = self.prompt(prompt, run)
        return part


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The latents of each pass, as they come."""
    found: list[Tensor] = []

    def network(model: Any, table: NoiseTable, sigmas: Any) -> Toy:
        return Toy(table, NoiseTable.named("scaled_linear"), "eps")

    def generate(*args: Any, **more: Any) -> Tensor:
        found.append(generation.generate(*args, **more))
        return found[-1]

    monkeypatch.setattr(generation, "CachedUNet", network)
    monkeypatch.setattr(runs, "generate", generate)
    monkeypatch.setattr(PromptEncoder, "_conditioner", lambda *_: Conditioner())
    monkeypatch.setattr(plan, "check", lambda params, host: (params, ()))  # the reference has smaller pictures
    return found


def test_the_pictures_are_the_references(
    run: Case, outputs: list[Tensor], tmp_path: Any, differs: Any, record_property: Any
) -> None:
    record_property("golden", "pipeline.json")
    host = Host()
    register(host)
    request = run["request"]
    store = SimpleNamespace(
        load=lambda *_: Model(config_of(9 if "conditioning_key" in request else 4)),
        unconverted_vae=lambda _: "",
        lost_vae=lambda _: "",
        guessed_vae=lambda _: "",
        relieve=lambda: False,
        sha256=lambda _: "",
        residence=SimpleNamespace(moves=False, streaming=0),
        device=SimpleNamespace(kernels="fast"),
    )
    engine = Engine(store, host, version="0", inputs=InputStore(tmp_path))  # type: ignore[arg-type]
    assert engine.inputs
    results: list[Result] = []
    params = params_of(run, engine.inputs)
    engine.run(params, results.append)
    if params.init and params.init.mask and "nmask" not in run:
        differs("a black mask gives the picture back; the reference then repaints all of it")
        assert results[0].image.tobytes() == engine.inputs.open(params.init.image).tobytes()
        return
    if params.init and params.init.denoising_strength == 0:
        differs("strength 0 gives the picture back; the reference lets it pass through the model once")
        assert results[0].image.tobytes() == engine.inputs.open(params.init.image).tobytes()
        return
    if "nmask" not in run:
        for latents, expected in zip(outputs, run["passes"], strict=True):
            close(latents, expected, 5e-4 if params.subseed_strength else 1e-4)  # arc cosines in float32
    for result, expected in zip(results, run["images"], strict=True):
        assert list(result.image.size) == expected["size"]
        ours = np.asarray(result.image, int)[4::8, 4::8].ravel()
        apart = np.abs(ours - np.array(expected["pixels_every_8"]))
        # A level at the edge of floor; the way back from LAB is in floating point.
        assert apart.max() <= (3 if params.init and params.init.colour_correction else 1)
    for result, text in zip(results, run["infotexts"], strict=True):
        told(result.infotext, text)


def told(ours: str, theirs: str) -> None:
    """The reference leaves out an upscaler that nobody chose, and has settings where we have parameters."""
    found, expected = (dict(infotext.pairs(text.splitlines()[-1])) for text in (ours, theirs))
    ignored = (
        "Version",
        "Hires upscaler",
        "Exact steps",
        "Color correction",
        "Resize mode",
        "Hires resize",
        "Mask rounding",
        "Overlay original for inpaint",
    )
    assert {k: v for k, v in found.items() if k not in ignored} == {
        k: v.removesuffix(".0") if k == "Hires upscale" and found.get(k) == v.removesuffix(".0") else v
        for k, v in expected.items()
        if k not in ignored
    }


def params_of(run: Case, inputs: InputStore) -> GenerationParams:
    request, options = run["request"], run["request"].get("options", {})
    first = run["passes"][0]["shape"]
    return GenerationParams(
        prompt=request["prompt"],
        negative_prompt=request.get("negative_prompt", ""),
        sampler=request.get("sampler_name", "Euler"),
        steps=request.get("steps", 6),
        width=first[3] * 8,
        height=first[2] * 8,
        seed=request["seed"],
        subseed=request.get("subseed", 0),
        subseed_strength=request.get("subseed_strength", 0.0),
        batch_size=request.get("batch_size", 1),
        batch_count=request.get("n_iter", 1),
        use_old_scheduling=options.get("use_old_scheduling", False),
        init=start_of(request, options, inputs) if request["kind"] == "img2img" else None,
        hires=second_of(request, options) if "enable_hr" in request else None,
    )


def start_of(request: dict[str, Any], options: dict[str, Any], inputs: InputStore) -> Init:
    mask = None
    if "mask" in request:
        width, height, corners = request["mask"]
        mask = Mask(
            image=inputs.put(rectangle([width, height], corners)),
            blur=request["mask_blur"],
            invert=bool(request.get("inpainting_mask_invert", 0)),
            content=CONTENTS[request["inpainting_fill"]],
            only_masked=request["inpaint_full_res"],
            padding=request.get("inpaint_full_res_padding", 32),
            conditioning=options.get("inpainting_mask_weight", 1.0),
            round=request.get("mask_round", True),
            overlay=options.get("overlay_inpaint", True),
        )
    return Init(
        image=",".join(inputs.put(picture(*each)) for each in request["init"]),
        denoising_strength=request["denoising_strength"],
        resize_mode=RESIZE_MODES[request.get("resize_mode", 0)],
        exact_steps=options.get("img2img_fix_steps", False),
        noise_multiplier=options.get("initial_noise_multiplier", 1.0),
        extra_noise=options.get("img2img_extra_noise", 0.0),
        colour_correction=options.get("img2img_color_correction", False),
        mask=mask,
    )


def second_of(request: dict[str, Any], options: dict[str, Any]) -> Hires:
    old = options.get("use_old_hires_fix_width_height")
    return Hires(
        scale=request.get("hr_scale", 2.0),
        width=request["width"] if old else request.get("hr_resize_x", 0),
        height=request["height"] if old else request.get("hr_resize_y", 0),
        upscaler=request.get("hr_upscaler", "Latent"),
        steps=request.get("hr_second_pass_steps", 0),
        denoising_strength=request["denoising_strength"],
        sampler=request.get("hr_sampler_name", ""),
        scheduler=request.get("hr_scheduler", ""),
        prompt=request.get("hr_prompt", ""),
        negative_prompt=request.get("hr_negative_prompt", ""),
        extra_noise=options.get("img2img_extra_noise", 0.0),
    )
