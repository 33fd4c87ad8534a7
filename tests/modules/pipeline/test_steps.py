"""Hooks of the second version of the interface at work in the engine, on a tiny random model."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

import modules.nn.attention
from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.fingerprint import PatchChecks, digest, fingerprint
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.diffusion.types import Row
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import Cancelled, CheckpointError, NoNumbers, UserError
from modules.extension.contexts import JobEnd, Saving, Step
from modules.extension.host import Host, Owner
from modules.extension.modifier import Modifier, ModifierSpec, Report
from modules.extension.patcher import Patcher
from modules.gallery.inputs import InputStore
from modules.imaging.files import MODES
from modules.metadata import infotext
from modules.metadata import recipe as recipes
from modules.metadata.image_text import Encoding, encode
from modules.nn.unet import CrossAttention, ResBlock, SpatialTransformer, UNet, Upsample
from modules.params.generation import GenerationParams, Hires, Init, Mask, ModifierOptions
from modules.pipeline.hooks import Border, NoWatch
from modules.pipeline.limits import Limits
from modules.replay import replay_recipe

PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=2, seed=7, subseed=1, sampler="Euler")


@dataclass(frozen=True)
class Nothing:
    """No options."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    return ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")


@pytest.fixture
def plain(store: ModelStore) -> str:
    return run(engine_of(store, Modifier()))[0][0].recipe.pixels


def engine_of(
    store: ModelStore, *modifiers: Modifier, api: int = 2, reserved: Collection[str] = (), **more: Any
) -> Engine:
    """An engine with these modifiers, called m0, m1 ... in the order in which they are applied."""
    host = Host(reserved=reserved)
    register(host)
    part = Host(Owner("mine", "1.0", permissions=frozenset({"modifier"}), api=api))
    for i, modifier in enumerate(modifiers):
        part.add_modifier(ModifierSpec(f"m{i}", f"Modifier {i}", Nothing, lambda _, one=modifier: one, order=i))  # type: ignore[misc]
    host.take(part)
    return Engine(store, host, version="0.0", **more)


def run(engine: Engine, *names: str, **changes: Any) -> tuple[list[Result], list[str]]:
    results: list[Result] = []
    notes: list[str] = []
    chosen = ModifierOptions({name: {} for name in names})
    engine.run(PARAMS.changed(extensions=chosen, **changes), results.append, RunCallbacks(on_note=notes.append))
    return results, notes


def pixels(engine: Engine, *names: str, **changes: Any) -> str:
    (result,), notes = run(engine, *names, **changes)
    assert notes == []
    return result.recipe.pixels


# ------------------------------------------------------------------------------------------------ patches by the host


class Modifying(Modifier):
    """Changes what a function says."""

    def __init__(self, change: Callable[[Patcher], object]):
        self.change = change

    def modify(self, model: Patcher) -> None:
        self.change(model)


class ByHand(Modifier):
    """The same, by a context manager of its own."""

    def __init__(self, change: Callable[[Any], Callable[[], object]]):
        self.change = change

    @contextmanager
    def patch(self, model: Any) -> Iterator[None]:
        back = self.change(model)
        yield
        back()


def explicit(step: Step, layer: Any, q: Tensor, k: Tensor, v: Tensor, attention: Any) -> Tensor:
    """Attention as the paper writes it, with weights that are then set to those of the values' mean."""
    return v.mean(dim=2, keepdim=True).expand(-1, -1, q.shape[2], -1)


def scaled_run(unet: UNet, x: Tensor, emb: Tensor, text: Any, middle: float, skips: float) -> Tensor:
    """`UNet.run` written out, with the middle block's answer and every skip scaled."""

    def through(block: nn.Module, h: Tensor, size: Any = ()) -> Tensor:
        for layer in block.children():
            if isinstance(layer, ResBlock):
                h = layer(h, emb)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, text)
            else:
                h = layer(h, size) if isinstance(layer, Upsample) else layer(h)
        return h

    kept: list[Tensor] = []
    h = x
    for block in unet.input_blocks:
        h = through(block, h)
        kept.append(h)
    h = through(unet.middle_block, h) * middle
    for block in unet.output_blocks:
        h = torch.cat([h, kept.pop() * skips], dim=1)
        h = through(block, h, kept[-1].shape[-2:] if kept else ())
    out: Tensor = unet.out(h)
    return out


