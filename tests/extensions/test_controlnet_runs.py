"""ControlNet units at work: whole runs against diffusers, and the reference's numbers on networks of ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from extensions import controlnet
from extensions.controlnet import control, corrections, hints, registry, units
from extensions.controlnet.ip_adapter import Sight
from modules.builtin import register
from modules.checkpoints.control_networks import load_control
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint, write_tiny_control, write_tiny_ip_adapter
from modules.devices import Device
from modules.diffusion.types import Cond, Network
from modules.engine import Engine, RunCallbacks
from modules.extension.contexts import Layer, Step
from modules.extension.host import Host
from modules.extension.modifier import Modifier, ModifierSpec
from modules.gallery.inputs import InputStore
from modules.imaging.tensors import to_tensor
from modules.metadata import infotext
from modules.metadata.recipe import read
from modules.params.generation import GenerationParams, Hires, ModifierOptions
from modules.pipeline.results import Result
from modules.replay import replay_recipe
from tests.modules.nn.test_against_diffusers import diffusers_unet, relative_error
from tests.modules.nn.test_controlnet import arguments, converted

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "controlnet.json").read_text(encoding="utf-8"))
CPU = Device(torch.device("cpu"), torch.float32)
NO_SIGHT = Sight(dict)
PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=2, seed=7, subseed=1, sampler="Euler")


@dataclass(frozen=True)
class NoOptions:
    """None."""


class Recorder(Modifier):
    """Keeps what the network is asked and what it answers, extensions within."""

    def __init__(self, calls: list[tuple[Tensor, float, Cond, Tensor, int, float]]):
        self.calls = calls

    def on_network(self, step: Step, x: Tensor, sigma: float, cond: Cond, network: Network) -> Tensor:
        answer = network(x, sigma, cond)
        self.calls.append((x, sigma, cond, answer, step.pass_.number, step.timestep(sigma)))
        return answer


@pytest.fixture(scope="module")
def calls() -> list[tuple[Tensor, float, Cond, Tensor, int, float]]:
    return []


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, calls: Any) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    store = ModelStore(folder, CPU, Hashes(), default="tiny")
    host = Host(reserved=infotext.RESERVED, models=folder)
    register(host)
    controlnet.register(host)
    host.add_modifier(ModifierSpec("recorder", "Recorder", NoOptions, lambda _: Recorder(calls), order=1000))
    write_tiny_control(folder / "ControlNet" / "one_sd15.safetensors", store.load().config.unet)
    write_tiny_control(folder / "ControlNet" / "t2i.safetensors", store.load().config.unet, adapter=True)
    vision = folder / "clip_vision" / "tiny_vision.safetensors"
    write_tiny_ip_adapter(folder / "ControlNet" / "ip-adapter_sd15.safetensors", vision, store.load().unet)
    write_tiny_control(folder / "ControlNet" / "large_xl.safetensors", store.load().config.unet)
    yield Engine(store, host, version="0.0", inputs=InputStore(tmp_path_factory.mktemp("inputs")))


def made(engine: Engine, params: GenerationParams, *chosen: dict[str, Any]) -> tuple[list[Result], list[str]]:
    results: list[Result] = []
    notes: list[str] = []
    options = {f"units_{i}_{name}": value for i, unit in enumerate(chosen, 1) for name, value in unit.items()}
    extensions = {"controlnet": engine.host.modifiers.get("controlnet").chosen(options), "recorder": {}}
    given = params.changed(extensions=ModifierOptions(extensions if chosen else {"recorder": {}}))
    engine.run(given, results.append, RunCallbacks(on_note=notes.append))
    return results, notes


@pytest.fixture(scope="module")
def picture(engine: Engine) -> str:
    assert engine.inputs
    return engine.inputs.put(Image.radial_gradient("L").resize((64, 64)).convert("RGB"))


@pytest.mark.skipif(not hints.has_opencv(), reason="opencv-python-headless is not installed")
def test_a_whole_run_agrees_with_diffusers(engine: Engine, picture: str, calls: Any) -> None:
    """Every evaluation of a run with hires fix, cond and uncond together."""
    calls.clear()
    hires = Hires(scale=2.0, denoising_strength=0.6, upscaler="Latent", steps=2)
    unit = {"on": True, "image": picture, "model": "one_sd15.safetensors", "weight": 0.8}
    (result,), notes = made(engine, PARAMS.changed(hires=hires), unit)
    assert notes == []
    assert 'ControlNet 0: "Module: none, Model: one_sd15 [' in result.infotext
    assert [file.role for file in result.recipe.files if file.role in ("image", "file:ControlNet")]
    model, folder = engine.store.load(), engine.host.models
    assert folder and engine.inputs
    config = model.config.unet
    net = load_control(folder / "ControlNet" / "one_sd15.safetensors", model).network
    reference = ControlNetModel(**{**arguments(config), "attention_head_dim": config.num_heads}).eval()
    reference.load_state_dict(converted(cast(Any, net), reference), strict=True)
    unet = diffusers_unet(config, model.unet.state_dict())
    start = engine.inputs.open(picture)
    for x, sigma, cond, answer, number, t in calls:
        side = 64 * (number + 1)
        hint = to_tensor(start.resize((side, side)))[None] / 2 + 0.5
        if number:  # enlarged as OpenCV does
            hint = torch.from_numpy(hints.fitted(_array(start), side, side, units.CROP).astype("float32") / 255)
            hint = hint.permute(2, 0, 1)[None]
        scaled, steps = x / (sigma**2 + 1) ** 0.5, torch.full((len(x),), t)
        with torch.inference_mode():
            down, middle = reference(
                scaled, steps, cond.context, hint.expand(len(x), -1, -1, -1), conditioning_scale=0.8, return_dict=False
            )
            noise = unet(
                scaled,
                steps,
                cond.context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        assert relative_error(answer, x - sigma * noise) < 1e-4
    assert {number for *_, number, _ in calls} == {0, 1}


def _array(image: Image.Image) -> Any:
    return hints.with_mask(image)[..., :3]


def test_two_units_and_an_adapter_each_change_the_picture_and_replay_names_their_files(
    engine: Engine, picture: str
) -> None:
    one = {"on": True, "image": picture, "model": "one_sd15.safetensors"}
    invert = {**one, "module": "invert (from white bg & black line)", "guidance_end": 0.4, "weight": 0.5}
    adapter = {"on": True, "image": picture, "model": "t2i.safetensors"}
    seen = [made(engine, PARAMS, *chosen)[0][0] for chosen in ((), (one,), (one, invert), (adapter,))]
    assert len({result.image.tobytes() for result in seen}) == 4
    assert seen[1].image.tobytes() == made(engine, PARAMS, {**one, "hr_option": "Low res only"})[0][0].image.tobytes()
    assert seen[0].image.tobytes() == made(engine, PARAMS, {**one, "hr_option": "High res only"})[0][0].image.tobytes()


def test_modules_that_correct_answers_do_so_in_a_whole_run(engine: Engine, picture: str) -> None:
    assert engine.inputs
    white = Image.new("L", (64, 64))
    white.paste(255, (16, 16, 48, 48))
    mask = engine.inputs.put(white)
    unit = {"on": True, "image": picture, "model": "one_sd15.safetensors", "mask": mask}
    seen = []
    for module in ("inpaint_global_harmonious", "inpaint_only", "tile_colorfix", "tile_colorfix+sharp"):
        (result,), notes = made(engine, PARAMS, {**unit, "module": module})
        assert notes == []
        seen.append(result.image.tobytes())
    assert len(set(seen)) == 4


def test_what_a_unit_lacks_is_told_and_the_picture_is_made_without_it(engine: Engine, picture: str) -> None:
    plain = made(engine, PARAMS)[0][0].image.tobytes()
    cases = {
        "no model is chosen for it": {"image": picture},
        "it has no image": {"model": "one_sd15.safetensors"},
        "is for SDXL, and tiny is": {"image": picture, "model": "large_xl.safetensors"},
        "needs a network of its own": {"image": picture, "model": "one_sd15.safetensors", "module": "depth_midas"},
        "needs a mask": {"image": picture, "model": "one_sd15.safetensors", "module": "inpaint_only"},
    }
    for sentence, unit in cases.items():
        (result,), notes = made(engine, PARAMS, {"on": True, **unit})
        assert result.image.tobytes() == plain
        assert len(notes) == 1 and "ControlNet unit 1 has no effect: " in notes[0] and sentence in notes[0]


def test_an_ip_adapter_sees_its_picture_as_diffusers_does(engine: Engine, picture: str, calls: Any) -> None:
    calls.clear()
    unit = {"on": True, "image": picture, "model": "ip-adapter_sd15.safetensors", "module": "ip-adapter-auto"}
    (result,), notes = made(engine, PARAMS, {**unit, "weight": 0.7})
    assert notes == []
    assert [file.name for file in result.recipe.files if file.role == "file:clip_vision"] == ["tiny_vision.safetensors"]
    assert replay_recipe(engine, read(str(result.recipe))).verdict.kind == "identical"
    model, folder = engine.store.load(), engine.host.models
    assert folder and engine.inputs
    reference: Any = diffusers_unet(model.config.unet, model.unet.state_dict())
    state = load_file(folder / "ControlNet" / "ip-adapter_sd15.safetensors")
    parts = {part: {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")} for part in IP}
    reference._load_ip_adapter_weights([parts])
    for processor in reference.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    clip = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=16,
            projection_dim=24,
            num_hidden_layers=2,
            num_attention_heads=1,
            image_size=32,
            patch_size=8,
            hidden_act="gelu",
        )
    ).eval()
    clip.load_state_dict(load_file(folder / "clip_vision" / "tiny_vision.safetensors"), strict=False)
    process = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    for x, sigma, cond, answer, _, t in calls[: PARAMS.steps]:
        with torch.inference_mode():
            seen = clip(**process(engine.inputs.open(picture), return_tensors="pt")).image_embeds
            embeds = torch.cat([seen, torch.zeros_like(seen)])[:, None]  # the positive prompt comes first
            noise = reference(
                x / (sigma**2 + 1) ** 0.5,
                torch.full((len(x),), t),
                cond.context,
                added_cond_kwargs={"image_embeds": [embeds]},
            ).sample
        assert relative_error(answer, x - sigma * noise) < 1e-4
    (_,), notes = made(engine, PARAMS, {**unit, "model": "one_sd15.safetensors"})
    assert "is a ControlNet, and ip-adapter-auto a preprocessor for IP-Adapters" in notes[0]


IP = ("image_proj", "ip_adapter")


# ----------------------------------------------------------------------------------- networks that answer with ones


class Ones:
    """A ControlNet all of whose answers are ones."""

    config = SimpleNamespace(context_dim=4)

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size

    def embed(self, t: Tensor) -> Tensor:
        return torch.zeros(1, 4)

    def text_keys(self, context: Tensor) -> dict[Any, Any]:
        return {}

    def residuals(self, x: Tensor, *_: Any) -> list[Tensor]:
        return [torch.ones(len(x), 1, self.size, self.size) for _ in range(self.count)]


def unit_of(**values: Any) -> units.Unit:
    return replace(units.Unit(), **values)


def summed(*chosen: units.Unit, count: int = 13, hires: bool = False) -> control.Sums:
    """What units with networks of ones add for a positive and a negative row."""
    modifier: Any = control.ControlNets(chosen, control.Networks(), NO_SIGHT)
    for number, unit in enumerate(chosen, 1):
        net = SimpleNamespace(network=Ones(count, 2), averages=False, types=0)
        ready = control.Ready(number, unit, registry.LABELS[unit.module], cast(Any, net), 0)
        ready.guide = torch.zeros(1, 1, 2, 2) if control.takes_part(unit, int(hires)) else None
        modifier._ready.append(ready)
    model = SimpleNamespace(device=CPU, memory=SimpleNamespace(attempt=lambda compute: compute()))
    modifier._run = SimpleNamespace(model=model)
    rows = [SimpleNamespace(image=0, kind=kind) for kind in ("positive", "negative")]
    step: Any = SimpleNamespace(
        step=0, steps=20, call=0, rows=rows, pass_=SimpleNamespace(number=int(hires)), timestep=lambda sigma: 1.0
    )
    step.masked = lambda kind: [i for i, row in enumerate(rows) if row.kind == kind]
    found = modifier._summed(step, torch.zeros(2, 4, 2, 2), 1.0, Cond(torch.zeros(2, 3, 4)), 0)
    return cast("control.Sums", found or control.Sums())


def values(sums: control.Sums, row: int) -> list[float]:
    outs = [*sums.skips, *([sums.middle] if sums.middle is not None else [])]
    return [float(out[row].mean()) for out in outs]


def test_soft_weights_are_the_references() -> None:
    gold = GOLDEN["soft_weights"]
    for mode, spared in ((units.PROMPT, False), (units.CONTROL, True)):
        for key, count in (("sd1_13", 13), ("sdxl_10", 10)):
            found = summed(unit_of(control_mode=mode), count=count)
            assert values(found, 0) == pytest.approx(gold[key], rel=1e-6)
            assert values(found, 1) == pytest.approx([0.0] * count if spared else gold[key], rel=1e-6)
    softly = unit_of(control_mode=units.PROMPT)
    assert control.scales(softly, registry.MODULES["none"], 4, hires=False, adapter=True) == pytest.approx(gold["t2i"])


def test_units_are_summed_as_the_reference_does() -> None:
    gold = GOLDEN["mixing"]
    found = summed(unit_of(weight=0.5), unit_of(weight=0.25, control_mode=units.CONTROL))
    for row in (0, 1):
        assert values(found, row) == pytest.approx(gold["two_units"]["out"][row], rel=1e-6)
    numbers = ", ".join(str(i / 10) for i in range(13))
    found = summed(unit_of(advanced_weighting=numbers, control_mode=units.PROMPT))
    assert values(found, 0) == pytest.approx(gold["advanced_0_to_1_2"]["out"])
    assert values(summed(unit_of(advanced_weighting="0.5, 0.5")), 0) == gold["short_list"]["out"]


def test_passes_of_hires_fix_have_the_references_factors() -> None:
    gold = GOLDEN["hires_pass"]
    for option, factors in gold["hr_option"].items():
        found = [(values(summed(unit_of(hr_option=option), hires=hires), 0) or [0.0])[0] for hires in (False, True)]
        assert found == factors
    for module, factors in gold["module_balanced"].items():
        name = "none" if module == "other" else module
        found = [values(summed(unit_of(module=name), hires=hires), 0)[0] for hires in (False, True)]
        assert found == pytest.approx(factors)


def test_units_are_active_at_the_references_steps() -> None:
    for steps, start, end, expected in GOLDEN["guidance"]["rows"]:
        active = [i for i in range(steps) if control.is_active(i, steps, start, end)]
        assert ([active[0], active[-1]] if active else None) == expected
    for steps, start, end, first, last in GOLDEN["guidance_calls"]["rows"]:
        counter = control.Counter()
        active = [i for i in range(steps) if control.is_active(counter.at(i, i), steps, start, end)]
        assert ((active[0], active[-1]) if active else (None, None)) == (first, last)


def test_a_mask_in_the_hint_is_the_references() -> None:
    gold = GOLDEN["inpaint_hint"]
    picture = torch.full((1, 2, 4), 64, dtype=torch.uint8).numpy()
    picture[0, :, 3] = (153, 0)
    found = control._hint(picture, registry.MODULES["inpaint"])
    assert found[:, 0, 0].tolist() == [gold["masked"]] * 3
    assert found[0, 0, 1] == pytest.approx(gold["unmasked"], abs=2e-3)


def test_the_blur_of_colorfix_is_the_references() -> None:
    gold = GOLDEN["blur"]
    x = torch.tensor([i**1.5 for i in range(36)], dtype=torch.float64).reshape(1, 1, 6, 6)
    assert corrections.blurred(x, gold["k"])[0, 0].tolist() == [pytest.approx(row, abs=1e-5) for row in gold["y"]]


def test_colorfix_takes_the_hints_colours_and_inpaint_only_keeps_what_is_not_masked() -> None:
    rows = [SimpleNamespace(image=0, kind=kind) for kind in ("positive", "negative")]
    step: Any = SimpleNamespace(rows=rows, masked=lambda kind: [i for i, r in enumerate(rows) if r.kind == kind])
    g = torch.Generator().manual_seed(1)
    x0, hint = torch.randn(2, 4, 8, 8, generator=g), torch.randn(1, 4, 8, 8, generator=g)
    wide = corrections.Correction("tile_colorfix", 1.0, hint, None, 16, 0.0)
    flat = corrections.Correction("tile_colorfix", 1.0, torch.full((1, 4, 8, 8), 3.0), None, 2, 0.0)
    assert torch.allclose(flat.of(step, torch.full((2, 4, 8, 8), -1.0)), torch.full((2, 4, 8, 8), 3.0), atol=1e-5)
    assert not torch.allclose(wide.of(step, x0), x0)
    sharp = corrections.Correction("tile_colorfix+sharp", 1.0, hint, None, 2, 2.0).of(step, x0)
    plain = corrections.Correction("tile_colorfix", 1.0, hint, None, 2, 2.0).of(step, x0)
    assert torch.equal(sharp[0], plain[0]) and not torch.equal(sharp[1], plain[1])
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 24:40, 24:40] = 1
    small = corrections.latent_mask(mask)
    assert small[0, 0].nonzero().min() == 2 and small[0, 0].nonzero().max() == 5  # a latent pixel more on each side
    kept = corrections.Correction("inpaint_only", 1.0, hint, small, 9, 0.0).of(step, x0)
    inside = small.bool().expand(2, 4, 8, 8)
    assert torch.equal(kept[inside], x0[inside]) and torch.equal(kept[~inside], hint.expand(2, -1, -1, -1)[~inside])
    half = corrections.Correction("inpaint_only", 0.5, hint, small, 9, 0.0).of(step, x0)
    assert torch.allclose(half, (kept + x0) / 2)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_maps_of_adapters_go_where_the_reference_puts_them(kind: str) -> None:
    """A UNet whose blocks change nothing, and an adapter of ones."""
    for mode, expected in zip((units.BALANCED, units.PROMPT), GOLDEN["t2i_injection"][kind], strict=True):
        blocks = len(expected) - 1
        modifier: Any = control.ControlNets((), control.Networks(), NO_SIGHT)
        net = SimpleNamespace(network=SimpleNamespace(), averages=False, types=0)
        ready = control.Ready(1, unit_of(control_mode=mode), registry.MODULES["none"], cast(Any, net), 0)
        ready.guide = [torch.ones(1, 1, 2, 2)] * 4
        modifier._ready = [ready]
        modifier._run = SimpleNamespace(model=SimpleNamespace(unet=SimpleNamespace(input_blocks=range(blocks))))
        step: Any = SimpleNamespace(
            rows=[SimpleNamespace(image=0)], steps=2, pass_=SimpleNamespace(number=0), masked=lambda kind: []
        )
        modifier._sums = modifier._summed(step, torch.zeros(1, 4, 2, 2), 1.0, Cond(torch.zeros(1, 3, 4)), 0)
        h, found = torch.zeros(1, 1, 2, 2), list[float]()
        for number in range(blocks):
            h = modifier._behind(step, Layer(f"input.{number}", "input", number, 0, "block"), h)
            found.append(float(h.mean()))
        middle = modifier._behind(step, Layer("middle.0", "middle", 0, 0, "block"), torch.zeros(1, 1, 2, 2))
        assert [*found, float(middle.mean())] == pytest.approx(expected)
