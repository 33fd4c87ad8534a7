"""Prompts are parsed once, after extensions revised them, and both passes' tags decide who takes part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import modules.pipeline.conditioning
import modules.pipeline.prompts
from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.fingerprint import digest
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Result
from modules.extension.host import Host, TagSpec
from modules.extension.modifier import Modifier, ModifierSpec
from modules.params.generation import GenerationParams, Hires, ModifierOptions
from modules.params.options import option
from modules.pipeline.hooks import HookFailed, RequestHooks
from modules.pipeline.plan import Plan, make_plan
from modules.pipeline.prompts import PromptParser
from modules.pipeline.used_embeddings import unapplied_networks
from modules.prompt.parse import parse

PARAMS = GenerationParams(prompt="a fox", width=64, height=64, steps=1, seed=7, subseed=1)


@dataclass(frozen=True)
class Nothing:
    """No options."""


@dataclass(frozen=True)
class Names:
    names: str = option("", "Names")


class Wildcards(Modifier):
    """``__net__`` is a network by the image's seed, and of ``{a|b}`` the first choice is taken."""

    def revise(self, params: GenerationParams) -> GenerationParams:
        prompt = params.prompt.replace("__net__", "<net:even:1>" if params.seed % 2 == 0 else "<net:odd:1>")
        head, brace, rest = prompt.partition("{")
        choices, _, tail = rest.partition("}")
        return params.changed(prompt=head + choices.split("|")[0] + tail if brace else prompt)


class Networks(Modifier):
    """Moves a weight by what its networks are called, while a pass is made."""

    def __init__(self, options: Names, log: list[str]):
        self.names = options.names
        self.log = log

    @contextmanager
    def patch(self, model: Any) -> Iterator[None]:
        self.log.append(f"on {self.names}")
        weight = model.unet.get_parameter("input_blocks.0.0.weight")
        before = weight.clone()
        weight.mul_(1 + len(self.names) / 10)
        yield
        weight.copy_(before)
        self.log.append(f"off {self.names}")


def names_of(tags: Any) -> dict[str, str]:
    return {"names": " ".join(tag.positional[0] for tag in tags)}


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def host(log: list[str]) -> Host:
    host = Host()
    register(host)
    host.add_modifier(ModifierSpec("wildcards", "Wildcards of a test", Nothing, lambda _: Wildcards()))
    host.add_modifier(ModifierSpec("nets", "Networks of a test", Names, lambda options: Networks(options, log)))
    host.add_tag(TagSpec("net", "nets", names_of))
    return host


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    return ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")


def planned(host: Host, **changes: Any) -> tuple[RequestHooks, Plan]:
    params, parser = PARAMS.changed(extensions=ModifierOptions({"wildcards": {}}), **changes), PromptParser()
    hooks = RequestHooks(host, params.extensions, parser=parser)
    return hooks, make_plan(params, host, hooks.reviser(params.prompt), parser)


def called(host: Host, **changes: Any) -> list[list[Any]]:
    """What the tags' modifier is made with, by batch and pass; None where it has no part."""
    hooks, plan = planned(host, **changes)
    return [
        [next((a.options["names"] for a in each.active if a.spec.name == "nets"), None) for each in hooks.passes(batch)]
        for batch in plan.batches
    ]


def test_tags_are_read_when_wildcards_are_drawn(host: Host) -> None:
    assert called(host, prompt="a fox __net__", batch_size=3) == [["odd"], ["even"], ["odd"]]


def test_tags_are_read_when_one_of_several_choices_is_taken(host: Host) -> None:
    assert called(host, prompt="a fox {<net:a:1>|<net:b:1>}") == [["a"]]
    assert called(host, prompt="a fox {plain|<net:b:1>}") == [[None]]


def test_each_pass_has_the_networks_of_its_own_prompt(host: Host) -> None:
    assert called(host, prompt="a <net:first:1>", hires=Hires(prompt="b <net:x:1> <net:y>")) == [["first", "x y"]]
    assert called(host, prompt="a", hires=Hires(prompt="b <net:x:1>")) == [[None, "x"]]
    assert called(host, prompt="a <net:first:1>", hires=Hires(prompt="b")) == [["first", None]]


