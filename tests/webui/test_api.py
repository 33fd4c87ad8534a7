"""Our own HTTP API."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from modules.cli.a1111_flags import translated
from modules.jobs.protocol import GenerateSpec, Origin
from modules.metadata.image_text import encode
from modules.params.generation import GenerationParams
from tests.modules.metadata.test_recipe import RECIPE
from webui.security.routes import routes_of
from webui.services import Services


def test_prompt_is_explained(client: TestClient) -> None:
    answer = client.post("/api/v1/explain", json={"prompt": "(a fox:1.3) in [snow", "steps": "12", "foreign": 1})
    assert answer.status_code == 200
    told = answer.json()["prompt"]
    assert told["parts"][0]["passes"][0]["steps"] == 12
    weights = {t["text"]: t["weight"] for c in told["texts"][0]["chunks"] for t in c["tokens"]}
    assert weights["fox"] == 1.3
    assert [warning["column"] for warning in told["warnings"]] == [16]


def test_mistake_is_named_with_its_field(client: TestClient) -> None:
    answer = client.post("/api/v1/explain", json={"prompt": "a", "sampler": "Eulr"})
    assert answer.status_code == 422
    assert answer.json()["field"] == "sampler"
    assert "did you mean 'Euler'?" in answer.json()["detail"]


def test_what_the_flag_api_says_is_true(client: TestClient) -> None:
    (note,) = translated(["--api"])[1]
    paths = [path for path, _ in routes_of(client.app)]
    for prefix in ("/api/v1", "/sdapi/v1"):
        assert prefix in note and any(path.startswith(f"{prefix}/") for path in paths)
    assert "always served" in note


def test_foreign_pages_get_no_answer(client: TestClient) -> None:
    answer = client.post("/api/v1/explain", json={"prompt": "a"}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403


GREY = Image.new("RGB", (8, 8), "grey")


def in_base64(recipe: str, infotext: str = "") -> str:
    return base64.b64encode(encode(GREY, infotext, recipe)[0]).decode()


def ended(client: TestClient, job: str) -> dict[str, Any]:
    for _ in range(200):
        told = client.get(f"/api/v1/replay/{job}").json()
        assert isinstance(told, dict)
        if told["state"] in ("done", "failed"):
            return told
        time.sleep(0.05)
    raise AssertionError(told)


@pytest.mark.parametrize(
    "body", [{"image": in_base64(str(RECIPE))}, {"recipe": str(RECIPE)}, {"recipe": RECIPE.to_json()}]
)
def test_a_replay_is_a_job_that_ends_in_a_verdict(client: TestClient, given: Services, body: dict[str, Any]) -> None:
    answer = client.post("/api/v1/replay", json=body)
    assert answer.status_code == 202
    told = ended(client, answer.json()["job"])
    assert told["verdict"]["kind"] == "identical"
    spec = given.queue.get(answer.json()["job"], "local").spec
    assert spec.get("recipe", str(RECIPE)) == str(RECIPE)


def test_the_same_picture_is_kept_once(client: TestClient, given: Services) -> None:
    body = {"image": "data:image/png;base64," + in_base64(str(RECIPE))}
    specs = [given.queue.get(client.post("/api/v1/replay", json=body).json()["job"], "local").spec for _ in range(2)]
    assert specs[0] == specs[1]


def test_what_has_no_recipe_is_answered_at_once(client: TestClient) -> None:
    told = client.post("/api/v1/replay", json={"image": in_base64("", "a fox\nSteps: 20")}).json()
    assert told["job"] is None
    assert told["verdict"]["text"] == (
        "cannot, because the picture carries no recipe; its generation text can be used for a new picture"
    )
    newer = client.post("/api/v1/replay", json={"recipe": {**RECIPE.to_json(), "schema": 9}}).json()
    assert newer["verdict"]["reasons"] == ["this recipe has schema 9 and this version reads schema 1"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "there is nothing to make again"),
        ({"image": "%%%"}, "image is not base64"),
        ({"image": "AAAA"}, "this is not a picture that can be read"),
        ({"recipe": 5}, "there is nothing to make again"),
    ],
)
def test_what_is_no_replay_is_a_sentence(client: TestClient, body: dict[str, Any], sentence: str) -> None:
    answer = client.post("/api/v1/replay", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)


def test_a_replay_of_another_person_or_kind_is_not_found(client: TestClient, given: Services) -> None:
    foreign = given.queue.submit("somebody", {"kind": "replay", "recipe": str(RECIPE)}, "replay").id
    for number in (foreign, "none"):
        assert client.get(f"/api/v1/replay/{number}").status_code == 404


def test_a_tab_called_replay_makes_no_replays(client: TestClient, given: Services) -> None:
    """Neither a job of today nor one of version 0.1, whose spec had the tab's name as its kind."""
    params = GenerationParams(prompt="a fox", steps=1, seed=1, subseed=0)
    new = given.submit("local", GenerateSpec(params, origin=Origin(tab="replay")))
    old = given.queue.submit("local", {"kind": "replay", "params": params.to_json()})
    for job in (new, old):
        assert client.get(f"/api/v1/replay/{job.id}").status_code == 404
        deadline = time.monotonic() + 30
        while (seen := given.queue.get(job.id, "local")).state not in ("done", "failed"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (seen.state, seen.kind) == ("done", "generate")
        assert seen.output and len(seen.output["images"]) == 1
