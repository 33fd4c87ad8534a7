"""Modifiers at work in the engine, on a tiny random model: their order, their truth, and what one that fails costs."""

from __future__ import annotations

import gc
import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.fingerprint import digest
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.diffusion.types import Denoiser, Guidance, Network
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import Cancelled, UserError
from modules.extension.contexts import SamplingPass
from modules.extension.host import Host, Owner, TagSpec
from modules.extension.loader import PRIVATE, Loader
from modules.extension.manifest import Refused
from modules.extension.modifier import Modifier, ModifierSpec, Report, UsedFile, from_text, to_text
from modules.jobs.watchdog import HookWatch
from modules.metadata import infotext
from modules.metadata import recipe as recipes
from modules.params.generation import GenerationParams, Hires, ModifierOptions
from modules.params.options import option
from modules.pipeline.hooks import HookFailed
from modules.pipeline.plan import make_plan
from modules.replay import replay_recipe

ROOT = Path(__file__).parents[3]
PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=2, seed=7, subseed=1)


@dataclass(frozen=True)
class Strength:
    amount: float = option(0.5, "Amount", lo=0.0, hi=1.0, step=0.01)
    words: str = option("", "Words")


class Everything(Modifier):
    """Does a little in each hook, and writes down when it was called."""

    def __init__(self, name: str, options: Strength, calls: list[str]):
        self.name = name
        self.options = options
        self.calls = calls

    def revise(self, params: GenerationParams) -> GenerationParams:
        self.calls.append(f"revise {self.name}")
        return params.changed(prompt=f"{params.prompt}{self.options.words}")

    @contextmanager
    def patch(self, model: Any) -> Iterator[None]:
        self.calls.append(f"patch {self.name}")
        weight = model.unet.get_parameter("input_blocks.0.0.weight")
        before = weight.clone()
        weight.mul_(1 + self.options.amount)
        try:
            yield
        finally:
            weight.copy_(before)

    def network(self, network: Network) -> Network:
        def call(x: Any, sigma: float, cond: Any) -> Any:
            self.calls.append(f"network {self.name}")
            return network(x, sigma, cond) * (1 - self.options.amount / 10)

        return call

    def guidance(self, guidance: Guidance) -> Guidance:
        return lambda positive, negative, scale: guidance(positive, negative, scale / 2)

    def denoiser(self, denoiser: Denoiser) -> Denoiser:
        return lambda x, sigma, step: denoiser(x, sigma, step).clamp(-2, 2)

    def finish(self, image: Image.Image) -> Image.Image:
        self.calls.append(f"finish {self.name}")
        return ImageOps.invert(image)


def spec(name: str, calls: list[str], order: int = 100) -> ModifierSpec:
    return ModifierSpec(name, f"Do {name}", Strength, lambda o: Everything(name, o, calls), order)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    return ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")


def engine_of(store: ModelStore, *specs: ModifierSpec, version: str = "1.0", **more: Any) -> Engine:
    host = Host()
    register(host)
    part = Host(Owner("mine", version, permissions=frozenset({"modifier", "tag"})))
    for one in specs:
        part.add_modifier(one)
    host.take(part)
    return Engine(store, host, version="0.0", **more)


