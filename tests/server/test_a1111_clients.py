"""The PyPI client ``webuiapi``, unmodified, drives the whole program: server, queue, worker and a tiny model."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from PIL import Image
from webuiapi import HiResUpscaler, WebUIApi

from modules.checkpoints.tiny import write_tiny_checkpoint
from tests.server.real_server import ROOT, free_port, wait_for

API = json.loads((ROOT / "tests" / "golden" / "api.json").read_text(encoding="utf-8"))
SIZE: dict[str, Any] = {"width": 64, "height": 64, "steps": 3, "seed": 11}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with two checkpoints and a style, from when it answers."""
    folder = tmp_path_factory.mktemp("program")
    models = folder / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    for seed, name in enumerate(("first", "second")):
        write_tiny_checkpoint(models / f"{name}.safetensors", "sd15", seed)
    data = folder / "data"
    data.mkdir()
    (data / "styles.csv").write_text("name,prompt,negative_prompt\nink,ink drawing,\n", encoding="utf-8")
    number = free_port()
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(number), "--data-dir", str(data)]
    command += ["--models-dir", str(folder / "models"), "--device", "cpu"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            wait_for(number, process, folder / "server.log")
            yield number
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def api(port: int) -> WebUIApi:
    return WebUIApi(port=port)


def sent(port: int, path: str, values: Mapping[str, Any] | None = None) -> Any:
    """What the server answers to JSON, without the client's help."""
    data = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"} if data else {}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert float(answer.headers["X-Process-Time"]) >= 0
        return json.load(answer)


INFO = [
    "prompt",
    "all_prompts",
    "negative_prompt",
    "all_negative_prompts",
    "seed",
    "all_seeds",
    "subseed",
    "all_subseeds",
    "subseed_strength",
    "width",
    "height",
    "sampler_name",
    "cfg_scale",
    "steps",
    "batch_size",
    "restore_faces",
    "face_restoration_model",
    "sd_model_name",
    "sd_model_hash",
    "sd_vae_name",
    "sd_vae_hash",
    "seed_resize_from_w",
    "seed_resize_from_h",
    "denoising_strength",
    "extra_generation_params",
    "index_of_first_image",
    "infotexts",
    "styles",
    "job_timestamp",
    "clip_skip",
    "is_using_inpainting_conditioning",
    "version",
]


def test_txt2img_answers_pictures_with_their_texts_and_all_that_a1111_tells(api: WebUIApi) -> None:
    result = api.txt2img(prompt="a fox", negative_prompt="snow", styles=["ink"], batch_size=2, cfg_scale=5, **SIZE)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert set(INFO) <= result.info.keys()
    assert result.info["all_seeds"] == [11, 12]
    assert result.info["infotexts"][0] == result.image.info["parameters"]
    assert result.image.info["parameters"].startswith("a fox, ink drawing\nNegative prompt: snow\nSteps: 3, Sampler: ")
    assert result.info["sd_model_name"] == "first"
    assert result.parameters.keys() == API["txt2img_fields"].keys()
    assert result.parameters["cfg_scale"] == 5
    assert result.json.keys() == API["models"]["TextToImageResponse"]["fields"].keys()


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(api: WebUIApi) -> None:
    first, again = (api.txt2img(prompt="a fox", **SIZE).image.tobytes() for _ in range(2))
    other = api.txt2img(prompt="a fox", **{**SIZE, "seed": 12}).image.tobytes()
    assert first == again != other


def test_hires_fix_makes_the_picture_larger_and_its_text_says_how(api: WebUIApi) -> None:
    result = api.txt2img(
        prompt="a fox", enable_hr=True, hr_scale=1.5, hr_upscaler=HiResUpscaler.Lanczos, denoising_strength=0.6, **SIZE
    )
    assert result.image.size == (96, 96)
    assert result.info["extra_generation_params"]["Hires upscale"] == "1.5"
    assert result.info["denoising_strength"] == 0.6


def test_img2img_and_inpainting_start_from_the_pictures_that_are_sent(api: WebUIApi) -> None:
    start = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    near = api.img2img(images=[start], prompt="a fox", denoising_strength=0.0, **SIZE)
    far = api.img2img(images=[start], prompt="a fox", denoising_strength=0.9, **SIZE)
    assert near.image.tobytes() != far.image.tobytes()
    assert far.parameters["init_images"] is None
    assert far.parameters.keys() == API["img2img_fields"].keys()
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 16, 16))
    painted = api.img2img(
        images=[start], mask_image=mask, mask_blur=0, inpainting_fill=1, inpaint_full_res=False, prompt="a fox", **SIZE
    )
    outside = (32, 0, 64, 64)
    assert painted.image.crop(outside).tobytes() == start.crop(outside).tobytes()
    assert painted.image.crop((0, 0, 8, 8)).tobytes() != start.crop((0, 0, 8, 8)).tobytes()


