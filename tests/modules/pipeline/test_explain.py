"""A request's prompts explained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from modules.builtin import register
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.errors import UserError
from modules.extension.host import Host, TagSpec
from modules.params.generation import GenerationParams, Hires
from modules.params.options import Shape
from modules.pipeline.explain import READ, explain_request


@pytest.fixture
def host() -> Host:
    host = Host()
    register(host)
    return host


def test_both_prompts_are_explained_as_json(host: Host) -> None:
    told = explain_request(GenerationParams("a [cat:dog:5] AND b", "bad AND worse", width=70), host)
    assert json.loads(json.dumps(told)) == told
    assert [part["weight"] for part in told["prompt"]["parts"]] == [1.0, 1.0]
    assert len(told["negative_prompt"]["parts"]) == 1  # AND is text there
    assert told["notes"] == ["width 70 was rounded to 64, a multiple of 8"]


def test_a_network_is_applied_where_a_tag_of_its_kind_is_registered(host: Host) -> None:
    if "lora" in host.tags:
        host.tags.remove("lora")
    params = GenerationParams("a fox <lora:ink:1>")
    (warning,) = explain_request(params, host)["prompt"]["warnings"]
    assert warning == {"column": 7, "message": "lora ink is not applied: nothing here handles such networks"}
    host.add_tag(TagSpec("lora", "anything", lambda tags: {}))
    told = explain_request(params, host)["prompt"]
    assert not told["warnings"] and told["networks"][0]["applied"]


def test_segments_follow_the_sampler_and_the_profile(host: Host) -> None:
    def first_end(**changes: object) -> int:
        params = GenerationParams("[cat:dog:10]", steps=20).changed(**changes)
        segments = explain_request(params, host)["prompt"]["parts"][0]["passes"][0]["segments"]
        return int(segments[0]["to"])

    assert first_end(sampler="Euler") == 11  # A1111 switches one call late
    assert first_end(sampler="Euler", profile="exact") == 10
    assert first_end(sampler="Heun") < 10  # ten calls are about five steps


def test_impossible_request_is_refused_as_in_planning(host: Host) -> None:
    with pytest.raises(UserError, match="Steps must be between"):
        explain_request(GenerationParams("a", steps=0), host)


def test_the_second_pass_has_a_ruler_of_its_own(host: Host) -> None:
    def names(**hires: object) -> list[str]:
        told = explain_request(GenerationParams("[cat:dog:1.5]", steps=20, hires=Hires(**hires)), host)  # type: ignore[arg-type]
        return [run["name"] for run in told["prompt"]["parts"][0]["passes"]]

    assert len(names(steps=8)) == 2
    assert len(names(prompt="another")) == 1


def test_old_prompt_editing_and_emphasis_are_those_of_the_request(host: Host) -> None:
    def last(params: GenerationParams) -> int:
        return int(explain_request(params, host)["prompt"]["parts"][0]["passes"][0]["segments"][0]["to"])

    params = GenerationParams("[cat:dog:1.5]", steps=20, sampler="Euler")
    assert last(params) == 20  # a range of the second pass
    assert last(params.changed(use_old_scheduling=True)) < 20  # a step of the first
    read, literal = (
        explain_request(GenerationParams("a (cat:1.5)", emphasis=mode), host)["prompt"]["count"]
        for mode in ("Original", "None")
    )
    assert (read, literal) == (2, 8)  # "(", "cat", ":", "1", ".", "5", ")"


def write_lora(models: Path, name: str, key: str = "lora_unet_mid_block_attentions_0_proj_in.diff") -> None:
    (models / "Lora").mkdir(exist_ok=True)
    save_file({key: np.zeros((4, 768), np.float32)}, models / "Lora" / f"{name}.safetensors")


@pytest.fixture
def with_networks(tmp_path: Path) -> Host:
    write_lora(tmp_path, "ink")
    write_lora(tmp_path, "xl", "lora_te2_text_model_encoder_layers_0_mlp_fc1.diff")
    shelf = NetworkShelf(tmp_path)
    shelf.read()
    host = Host()
    register(host, shelf)
    return host


def messages(host: Host, prompt: str, **changes: object) -> list[str]:
    params = GenerationParams(prompt, steps=8, sampler="Euler").changed(**changes)
    return [warning["message"] for warning in explain_request(params, host, family="SD1")["prompt"]["warnings"]]


def test_networks_that_do_nothing_are_told_with_the_reason(with_networks: Host) -> None:
    assert messages(with_networks, "<lora:ink:1>") == []
    assert messages(with_networks, "<lora:inc:1>") == ["there is no LoRA named inc; did you mean ink?"]
    assert messages(with_networks, "<hypernet:x>") == ["there is no hypernetwork named x"]
    assert messages(with_networks, "<lora:xl:1>") == ["the LoRA xl is for SDXL, and the model is SD1"]
    (message,) = messages(with_networks, "<lora:ink:1> <lora:xl:x>")
    assert message == "no lora is applied: <lora:xl:x> cannot be read: 'x' is not a number"


def test_a_tag_that_cannot_be_read_is_not_among_the_applied(with_networks: Host) -> None:
    told = explain_request(GenerationParams("<lora:ink:1> <lora:xl:x>"), with_networks)["prompt"]["networks"]
    assert [network["applied"] for network in told] == [False, False]  # as in A1111 none is


def test_arguments_that_say_nothing_are_told(with_networks: Host) -> None:
    (message,) = messages(with_networks, "<lora:ink:1:stop=10>")
    assert message.startswith("ink: stop= does nothing here")


def test_the_strength_of_a_network_is_told_over_the_steps(with_networks: Host) -> None:
    def segments(tag: str, **changes: object) -> list[tuple[int, int, float]]:
        params = GenerationParams(f"a fox {tag}", steps=8, sampler="Euler").changed(**changes)
        (network,) = explain_request(params, with_networks)["prompt"]["networks"]
        assert network["file"] == "ink.safetensors" and network["applied"]
        assert len(network["positional"]) == 2  # colons within brackets part nothing
        return [(s["from"], s["to"], s["weight"]) for s in network["passes"][0]["segments"]]

    assert segments("<lora:ink:0.8>") == [(1, 8, 0.8)]
    assert segments("<lora:ink:[0:1:0.5]>") == [(1, 5, 0.0), (6, 8, 1.0)]  # A1111 switches one call late
    assert segments("<lora:ink:[0:1:0.5]>", profile="exact") == [(1, 4, 0.0), (5, 8, 1.0)]
    assert segments("<lora:ink:[0@0,1@0.25]>") == [(1, 1, 0.0), (2, 2, 0.5), (3, 8, 1.0)]
    assert segments("[<lora:ink:1>::0.5]", profile="exact") == [(1, 4, 1.0), (5, 8, 0.0)]


def test_what_a1111_does_otherwise_than_it_looks_is_told(with_networks: Host) -> None:
    late = ["lora ink holds all along, as in A1111: tags in brackets switch in the profile exact"]
    assert messages(with_networks, "[<lora:ink:1>::0.5]") == late
    assert messages(with_networks, "[<lora:ink:1>::0.5]", profile="exact") == []
    twice = ["ink is named 2 times: as in A1111 the last strength holds for each"]
    assert messages(with_networks, "<lora:ink:1> <lora:ink:0.5>") == twice
    assert messages(with_networks, "<lora:ink:1> <lora:ink:0.5>", profile="exact") == []


def test_thousands_of_tags_are_told_in_time(with_networks: Host) -> None:
    prompt = "".join(f"[<lora:n{i}:[0:1:0.5]>:a:{i % 9}]" for i in range(500))
    for profile in ("a1111", "exact"):
        told = explain_request(GenerationParams(prompt[:20000], steps=150, profile=profile), with_networks)["prompt"]
        assert len(told["warnings"]) <= 200


def test_a_name_is_not_called_missing_as_long_as_headers_are_read(tmp_path: Path) -> None:
    write_lora(tmp_path, "ink")
    host = Host()
    register(host, NetworkShelf(tmp_path))
    first = messages(host, "<lora:an_alias:1>")
    host.shelf.read()
    assert first == [] and messages(host, "<lora:an_alias:1>") == ["there is no LoRA named an_alias"]


def test_no_option_but_those_that_are_read_changes_what_is_told(host: Host) -> None:
    """The page asks anew only when one of `READ` has changed."""
    shape = Shape(GenerationParams)
    params = GenerationParams("a [cat:dog:0.5] AND (b:1.2)", "bad", hires=Hires(steps=3))
    told = explain_request(params, host)
    values = shape.flat(params.to_json())
    others = 0
    for name, option in shape.options.items():
        if name in READ or option.type not in (int, float, bool) or values.get(name) is None:
            continue
        for value in (not values[name], option.lo, option.hi):
            if type(value) is option.type and value != values[name]:
                changed = shape.read({**values, "hires": True, name: value}).changed(init=None)
                try:
                    now = explain_request(changed, host)
                except UserError:  # what cannot be made is not explained
                    continue
                others += 1
                assert [now[prompt] == told[prompt] for prompt in ("prompt", "negative_prompt")] == [True, True], name
    assert others > 40
    assert set(READ) <= {*shape.options, *shape.groups}