@pytest.fixture(scope="module")
def broken(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    loader = Loader(ROOT / "tests" / "broken", tmp_path_factory.mktemp("data"), ROOT, process="command")
    host = Host()
    register(host)
    loader.load_all(host)
    return Engine(store, host, version="0.0", absent=loader.absent())


@pytest.fixture(scope="module")
def plain(broken: Engine) -> list[str]:
    """Two pictures made without extensions."""
    return [result.recipe.pixels for result in run(broken, batch_count=2)[0]]


def run(engine: Engine, params: GenerationParams = PARAMS, **changes: Any) -> tuple[list[Result], list[str]]:
    results: list[Result] = []
    notes: list[str] = []
    engine.run(params.changed(**changes), results.append, RunCallbacks(on_note=notes.append))
    return results, notes


def chosen(**values: Any) -> ModifierOptions:
    return ModifierOptions(values)


def test_all_hooks_are_called_in_the_order_that_is_told(store: ModelStore) -> None:
    calls: list[str] = []
    engine = engine_of(store, spec("b", calls), spec("a", calls), spec("last", calls, 200), spec("idle", calls, 0))
    ((result,), notes) = run(engine, extensions=chosen(b={}, a={"words": ", at night"}, last={}))
    names = ["a", "b", "last"]
    assert [c for c in calls if not c.startswith("network")] == [
        f"{h} {n}" for h in ("revise", "patch", "finish") for n in names
    ]
    assert calls[6:9] == ["network last", "network b", "network a"]  # the lowest order is nearest to the network
    assert notes == []
    assert [used.name for used in result.recipe.extensions] == names
    assert result.recipe.extensions[0].changed == {"prompt": "a red fox, at night"}
    assert result.infotext.startswith("a red fox, at night\n")
    assert result.recipe.request.prompt == "a red fox"


def test_weights_are_to_the_last_bit_what_they_were_also_after_a_stop(store: ModelStore) -> None:
    engine = engine_of(store, spec("a", []))
    before = digest(store.load())
    run(engine, extensions=chosen(a={}))
    assert digest(store.load()) == before

    def stop(result: Result) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        engine.run(PARAMS.changed(extensions=chosen(a={}), batch_size=2), stop)
    assert digest(store.load()) == before


def test_texts_that_a_patched_model_read_are_not_kept_for_others(store: ModelStore) -> None:
    class Deaf(Modifier):
        @contextmanager
        def patch(self, model: Any) -> Iterator[None]:
            weight = next(iter(model.text.parameters()))
            before = weight.clone()
            weight.zero_()
            yield
            weight.copy_(before)

    engine = engine_of(store, ModifierSpec("deaf", "Deaf", Strength, lambda o: Deaf()))
    plain = run(engine)[0][0].recipe.pixels
    assert run(engine, extensions=chosen(deaf={}))[0][0].recipe.pixels != plain
    assert run(engine)[0][0].recipe.pixels == plain


@pytest.mark.parametrize(
    "hook",
    [
        *("make", "revise", "patch", "unpatch", "network", "call", "answer", "guidance", "denoiser", "finish", "exit"),
        *("report", "telling", "state"),
    ],
)
def test_job_goes_on_without_an_extension_that_fails_in_a_hook(broken: Engine, plain: list[str], hook: str) -> None:
    count = 2 if hook == "unpatch" else 1
    results, notes = run(broken, batch_count=count, extensions=chosen(each_hook={"hook": hook}))
    assert len(notes) == 1
    assert notes[0].startswith("extension each_hook failed in ")
    assert notes[0].endswith("; the job goes on without it")
    made = 1 if hook == "unpatch" else 0  # its first picture was there before it failed
    assert [result.recipe.pixels for result in results][made:] == plain[made:count]
    assert all(result.recipe.extensions[0].failed for result in results[made:])


def test_replay_leaves_out_what_had_failed(broken: Engine) -> None:
    (result,), _ = run(broken, extensions=chosen(each_hook={"hook": "call"}))
    assert replay_recipe(broken, recipes.read(str(result.recipe))).verdict.kind == "identical"


def test_spoilt_weights_are_found_and_loaded_anew(broken: Engine) -> None:
    before = digest(broken.store.load())
    _, notes = run(broken, extensions=chosen(spoils={}))
    assert notes == ["extension spoils did not put the model's weights or attributes back; the model is loaded anew"]
    assert digest(broken.store.load()) == before


def test_leak_is_told_after_the_third_picture(broken: Engine, tmp_path: Path) -> None:
    """Or a few later, where the process gives back what earlier tests held while the images are made."""
    gc.collect()
    engine = Engine(broken.store, broken.host, version="0.0", watch=HookWatch(tmp_path))
    _, notes = run(engine, batch_count=7, extensions=chosen(leaks={}))
    assert len(notes) == 1
    assert re.fullmatch(
        r"extension leaks: it keeps about \d\d MB more with every picture; memory will run out", notes[0]
    )
    sys.modules[f"{PRIVATE}leaks"].KEPT.clear()


def test_request_for_what_is_broken_is_done_without_it_and_for_what_is_not_there_refused(broken: Engine) -> None:
    (result,), notes = run(broken, extensions=chosen(raises={}))
    assert notes == ["made without extension raises: RuntimeError: <b>it cannot be imported</b>"]
    assert [(u.name, bool(u.failed)) for u in result.recipe.extensions] == [("raises", True)]
    with pytest.raises(UserError, match="no modifier named 'nowhere'"):
        run(broken, extensions=chosen(nowhere={}))
    with pytest.raises(UserError, match="Each hook has no option 'no'; it has hook"):
        run(broken, extensions=chosen(each_hook={"no": 1}))


def test_image_revised_by_its_own_seed_is_the_same_alone_and_in_a_batch(store: ModelStore) -> None:
    class Seeded(Modifier):
        def revise(self, params: GenerationParams) -> GenerationParams:
            return params.changed(prompt=f"{params.prompt} {params.seed // 2}", steps=2)

    engine = engine_of(store, ModifierSpec("seeded", "Seeded", Strength, lambda o: Seeded()))
    wanted = chosen(seeded={})
    batch = run(engine, batch_size=4, extensions=wanted, kernels="exact")[0]
    assert [r.infotext.splitlines()[0] for r in batch] == [f"a red fox {n}" for n in (3, 4, 4, 5)]
    for i, result in enumerate(batch):
        (alone,) = run(engine, seed=7 + i, extensions=wanted, kernels="exact")[0]
        assert alone.recipe.pixels == result.recipe.pixels
        assert alone.infotext == result.infotext.replace(f"Seed: {7 + i}, Size", f"Seed: {7 + i}, Size")
    plan = make_plan(PARAMS.changed(batch_size=4), engine.host, lambda p: (p.changed(steps=2 + p.seed // 2), {}))
    assert [(b.first_image, b.seeds, b.params.steps) for b in plan.batches] == [
        (0, (7,), 5),
        (1, (8, 9), 6),
        (3, (10,), 7),
    ]


def test_tag_in_the_prompt_lets_a_modifier_take_part(store: ModelStore) -> None:
    engine = engine_of(store, spec("a", []))
    engine.host.add_tag(TagSpec("a", "a", lambda tags: {"amount": float(tags[-1].positional[0])}))
    (tagged,), _ = run(engine, prompt="a red fox <a:0.25>")
    (asked,), _ = run(engine, extensions=chosen(a={"amount": 0.25}))
    assert tagged.recipe.pixels == asked.recipe.pixels
    assert tagged.recipe.extensions[0].options == {"amount": 0.25, "words": ""}
    assert not tagged.recipe.request.extensions


def test_replay_says_what_became_of_an_extension(store: ModelStore) -> None:
    engine = engine_of(store, spec("a", []))
    (result,), _ = run(engine, extensions=chosen(a={"words": " x"}))
    recorded = recipes.read(str(result.recipe))
    assert recorded == result.recipe
    assert replay_recipe(engine, recorded).verdict.kind == "identical"
    gone = replay_recipe(engine_of(store), recorded).verdict
    assert str(gone) == "cannot, because extension a 1.0 is missing"

    def other(options: Strength) -> Modifier:
        return Everything("a", Strength(amount=1.0, words=options.words), [])

    newer = engine_of(store, ModifierSpec("a", "Do a", Strength, other), version="1.1")
    assert replay_recipe(newer, recorded).verdict.reasons == ("extension a 1.0 became 1.1",)


def test_recipe_of_before_there_were_extensions_is_read_and_written_as_it_was(store: ModelStore) -> None:
    (result,), _ = run(engine_of(store))
    values = json.loads(str(result.recipe))
    assert "extensions" not in values
    assert "extensions" not in values["request"]
    assert str(recipes.read(json.dumps(values))) == str(result.recipe)


WORDS = ["", "plain", "a, b: c", "8x8", '"quoted"', "[x]", " lead", "trail ", "new\nline", "None", "é, ü", "1.0"]


@pytest.mark.parametrize("words", WORDS)
def test_options_come_back_from_json_and_from_the_generation_text(store: ModelStore, words: str) -> None:
    one = spec("a", [])
    params = PARAMS.changed(extensions=chosen(a=one.chosen({"amount": 0.1, "words": words})))
    assert GenerationParams.from_json(json.loads(json.dumps(params.to_json()))) == params
    host = engine_of(store, one).host
    sampler = host.samplers.get("Euler a")
    text = infotext.write(params, seed=1, subseed=1, sampler=sampler, scheduler="Automatic", modifiers=[one])
    paste = infotext.params_from(infotext.read(text), host.samplers, host.schedulers, modifiers=[one])
    assert paste.changes["extensions"] == params.extensions.to_json()
    assert paste.notes == ()
    without = infotext.write(PARAMS, seed=1, subseed=1, sampler=sampler, scheduler="Automatic", modifiers=[one])
    assert (
        infotext.params_from(infotext.read(without), host.samplers, host.schedulers, modifiers=[one]).changes[
            "extensions"
        ]
        == {}
    )


def test_value_in_a_text_that_cannot_be_is_noted() -> None:
    notes: list[str] = []
    parsed = {"Do a": "True", "Do a amount": "9", "Do a words": "x"}
    assert from_text([spec("a", [])], parsed, notes)[0] == {"a": {"amount": 0.5, "words": "x"}}
    assert notes == ["Do a: Amount must be between 0 and 1, not '9'; the default stands for it"]
    assert to_text([spec("a", [])], chosen(a={"amount": 0.25})) == {"Do a": True, "Do a amount": 0.25}


def test_keys_of_other_programs_are_read_into_options(store: ModelStore) -> None:
    part = Host(Owner("mine", "1.0", permissions=frozenset({"modifier"})), reserved=infotext.RESERVED)
    part.add_modifier(spec("a", []))
    part.reads_key("ADetailer model", "a", "words")
    part.reads_key("ADetailer confidence", "a", "amount", lambda text: float(text) / 100)
    part.reads_key("ADetailer version", "a")
    host = engine_of(store).host
    host.take(part)
    text = "a fox\nSteps: 4, Seed: 1, ADetailer model: face.pt, ADetailer confidence: {}, ADetailer version: 24.1"

    def pasted(text: str) -> infotext.Paste:
        return infotext.params_from(infotext.read(text), host.samplers, host.schedulers, modifiers=host.modifiers)

    paste = pasted(text.format(30))
    assert paste.changes["extensions"] == {"a": {"amount": 0.3, "words": "face.pt"}}
    assert paste.notes == ()
    paste = pasted(text.format("much"))
    assert paste.changes["extensions"] == {"a": {"amount": 0.5, "words": "face.pt"}}
    assert paste.notes == ("Do a: Amount cannot be read; the default stands for it",)
    assert pasted("a fox\nSteps: 4, Seed: 1, Do a: True, ADetailer model: x").changes["extensions"]["a"]["words"] == ""
    for key, modifier, name, reason in (
        ("Steps", "a", "words", "is read already"),
        ("ADetailer model", "a", "words", "is read already"),
        ("Other", "a", "wards", "has no option 'wards'"),
        ("Other", "b", "words", "which it did not add"),
    ):
        with pytest.raises(Refused, match=reason):
            part.reads_key(key, modifier, name)


def test_waiting_job_of_a_modifier_that_is_gone_is_done_without_it_and_says_so(store: ModelStore) -> None:
    engine = engine_of(store, absent={"gone": "its extension mine: it is switched off"})
    (result,), notes = run(engine, extensions=chosen(gone={"amount": 1}))
    assert notes == ["made without extension gone: its extension mine: it is switched off"]
    assert [(used.name, used.failed) for used in result.recipe.extensions] == [
        ("gone", "its extension mine: it is switched off")
    ]


@pytest.mark.parametrize("values", [[], {"a": 1}, {"a": {"b": [1]}}, {"a": {"b": {}}}])
def test_extensions_of_a_request_are_objects_of_plain_values(values: Any) -> None:
    with pytest.raises(UserError):
        GenerationParams.from_json({"extensions": values})


def test_chosen_is_compared_by_content() -> None:
    one, same = ModifierOptions({"b": {"y": 1, "x": 2}, "a": {}}), ModifierOptions({"a": {}, "b": {"x": 2, "y": 1}})
    assert (one, hash(one)) == (same, hash(same))
    assert one != ModifierOptions({"a": {}, "b": {"x": 2, "y": True}})
    assert one.without("b") == ModifierOptions({"a": {}})


def test_an_interrupt_that_no_person_can_have_sent_is_laid_at_the_extensions_door(
    broken: Engine, plain: list[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the worker does
    try:
        (result,), notes = run(broken, extensions=chosen(each_hook={"hook": "interrupt"}))
    finally:
        signal.signal(signal.SIGINT, before)
    assert notes == ["extension each_hook failed in finish (KeyboardInterrupt); the job goes on without it"]
    assert result.recipe.pixels == plain[0]


def test_ctrl_c_on_the_command_line_ends_the_request(broken: Engine) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(broken, extensions=chosen(each_hook={"hook": "interrupt"}))


def test_the_reason_of_a_failure_has_an_end() -> None:
    failure = HookFailed("mine", "finish", ValueError("x" * 10_000_000))
    assert len(failure.reason) < 400 and len(str(failure)) < 500


class Told(Modifier):
    """Writes down what it is told of a batch, and tells of it."""

    def __init__(self, calls: list[object]):
        self.calls = calls

    def prepare(self, passes: Sequence[SamplingPass], model: Any, recorded: Sequence[UsedFile]) -> None:
        self.calls.append([(one.number, one.prompt, one.clock.steps) for one in passes])

    def patch(self, model: Any) -> AbstractContextManager[object]:
        self.calls.append("patch")
        return nullcontext()

    def begin(self, run: SamplingPass) -> None:
        self.calls.append(("begin", run.number))

    def report(self) -> Report:
        return Report(("it was so",), (UsedFile("mine", "a.bin", "0" * 64),), {"My key": "a: 1"})


def test_a_modifier_is_told_of_the_passes_and_tells_of_the_batch(store: ModelStore) -> None:
    calls: list[object] = []
    told = ModifierSpec("told", "Be told", Nothing, lambda _: Told(calls))
    hires = Hires(upscaler="Latent", scale=2.0, steps=1, prompt="two foxes", denoising_strength=0.5)
    params = PARAMS.changed(hires=hires, extensions=ModifierOptions({"told": {}}))
    (result,), notes = run(engine_of(store, told), params)
    assert calls == [[(0, "a red fox", 2), (1, "two foxes", 1)], "patch", ("begin", 0), ("begin", 1)]
    assert notes == ["it was so"]
    assert [file.role for file in result.recipe.files] == ["checkpoint", "mine"]
    assert 'My key: "a: 1"' in result.infotext


@dataclass(frozen=True)
class Nothing:
    """No options."""