def test_extras_and_png_info(api: WebUIApi) -> None:
    made = api.txt2img(prompt="a fox", **SIZE).image
    one = api.extra_single_image(image=made, upscaler_1="Lanczos", upscaling_resize=2)
    assert one.image.size == (128, 128)
    assert "Lanczos" in one.info
    both = api.extra_batch_images(images=[made, made], upscaler_1="Nearest", upscaling_resize=1.5)
    assert [image.size for image in both.images] == [(96, 96)] * 2
    told = api.png_info(made)
    assert told.info == made.info["parameters"]
    assert told.parameters["Seed"] == "11"


def test_what_there_is_has_a1111s_shapes(api: WebUIApi, port: int) -> None:
    shapes = API["models"]
    lists = {
        "samplers": "SamplerItem",
        "schedulers": "SchedulerItem",
        "upscalers": "UpscalerItem",
        "latent-upscale-modes": "LatentUpscalerModeItem",
        "sd-models": "SDModelItem",
        "prompt-styles": "PromptStyleItem",
        "script-info": "ScriptInfo",
        "extensions": "ExtensionItem",
    }
    for path, model in lists.items():
        entries = sent(port, f"/sdapi/v1/{path}")
        assert entries, path
        assert all(entry.keys() == shapes[model]["fields"].keys() for entry in entries), path
    for path in ("sd-vae", "hypernetworks", "loras", "face-restorers", "realesrgan-models"):
        assert sent(port, f"/sdapi/v1/{path}") == []
    for path, model in {"progress": "ProgressResponse", "memory": "MemoryResponse", "scripts": "ScriptsList"}.items():
        assert sent(port, f"/sdapi/v1/{path}").keys() == shapes[model]["fields"].keys()
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert API["options"].keys() <= api.get_options().keys()
    theirs = {one["name"]: one for one in API["samplers"]}
    ours = {one["name"]: one for one in api.get_samplers()}
    for name, one in theirs.items():
        assert ours[name]["aliases"] == one["aliases"]
        known = {key: str(value) for key, value in one["options"].items()}
        assert ours[name]["options"] == known, name
    assert api.get_schedulers() == API["schedulers"]
    assert [mode["name"] for mode in api.get_latent_upscale_modes()] == list(API["latent_upscale_modes"])
    assert api.util_get_model_names() == ["first.safetensors", "second.safetensors"] or all(
        title.startswith(("first.safetensors", "second.safetensors")) for title in api.util_get_model_names()
    )


def test_options_choose_the_model_and_are_given_back(api: WebUIApi) -> None:
    try:
        api.util_set_model("second")
        assert api.util_get_current_model().startswith("second.safetensors")
        assert api.txt2img(prompt="a fox", **SIZE).info["sd_model_name"] == "second"
        once = api.txt2img(prompt="a fox", override_settings={"sd_model_checkpoint": "first.safetensors"}, **SIZE)
        assert once.info["sd_model_name"] == "first"
        assert api.util_get_current_model().startswith("second.safetensors")
        api.txt2img(
            prompt="a fox",
            override_settings={"sd_model_checkpoint": "first.safetensors"},
            override_settings_restore_afterwards=False,
            **SIZE,
        )
        assert api.util_get_current_model().startswith("first.safetensors")
        api.set_options({"samples_format": "jpg", "of_an_extension": 1})
        assert api.get_options()["of_an_extension"] == 1
        assert api.txt2img(prompt="a fox", **SIZE).image.format == "JPEG"
    finally:
        api.set_options({"samples_format": "png", "sd_model_checkpoint": "first.safetensors"})