def test_attention_function_does_what_the_same_weights_would(store: ModelStore) -> None:
    def no_queries(model: Any) -> Callable[[], object]:
        # Where all queries are 0, all scores are equal, and attention answers the mean of the values.
        layers = [m for m in model.unet.modules() if isinstance(m, CrossAttention)]
        before = [m.to_q.weight.clone() for m in layers]
        for m in layers:
            m.to_q.weight.zero_()
        return lambda: [m.to_q.weight.copy_(w) for m, w in zip(layers, before, strict=True)]

    taken: list[int] = []
    ours = engine_of(store, Modifying(lambda m: taken.append(m.attention("*", explicit))), ByHand(no_queries))
    a, b = run(ours, "m0")[0][0].image, run(ours, "m1")[0][0].image
    assert _apart(a, b) <= 1
    assert taken == [32]


def _difference(a: Image.Image, b: Image.Image) -> Image.Image:
    from PIL import ImageChops

    return ImageChops.difference(a, b)


def _apart(a: Image.Image, b: Image.Image) -> int:
    return max(high for _, high in _difference(a, b).getextrema())  # type: ignore[misc]


def test_block_and_skip_functions_stand_where_the_written_out_network_has_them(store: ModelStore) -> None:
    def by_blocks(model: Patcher) -> None:
        assert model.block("middle.0", lambda step, layer, h: h * 1.5) == 1
        assert model.skip("output.*", lambda step, layer, h, skip: (h, skip * 0.5)) == 12

    def by_hand(model: Any) -> Callable[[], object]:
        unet = model.unet
        unet.run = lambda x, emb, text, copies: scaled_run(unet, x, emb, text, 1.5, 0.5)
        return lambda: delattr(unet, "run")

    engine = engine_of(store, Modifying(by_blocks), ByHand(by_hand))
    assert pixels(engine, "m0") == pixels(engine, "m1") != pixels(engine)


def test_weights_and_attributes_are_those_that_a_patch_by_hand_sets(store: ModelStore) -> None:
    def change(model: Patcher) -> None:
        assert model.weights("unet.input_blocks.0.0.weight", lambda weight: weight * 1.5) == 1
        assert model.attributes("vae.decoder.conv_out", padding_mode="circular") == 1

    def by_hand(model: Any) -> Callable[[], object]:
        weight, conv = model.unet.get_parameter("input_blocks.0.0.weight"), model.vae.decoder.conv_out
        before = weight.clone()
        weight.mul_(1.5)
        conv.padding_mode = "circular"

        def back() -> None:
            weight.copy_(before)
            conv.padding_mode = "zeros"

        return back

    engine = engine_of(store, Modifying(change), ByHand(by_hand))
    before = fingerprint(store.load()), digest(store.load())
    assert pixels(engine, "m0") == pixels(engine, "m1") != pixels(engine)
    assert (fingerprint(store.load()), digest(store.load())) == before


def everything(model: Patcher) -> None:
    model.attention("self", lambda step, layer, q, k, v, attention: attention(q, k, v) * 0.9)
    model.block("input.1", lambda step, layer, h: h * 1.1)
    model.skip("output.2", lambda step, layer, h, skip: (h, skip * 0.9))
    model.attributes(nn.Conv2d, padding_mode="circular")
    model.weights("*.norm1.weight", lambda weight: weight * 1.1)


def fail(*arguments: Any) -> Any:
    return 1 / 0


@pytest.mark.parametrize("where", ["modify", "attention", "weights", "cancel"])
def test_model_is_what_it_was_whatever_happens(store: ModelStore, plain: str, where: str) -> None:
    def change(model: Patcher) -> None:
        everything(model)
        if where == "attention":
            model.attention("middle.*", fail)
        if where == "weights":
            model.weights("unet.out.2.bias", fail)
        if where == "modify":
            raise ZeroDivisionError

    engine = engine_of(store, Modifying(change))
    before = fingerprint(store.load()), digest(store.load())
    if where == "cancel":
        with pytest.raises(Cancelled):
            calls = RunCallbacks(cancelled=iter([False, False, True, True]).__next__)
            engine.run(PARAMS.changed(extensions=ModifierOptions({"m0": {}})), lambda _: None, calls)
    else:
        (result,), notes = run(engine, "m0")
        assert notes[0].startswith(f"extension m0 failed in {where} (ZeroDivisionError")
        assert result.recipe.pixels == plain
    assert (fingerprint(store.load()), digest(store.load())) == before
    assert pixels(engine) == plain