def test_a_second_pass_without_a_prompt_of_its_own_has_the_revised_one_of_the_first(host: Host) -> None:
    hooks, plan = planned(host, prompt="a __net__", hires=Hires())
    first, second = hooks.passes(plan.batches[0])
    assert first is second  # so that patches stay on between the passes
    assert [tag.positional[0] for tag in plan.batches[0].passes[1].prompts.networks] == ["odd"]


def test_a_modifier_that_a_tag_calls_revises_in_its_place(host: Host) -> None:
    class Louder(Modifier):
        def __init__(self, options: Names):
            self.names = options.names

        def revise(self, params: GenerationParams) -> GenerationParams:
            return params.changed(prompt=f"{params.prompt} {self.names}")

    host.add_modifier(ModifierSpec("louder", "Louder", Names, Louder, order=1))
    host.add_tag(TagSpec("loud", "louder", names_of))
    for chosen in (ModifierOptions(), ModifierOptions({"wildcards": {}})):
        params = PARAMS.changed(prompt="a fox <loud:x> {__net__|y}", extensions=chosen)
        plan = make_plan(params, host, RequestHooks(host, chosen).reviser(params.prompt))
        assert plan.batches[0].params.prompt == "a fox <loud:x> " + ("<net:odd:1>" if chosen else "{__net__|y}") + " x"
        assert ["louder", *chosen] == list(plan.batches[0].changed)


def test_negative_prompts_have_no_networks(host: Host) -> None:
    _, plan = planned(host, negative_prompt="<lora:a:1>", hires=Hires(negative_prompt="<lora:b:1>"))
    assert unapplied_networks(plan.batches[0], ()) == ()
    assert plan.batches[0].prompts.negative == parse("<lora:a:1>", negative=True).tree


def test_options_that_a_tag_cannot_give_are_the_extension_s_fault(host: Host) -> None:
    host.add_tag(TagSpec("bad", "nets", lambda tags: {"names": tags[0].positional[9]}))
    with pytest.raises(HookFailed, match=r"extension nets failed in options \(IndexError"):
        called(host, prompt="<bad:1>")


def test_absent_modifiers_are_not_called(host: Host) -> None:
    hooks = RequestHooks(host, ModifierOptions(), absent={"nets"})
    assert hooks.of(parse("<net:a>").tree.networks).active == ()


def test_every_prompt_of_a_job_is_parsed_once(host: Host, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: Counter[str] = Counter()

    def counting(text: str, **options: Any) -> Any:
        parsed[text] += 1
        return parse(text, **options)

    for module in (modules.pipeline.prompts, modules.pipeline.conditioning):
        monkeypatch.setattr(module, "parse", counting)
    results: list[Result] = []
    params = PARAMS.changed(
        prompt="a {fox|dog} <net:a>",
        negative_prompt="snow",
        extensions=ModifierOptions({"wildcards": {}}),
        batch_count=2,
    )
    hires = Hires(scale=1.0, upscaler="Latent", prompt="a hen <net:b>", negative_prompt="rain", steps=1)
    Engine(store, host, version="0.0").run(params.changed(hires=hires), results.append)
    assert len(results) == 2
    assert parsed == dict.fromkeys(("a fox <net:a>", "snow", "a hen <net:b>", "rain"), 1)


def test_patches_of_the_first_pass_are_off_before_those_of_the_second_go_on(
    host: Host, store: ModelStore, log: list[str]
) -> None:
    engine, results, before = Engine(store, host, version="0.0"), list[Result](), digest(store.load())

    def pixels(prompt: str, second: str) -> str:
        hires = Hires(scale=1.0, upscaler="Latent", prompt=second, steps=1)
        engine.run(PARAMS.changed(prompt=prompt, hires=hires), results.append)
        return results[-1].recipe.pixels

    both = pixels("a <net:one>", "a <net:three>")
    assert log == ["on one", "off one", "on three", "off three"]
    assert [used.options for used in results[-1].recipe.extensions] == [{"names": "one"}]
    log.clear()
    second = pixels("a", "a <net:three>")
    assert log == ["on three", "off three"]
    assert [used.name for used in results[-1].recipe.extensions] == ["nets"]
    assert len({both, second, pixels("a <net:one>", ""), pixels("a", "")}) == 4
    assert digest(store.load()) == before