def test_progress_is_told_while_it_works_and_interrupt_ends_it(api: WebUIApi, port: int) -> None:
    long = {**SIZE, "steps": 150, "n_iter": 20}
    results: list[Any] = []
    worker = threading.Thread(target=lambda: results.append(api.txt2img(prompt="a fox", **long)))
    worker.start()
    asking = WebUIApi(port=port)
    seen: dict[str, Any] = {}
    end = time.monotonic() + 120
    while time.monotonic() < end and not (seen.get("current_image") and seen["progress"] > 0.01):
        seen = asking.get_progress()
        time.sleep(0.05)
    assert 0.01 < seen["progress"] <= 1
    assert seen["state"]["job_count"] == 20
    assert seen["state"]["sampling_steps"] == 150
    assert Image.open(io.BytesIO(base64.b64decode(seen["current_image"]))).size
    asking.skip()
    asking.interrupt()
    worker.join(120)
    assert len(results) == 1
    assert len(results[0].images) < 20
    asking.util_wait_for_ready(check_interval=0.1)
    assert asking.get_progress()["state"]["job_count"] == 0


def test_scripts_are_called_by_title_with_their_arguments_by_place(api: WebUIApi) -> None:
    found = api.get_scripts()
    assert {"x/y/z plot", "prompt matrix", "prompts from file or textbox", "refiner", "seed"} <= set(found["txt2img"])
    assert {"loopback", "sd upscale", "soft inpainting"} <= set(found["img2img"])
    plot = [4, "1,2", [], 0, "", [], 0, "", [], True, True, False, False, False, False, False, 0]
    result = api.txt2img(prompt="a fox", script_name="X/Y/Z plot", script_args=plot, **SIZE)
    assert len(result.images) == 3
    assert result.images[0].size[0] == 128 and result.images[0].size[1] > 64  # with words above
    assert "Steps: 1," in result.images[1].info["parameters"]
    alone = [*plot[:10], False, *plot[11:]]
    assert len(api.txt2img(prompt="a fox", script_name="x/y/z plot", script_args=alone, **SIZE).images) == 1
    matrix = api.txt2img(prompt="a fox|in snow", script_name="Prompt matrix", script_args=[False, False], **SIZE)
    assert len(matrix.images) == 3
    start = Image.new("RGB", (64, 64), "teal")
    loop = api.img2img(
        images=[start], prompt="a fox", script_name="Loopback", script_args=[2, 0.5, "Linear", "None"], **SIZE
    )
    assert len(loop.images) == 3
    large = api.img2img(
        images=[start], prompt="a fox", script_name="SD upscale", script_args=[None, 16, "Lanczos", 1.5], **SIZE
    )
    assert large.image.size == (96, 96)
    soft = api.img2img(
        images=[start],
        mask_image=Image.new("L", (64, 64), 255),
        prompt="a fox",
        alwayson_scripts={"Soft inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}},
        **SIZE,
    )
    assert "Soft inpainting enabled" in soft.info["extra_generation_params"]
    seeded = api.txt2img(prompt="a fox", alwayson_scripts={"seed": {"args": [5, True, 6, 0.5, 0, 0]}}, **SIZE)
    assert (seeded.info["seed"], seeded.info["subseed"], seeded.info["subseed_strength"]) == (5, 6, 0.5)
    refined = api.txt2img(
        prompt="a fox", alwayson_scripts={"refiner": {"args": [True, "second.safetensors", 0.5]}}, **SIZE
    )
    assert "Refiner" in refined.info["extra_generation_params"]


def test_pictures_are_kept_and_answered_as_the_request_says(api: WebUIApi, port: int) -> None:
    before = _outputs(port)
    assert api.txt2img(prompt="a fox", save_images=False, **SIZE).images
    assert _outputs(port) == before
    kept = api.txt2img(prompt="a fox", save_images=True, batch_size=2, **SIZE)
    assert len(kept.images) == 3  # the grid comes first
    assert kept.images[0].size == (128, 64)
    assert kept.info["index_of_first_image"] == 1
    assert len(_outputs(port) - before) == 2
    assert api.txt2img(prompt="a fox", send_images=False, **SIZE).images == []


def _outputs(port: int) -> set[int]:
    """The pictures in the history by their numbers, as far as the first hundred go."""
    found = set()
    for number in range(1, 100):
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/pictures/{number}", timeout=30).close()
            found.add(number)
    return found