def test_what_a_model_does_not_have_is_said_with_names_that_it_has(store: ModelStore) -> None:
    guard = Border(NoWatch()).guard("mine", store.device)
    patcher = Patcher(store.load(), lambda: pytest.fail("no step"), guard)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: patcher.attention("midle.0.0.self", explicit), "middle.0.0.self"),
        (lambda: patcher.block("nowhere", explicit), "no layer of this model is named 'nowhere'"),  # type: ignore[arg-type]
        (lambda: patcher.skip("input.1", explicit), "only output blocks join a skip"),  # type: ignore[arg-type]
        (lambda: patcher.weights("unet.out.2.wait", torch.Tensor.clone), "unet.out.2.weight"),
        (lambda: patcher.attributes(nn.Conv2d, paddings="x"), "Conv2d has no attribute 'paddings'"),
        (lambda: patcher.attributes("unet.out.2", weight=1), "use weights()"),
    ]
    for call, words in calls:
        with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
            call()


def test_weights_that_another_modifier_changes_as_it_goes_lie_below_ours(store: ModelStore) -> None:
    """As those of a prompt's networks do, whose strengths change over the steps."""

    class Below(ByHand):
        model: Any
        own: Tensor

        def denoiser(self, denoiser: Any) -> Any:
            def denoise(x: Tensor, sigma: float, step: int) -> Tensor:
                self.set(1.0 + step)
                return denoiser(x, sigma, step)  # type: ignore[no-any-return]

            return denoise

        def set(self, factor: float) -> None:
            conv = self.model.unet.out[2]
            conv.weight = nn.Parameter(self.own * factor, requires_grad=False)

    def change(model: Any) -> Callable[[], object]:
        below.model, own = model, model.unet.out[2].weight
        below.own = own.clone()
        return lambda: setattr(model.unet.out[2], "weight", own)

    below = Below(change)
    above = Modifying(lambda model: model.weights("unet.out.2.weight", lambda weight: weight * 2))
    seen: list[float] = []

    class Look(Modifier):
        def network(self, network: Any) -> Any:
            def call(x: Tensor, sigma: float, cond: Any) -> Any:
                seen.append(float((below.model.unet.out[2].weight / below.own).mean()))
                return network(x, sigma, cond)

            return call

    engine, before = engine_of(store, below, above, Look()), digest(store.load())
    run(engine, "m0", "m1", "m2")
    assert seen == pytest.approx([2.0, 4.0])
    assert digest(store.load()) == before


@pytest.mark.parametrize("what", ["attribute", "function", "bit"])
def test_what_is_left_behind_is_noticed(store: ModelStore, plain: str, what: str, monkeypatch: Any) -> None:
    def leave(model: Any) -> Callable[[], object]:
        if what == "attribute":
            model.vae.decoder.conv_out.padding_mode = "circular"
        elif what == "function":
            old = modules.nn.attention.split_heads
            modules.nn.attention.split_heads = lambda x, heads: old(x, heads)
        else:
            model.unet.get_parameter("time_embed.2.weight").view(-1)[1] += 1
        return lambda: None

    engine, function = engine_of(store, ByHand(leave)), modules.nn.attention.split_heads
    if what == "bit":  # the second of many values is not among the samples
        _, notes = run(engine, "m0")
        assert notes == []
        store.forget(store.load())
        engine.patch_checks = PatchChecks(every=1)
    _, notes = run(engine, "m0")
    whose = "the functions modules.nn.attention.split_heads" if what == "function" else "the model's weights"
    assert notes[0].startswith(f"extension m0 did not put {whose}")
    assert modules.nn.attention.split_heads is function
    assert pixels(engine) == plain


# ------------------------------------------------------------------------------------------------------ hooks of a step


