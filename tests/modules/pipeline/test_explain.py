"""A request's prompts explained."""

from __future__ import annotations

import json

import pytest

from modules.builtin import register
from modules.errors import UserError
from modules.extension.host import Host, TagSpec
from modules.params.generation import GenerationParams, Hires
from modules.pipeline.explain import explain_request


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