class Seen(Modifier):
    """Writes down what it is told, and changes nothing."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.rows: list[tuple[Row, ...]] = []
        self.negatives: list[bool] = []

    def on_step(self, step: Step, x: Tensor, sigma: float, denoise: Any) -> Tensor:
        assert x is step.x and sigma == step.sigma
        self.steps.append(step)
        return denoise(x, sigma)  # type: ignore[no-any-return]

    def on_guidance(self, step: Step, positive: Tensor, negative: Tensor, scale: float, guidance: Any) -> Tensor:
        self.negatives.append(negative is not positive)
        return guidance(positive, negative, scale)  # type: ignore[no-any-return]

    def on_network(self, step: Step, x: Tensor, sigma: float, cond: Any, network: Any) -> Tensor:
        self.rows.append(step.rows)
        for i, row in enumerate(step.rows):
            wanted = step.uncond if row.kind == "negative" else step.cond[row.part].cond
            own = i if len(cond.context) > 1 else 0
            assert wanted is not None and torch.equal(cond.context[own], wanted.context[0])
        return network(x, sigma, cond)  # type: ignore[no-any-return]


def test_step_says_what_is_at_hand_and_which_rows_are_positive(store: ModelStore, plain: str) -> None:
    seen = Seen()
    assert pixels(engine_of(store, seen), "m0") == plain
    assert [(s.step, s.steps, s.call, s.pass_.number, s.seeds, s.image_numbers) for s in seen.steps] == [
        (i, 2, i, 0, (7,), (0,)) for i in range(2)
    ]
    assert seen.rows == [(Row(0, "positive"), Row(0, "negative"))] * 2
    seen = Seen()
    prompt = "a fox AND a hen :0.5"
    run(engine_of(store, seen), "m0", prompt=prompt, batch_size=2, batch_count=2, kernels="fast")
    assert [s.image_numbers for s in seen.steps] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert [part.weight for part in seen.steps[0].cond] == [1.0, 0.5]
    assert seen.rows[0] == tuple(
        Row(image, kind, part)  # type: ignore[arg-type]
        for kind, part in (("positive", 0), ("positive", 1), ("negative", 0))
        for image in (0, 1)
    )
    hires = Hires(upscaler="Latent", scale=2.0, steps=1, denoising_strength=0.5)
    seen = Seen()
    run(engine_of(store, seen), "m0", hires=hires, sampler="Heun")
    assert [(s.pass_.number, s.step, s.call) for s in seen.steps] == [(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 0, 0)]


@pytest.mark.parametrize("wish", ["", "guided_always", "needs_negative"])
def test_guidance_is_asked_at_cfg_1_if_it_wants(store: ModelStore, wish: str) -> None:
    seen = Seen()
    if wish:
        setattr(seen, wish, True)
    engine = engine_of(store, seen)
    for changes in ({"cfg_scale": 1.0}, {"cfg_scale": 1.0, "cfg_rescale": 0.7}):
        before = pixels(engine, **changes)
        seen.negatives.clear()
        (result,), _ = run(engine, "m0", **changes)
        assert seen.negatives == {"": [], "guided_always": [False, False], "needs_negative": [True, True]}[wish]
        if wish != "needs_negative":
            assert result.recipe.pixels == before
    seen.negatives.clear()
    run(engine, "m0", skip_early_cond=0.4)
    assert seen.negatives == {"": [True], "guided_always": [False, True], "needs_negative": [True, True]}[wish]


def test_an_evaluation_of_its_own_is_what_the_patched_network_gives(store: ModelStore) -> None:
    """As perturbed attention guidance needs it: Ahn et al. (2024), arXiv:2403.17377, eq. 14."""

    def values(step: Step, layer: Any, q: Tensor, k: Tensor, v: Tensor, attention: Any) -> Tensor:
        assert [row.kind for row in step.rows] == ["positive"]
        return v

    answers: list[Tensor] = []

    class Perturbed(Modifier):
        def on_guidance(self, step: Step, positive: Tensor, negative: Tensor, scale: float, guidance: Any) -> Tensor:
            again = step.network(step.x, step.sigma, step.cond[0].cond)
            assert torch.allclose(again, positive, atol=1e-4)
            perturbed = step.network(step.x, step.sigma, step.cond[0].cond, attention={"middle.*.self": values})
            answers.append(perturbed)
            return guidance(positive, negative, scale) + (positive - perturbed) * 3  # type: ignore[no-any-return]

    class Always(Modifier):
        """The same attention for good: then the positive answer alone is the perturbed one."""

        def modify(self, model: Patcher) -> None:
            model.attention("middle.*.self", lambda step, layer, q, k, v, attention: v)

        def network(self, network: Any) -> Any:
            def call(x: Tensor, sigma: float, cond: Any) -> Any:
                answer = network(x, sigma, cond)
                answers.append(answer)
                return answer

            return call

    engine = engine_of(store, Perturbed(), Always())
    before = digest(store.load())
    assert pixels(engine, "m0", steps=1) != pixels(engine, steps=1)
    run(engine, "m1", steps=1, cfg_scale=1.0)
    assert torch.equal(*answers)
    assert digest(store.load()) == before


class Mixes(Modifier):
    """Computes with all that it is given at once, as an author does who thinks of one image."""

    def modify(self, model: Patcher) -> None:
        model.attention("self", lambda step, layer, q, k, v, attention: attention(q, k, v) + v.mean() / 9)
        model.block("middle.0", lambda step, layer, h: h + h.mean())

    def before_pass(self, run: Any, x: Tensor) -> Tensor:
        return x / x.std()

    def on_step(self, step: Step, x: Tensor, sigma: float, denoise: Any) -> Tensor:
        return denoise(x, sigma) + x.mean() / 9  # type: ignore[no-any-return]

    def on_guidance(self, step: Step, positive: Tensor, negative: Tensor, scale: float, guidance: Any) -> Tensor:
        guided = guidance(positive, negative, scale)
        return guided * positive.std() / guided.std()  # type: ignore[no-any-return]

    def on_network(self, step: Step, x: Tensor, sigma: float, cond: Any, network: Any) -> Tensor:
        return network(x, sigma, cond) + x.mean() / 9  # type: ignore[no-any-return]

    def after_sampling(self, run: Any, latents: Tensor) -> Tensor:
        return latents / latents.std()


def test_image_alone_is_the_image_in_an_exact_batch(store: ModelStore) -> None:
    engine = engine_of(store, Mixes())
    hires = Hires(upscaler="Latent", scale=2.0, steps=1, denoising_strength=0.5)
    batch = run(engine, "m0", batch_size=3, kernels="exact", hires=hires)[0]
    assert [result.recipe.index for result in batch] == [0, 1, 2]
    for i, result in enumerate(batch):
        ((alone,), _) = run(engine, "m0", seed=7 + i, kernels="exact", hires=hires)
        assert alone.recipe.pixels == result.recipe.pixels
    assert replay_recipe(engine, recipes.read(str(batch[1].recipe))).verdict.kind == "identical"


def test_hooks_of_version_2_are_an_old_extensions_own_affair(store: ModelStore, plain: str) -> None:
    assert pixels(engine_of(store, Mixes(), api=1), "m0") == plain


@pytest.mark.parametrize("hook", ["before_pass", "on_step", "on_guidance", "on_network", "after_sampling"])
@pytest.mark.parametrize("how", ["raises", "shape"])
def test_job_goes_on_without_a_modifier_that_fails_in_a_step(
    store: ModelStore, plain: str, hook: str, how: str
) -> None:
    def wrong(self: Any, *arguments: Any) -> Any:
        return 1 / 0 if how == "raises" else torch.zeros(1)

    engine = engine_of(store, type("Failing", (Modifier,), {hook: wrong})())
    (result,), notes = run(engine, "m0")
    assert notes[0].startswith(f"extension m0 failed in {hook} (")
    assert result.recipe.pixels == plain


NAN, INFINITE = float("nan"), float("inf")


def spoilt(tensor: Tensor) -> Tensor:
    """With one value in it that is no number."""
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[tensor.numel() // 2] = NAN
    return tensor


NO_NUMBERS: dict[str, Callable[..., Any]] = {
    "before_pass": lambda self, run, x: spoilt(x),
    "on_step": lambda self, step, x, sigma, denoise: spoilt(denoise(x, sigma)),
    "on_guidance": lambda self, step, positive, negative, scale, guidance: guidance(positive, negative, INFINITE),
    "on_network": lambda self, step, x, sigma, cond, network: network(
        x, sigma, replace(cond, context=cond.context / 0)
    ),
    "after_sampling": lambda self, run, latents: spoilt(latents),
    "network": lambda self, network: lambda x, sigma, cond: network(spoilt(x), sigma, cond),
    "guidance": lambda self, guidance: lambda positive, negative, scale: spoilt(guidance(positive, negative, scale)),
    "denoiser": lambda self, denoise: lambda x, sigma, step: denoise(spoilt(x), sigma, step),
}
IN_THE_MODEL: dict[str, Callable[[Patcher], object]] = {
    "attention": lambda model: model.attention("self", lambda step, layer, q, k, v, attention: spoilt(v)),
    "block": lambda model: model.block("middle.0", lambda step, layer, h: h / 0),
    "skip": lambda model: model.skip("output.0", lambda step, layer, h, skip: (h, spoilt(skip))),
    "weights": lambda model: model.weights("unet.input_blocks.0.0.weight", spoilt),
}


class Multiplies(Modifier):
    """Lets everything through, and is never to blame."""

    def on_network(self, step: Step, x: Tensor, sigma: float, cond: Any, network: Any) -> Tensor:
        return torch.as_tensor(network(x, sigma, cond))

    def on_step(self, step: Step, x: Tensor, sigma: float, denoise: Any) -> Tensor:
        return torch.as_tensor(denoise(x, sigma))


@pytest.mark.parametrize("hook", [*NO_NUMBERS, *IN_THE_MODEL, "patch"])
def test_who_answers_with_what_is_no_number_is_named_and_left_out(store: ModelStore, plain: str, hook: str) -> None:
    def break_weight(model: Any) -> Callable[[], object]:
        weight = model.unet.get_parameter("input_blocks.0.0.weight")
        before = weight.clone()
        weight.mul_(NAN)
        return lambda: weight.copy_(before)

    broken: Modifier = ByHand(break_weight)
    if hook in NO_NUMBERS:
        broken = type("Spoils", (Modifier,), {hook: NO_NUMBERS[hook]})()
    elif hook in IN_THE_MODEL:
        broken = Modifying(IN_THE_MODEL[hook])
    engine = engine_of(store, Multiplies(), broken, Multiplies())
    (result,), notes = run(engine, "m0", "m1", "m2")
    (note,) = notes
    assert note.startswith(f"extension m1 failed in {'block' if hook == 'skip' else hook} (ValueError: it ")
    assert note.endswith(" no numbers); the job goes on without it")
    assert result.recipe.pixels == plain
    assert [used.name for used in result.recipe.extensions if used.failed] == ["m1"]


def test_who_cannot_be_shown_to_have_done_it_is_named_beside_it(store: ModelStore) -> None:
    class TooMuch(Modifier):
        """Asks our own guidance for more than a float32 holds."""

        def on_guidance(self, step: Step, positive: Tensor, negative: Tensor, scale: float, guidance: Any) -> Tensor:
            return torch.as_tensor(guidance(guidance(positive, negative, 1e30), negative, 1e30))

    with pytest.raises(NoNumbers) as failure:
        run(engine_of(store, TooMuch()), "m0")
    assert failure.value.message == "the model answered with values that are no numbers while extension m0 took part"
    assert failure.value.hint.startswith("make it without m0 or choose another sampler")


def test_a_damaged_checkpoint_is_no_extensions_fault(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "tiny.safetensors")
    store = ModelStore(tmp_path, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")
    with torch.inference_mode():
        store.load().unet.get_parameter("input_blocks.0.0.weight").mul_(NAN)
    with pytest.raises(CheckpointError, match=r"^tiny.safetensors is damaged: weights of its UNet are no numbers"):
        run(engine_of(store, Multiplies()), "m0")


def test_no_sampler_hangs_or_stumbles_over_what_is_no_number(store: ModelStore) -> None:
    class Spoils(Modifier):
        def on_step(self, step: Step, x: Tensor, sigma: float, denoise: Any) -> Tensor:
            return spoilt(denoise(x, sigma))

    engine = engine_of(store, Spoils())
    for sampler in engine.host.samplers.names():
        results, notes = run(engine, "m0", sampler=sampler)
        assert [len(results), *(note.partition(" (")[0] for note in notes)] == [1, "extension m0 failed in on_step"]


# ---------------------------------------------------------------------------------------------------- images and jobs


@pytest.mark.parametrize(
    "changes", [{"sampler": "none of ours"}, {"steps": 0}, {"cfg_scale": NAN}, {"width": "wide"}, {"hires": 7}]
)
def test_who_asks_for_what_cannot_be_is_named_and_left_out(
    store: ModelStore, plain: str, changes: dict[str, Any]
) -> None:
    class Asks(Modifier):
        def revise(self, params: GenerationParams) -> GenerationParams:
            return replace(params, seed=-1, **changes)

    (result,), notes = run(engine_of(store, Asks()), "m0")
    assert [note.partition(" be: ")[0] for note in notes] == [
        "extension m0 failed in revise (ValueError: it asks for what cannot"
    ]
    assert result.recipe.pixels == plain


PICTURES: dict[str, Callable[[Image.Image], Any]] = {
    "numbers": lambda image: Image.new("F", image.size, NAN),
    "inks": lambda image: image.convert("CMYK"),
    "nothing": lambda image: image.crop((0, 0, 0, 0)),
    "array": lambda image: [[0, 0, 0]],
}


@pytest.mark.parametrize("what", PICTURES)
@pytest.mark.parametrize("hook", ["finish", "after_batch", "after_image", "before_save"])
def test_who_gives_a_picture_that_cannot_be_saved_is_named_and_left_out(
    store: ModelStore, plain: str, hook: str, what: str
) -> None:
    def give(self: Any, image: Any, *arguments: Any) -> Any:
        if hook == "after_batch":
            return [PICTURES[what](one) for one in arguments[0]]
        made = PICTURES[what](image)
        return Saving(made) if hook == "before_save" else made

    (result,), notes = run(engine_of(store, type("Gives", (Modifier,), {hook: give})()), "m0")
    assert [note.partition(": it must give a picture ")[0] for note in notes] in (
        [f"extension m0 failed in {hook} (TypeError"],
        [f"extension m0 failed in {hook} (ValueError"],
        [f"extension m0 failed in {hook} (TypeError: it must give a picture, not list); the job goes on without it"],
    )
    assert result.recipe.pixels == plain


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_that_a_hook_may_give_comes_back_from_every_format(mode: str) -> None:
    image = Image.linear_gradient("L").resize((32, 32)).convert("RGB").convert(mode)
    for name in ("png", "webp", "jpg"):
        data, _ = encode(image, "a text", "", Encoding(name, lossless=True))
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.size == image.size
            assert name != "png" or opened.tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "told",
    [
        *({key: 9} for key in ("Steps", "steps", "Size-1", "Version", "negative prompt", "Inner generations")),
        *({key: 9} for key in ("Modifier 1", "a, b", "a: b", "", "x", " a", "a ", "a\nb", 7)),
        *({"Mine": value} for value in (object(), [1], {"a": 1}, "x" * 20_000)),
        "Mine",
    ],
)
def test_a_modifier_cannot_tell_what_the_generation_text_says_or_what_breaks_it(store: ModelStore, told: Any) -> None:
    class Tells(Modifier):
        def __init__(self, hook: str):
            self.hook = hook

        def report(self) -> Report:
            return Report(told=told if self.hook == "report" else {})

        def before_save(self, image: Image.Image, made: Any) -> Saving | None:
            return Saving(image, facts=told) if self.hook == "before_save" else None

    plain = run(engine_of(store, reserved=infotext.RESERVED))[0][0].infotext
    for hook in ("report", "before_save"):
        (result,), notes = run(engine_of(store, Tells(hook), Modifier(), reserved=infotext.RESERVED), "m0")
        assert [note.partition(" (")[0] for note in notes] == [f"extension m0 failed in {hook}"]
        assert result.infotext == plain


def test_two_that_tell_one_key_differently_are_named(store: ModelStore) -> None:
    class Tells(Modifier):
        def __init__(self, value: str):
            self.value = value

        def report(self) -> Report:
            return Report(told={"Mood": self.value, "Same": 1})

    engine = engine_of(store, Tells("calm"), Tells("grim"), reserved=infotext.RESERVED)
    (result,), notes = run(engine, "m0", "m1")
    assert infotext.read(result.infotext)["Mood"] == "grim"
    assert notes == ["m0 and m1 both tell Mood in the generation text: m1 has the last word"]


def test_what_a_modifier_may_tell_is_read_as_it_was_told(store: ModelStore) -> None:
    told = {"My faces": "a: 1, b\n2", "Über-größe": 7, "A/B": 0.5, "Modifier 0": "its own", "Left out": None}

    class Tells(Modifier):
        def before_save(self, image: Image.Image, made: Any) -> Saving:
            return Saving(image, facts=told)

    (result,), notes = run(engine_of(store, Tells(), reserved=infotext.RESERVED), "m0")
    read = infotext.read(result.infotext)
    assert notes == []
    assert {key: read.get(key) for key in told} == {
        "My faces": "a: 1, b\n2",
        "Über-größe": "7",
        "A/B": "0.5",
        "Modifier 0": "True",
        "Left out": None,
    }


@dataclass
class Diary(Modifier):
    calls: list[Any] = field(default_factory=list)

    def after_batch(self, batch: Any, images: list[Image.Image]) -> list[Image.Image]:
        self.calls.append(("batch", batch.seeds, batch.image_numbers, len(images)))
        return [ImageOps.invert(image) for image in images]

    def before_save(self, image: Image.Image, made: Any) -> Saving | None:
        self.calls.append(("before", made.number, made.seed))
        return Saving(ImageOps.mirror(image), f"no{made.number}", {"Diary": f"{made.number}, kept"})

    def on_saved(self, path: Path, made: Any) -> None:
        self.calls.append(("saved", path.name, "Diary" in made.infotext, recipes.read(made.recipe).seed))

    def job_ended(self, end: JobEnd) -> None:
        self.calls.append((end.state, end.images, end.error))


def test_images_are_told_of_from_the_batch_to_the_file(store: ModelStore) -> None:
    diary = Diary()
    engine = engine_of(store, diary)
    before = run(engine, batch_size=2)[0]

    def save(result: Result) -> None:
        results.append(result)
        result.saved(Path(f"{result.name}.png"))

    results: list[Result] = []
    engine.run(PARAMS.changed(batch_size=2, extensions=ModifierOptions({"m0": {}}), kernels="fast"), save)
    assert diary.calls == [
        ("batch", (7, 8), (0, 1), 2),
        *(one for i in (0, 1) for one in (("before", i, 7 + i), ("saved", f"no{i}.png", True, 7 + i))),
        ("done", 2, ""),
    ]
    for old, new in zip(before, results, strict=True):
        assert new.image.tobytes() == ImageOps.mirror(ImageOps.invert(old.image)).tobytes()
        assert new.recipe.pixels == recipes.pixel_hash(new.image)
    assert 'Diary: "1, kept"' in results[1].infotext

    def stop(result: Result) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        engine.run(PARAMS.changed(extensions=ModifierOptions({"m0": {}})), stop)
    assert diary.calls[-1] == ("cancelled", 1, "")


class Inner(Modifier):
    """Makes another image of the image, and repaints its left half."""

    def __init__(self, times: int = 1):
        self.times = times

    def after_image(self, image: Image.Image, context: Any) -> Image.Image:
        init = Init(denoising_strength=0.5, mask=Mask(blur=0))
        params = context.params.changed(prompt="a blue hen", init=init, seed=-1, extensions=ModifierOptions({"m0": {}}))
        for _ in range(self.times):
            mask = Image.new("L", image.size, 0)
            mask.paste(255, (0, 0, 32, 64))
            image = context.inpaint(image, mask, params)
        assert context.generate(params.changed(init=None)).size == (64, 64)
        return image


def test_generation_within_a_generation_is_recorded_told_and_replayed(store: ModelStore, tmp_path: Path) -> None:
    engine = engine_of(store, Inner(), inputs=InputStore(tmp_path))
    outer = run(engine, batch_size=2)[0]
    before = digest(store.load())
    results, notes = run(engine, "m0", batch_size=2)
    assert notes == []
    assert digest(store.load()) == before
    for i, (old, new) in enumerate(zip(outer, results, strict=True)):
        right = (32, 0, 64, 64)
        assert new.image.crop(right).tobytes() == old.image.crop(right).tobytes()
        assert new.image.tobytes() != old.image.tobytes()
        assert [str(one) for one in new.recipe.inner] == [
            f"m0 inpaint 64x64, 2 steps, strength 0.5, seed {7 + i}",
            f"m0 generate 64x64, 2 steps, seed {7 + i}",
        ]
        assert f'Inner generations: "m0 inpaint 64x64, 2 steps, strength 0.5, seed {7 + i}; m0 gen' in new.infotext
        again = recipes.read(str(new.recipe))
        assert again == new.recipe
        assert replay_recipe(engine, again).verdict.kind == "identical"
    assert list(tmp_path.iterdir()) == []  # what was of that moment is not kept
    # It is what an ordinary request over the same image and mask gives.
    inputs, inner = InputStore(tmp_path), results[0].recipe.inner[0].request
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    init = inner.init
    assert init and init.mask and (inputs.put(outer[0].image), inputs.put(mask)) == (init.image, init.mask.image)
    made: list[Result] = []
    engine.run(inner, made.append)
    assert made[0].image.tobytes() == results[0].image.tobytes()


def test_a_generation_within_an_image_is_held_against_the_limits(store: ModelStore, tmp_path: Path) -> None:
    class Larger(Modifier):
        def after_image(self, image: Image.Image, context: Any) -> Image.Image:
            larger: Image.Image = context.generate(context.params.changed(width=128, extensions=ModifierOptions()))
            return larger

    engine = engine_of(store, Larger(), inputs=InputStore(tmp_path))
    assert run(engine, "m0")[0][0].image.width == 128
    engine.limits = Limits(64 * 64)
    with pytest.raises(UserError, match=r"at most 0\.004096 megapixels"):
        run(engine, "m0")


def test_generations_within_an_image_end_with_the_job_and_are_limited(store: ModelStore, tmp_path: Path) -> None:
    engine = engine_of(store, Inner(99), inputs=InputStore(tmp_path))
    (result,), notes = run(engine, "m0", steps=1)
    assert "more than 50 generations within one image" in notes[0]
    assert result.recipe.inner == ()
    steps: list[int] = []
    calls = RunCallbacks(on_progress=lambda p: steps.append(p.step), cancelled=lambda: len(steps) >= 3)
    with pytest.raises(Cancelled):
        engine.run(PARAMS.changed(extensions=ModifierOptions({"m0": {}})), lambda _: None, calls)
    assert len(steps) == 3  # two of the image, one of the first within it
