"""Our own HTTP API: jobs submitted, followed, resumed, fetched and stopped; and the document that describes it."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis import given as drawn
from jsonschema_rs import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from starlette.testclient import TestClient

from modules.accounts import Accounts
from modules.extension.modifier import Modifier, ModifierSpec
from modules.jobs.protocol import ReplaySpec
from modules.params.generation import GenerationParams
from modules.params.options import options_of
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import CHECKPOINTS, Pasted, services
from tests.webui.test_sdapi_fields import picture
from webui.api.v1.answers import OPERATIONS, SCHEMAS
from webui.api.v1.events import event_id
from webui.server import create_app
from webui.services import Services

QUICK = {"prompt": "a fox", "steps": 3, "width": 64, "height": 64, "seed": 5}


def submitted(client: TestClient, **params: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json={"params": {**QUICK, **params}})
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert answer.headers["location"] == told["url"]
    assert isinstance(told, dict)
    return told


def events(client: TestClient, job: dict[str, Any], after: str = "", query: str = "") -> list[dict[str, Any]]:
    """All events of a stream, each with the id that the stream gave it."""
    headers = {"last-event-id": after} if after else {}
    text = client.get(job["events"] + query, headers=headers).text
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            event = json.loads(lines["data"])
            assert (lines["event"], lines["id"]) == (event["type"], event_id(event["seq"]))
            found.append(event)
    return found


def events_as_they_come(client: TestClient, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What polling a job's state tells, as events of the same names."""
    while True:
        told = client.get(job["url"]).json()
        if told["progress"]:
            yield {"type": "step", **told["progress"]}
        assert told["state"] in ("queued", "running"), told
        time.sleep(0.02)


def test_a_job_is_submitted_at_once_and_its_events_lead_to_its_images(client: TestClient) -> None:
    job = submitted(client, batch_size=2)
    assert job["state"] in ("queued", "running", "done")
    told = events(client, job)
    assert told[-1]["type"] == "done"
    images = [event for event in told if event["type"] == "image"]
    assert [image["seed"] for image in images] == [5, 6]
    for image in images:
        answer = client.get(image["url"])
        assert answer.status_code == 200 and answer.content.startswith(b"\x89PNG")
    assert [image["url"] for image in told[-1]["output"]["images"]] == [image["url"] for image in images]
    state = client.get(job["url"]).json()
    assert (state["state"], len(state["output"]["images"])) == ("done", 2)


def test_nothing_that_is_told_of_a_job_says_where_its_files_lie(client: TestClient, given: Any) -> None:
    job = submitted(client)
    told = json.dumps(events(client, job)) + client.get(job["url"]).text + client.get("/api/v1/jobs").text
    told += client.get("/api/v1/history").text + client.get(f"{job['url']}/request").text
    assert str(given.data_dir) not in told


def test_a_disk_that_takes_no_picture_is_told_without_its_place(
    client: TestClient, given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder, aside = given.inputs.folder, given.inputs.folder.with_name("aside")
    folder.mkdir(parents=True, exist_ok=True)
    folder.rename(aside)
    folder.touch()
    try:
        answer = client.post("/api/v1/inputs", json={"image": picture()})
    finally:
        folder.unlink()
        aside.rename(folder)
    assert answer.status_code == 507 and "could not be stored" in answer.json()["detail"]
    assert str(given.data_dir) not in answer.text
    assert str(given.inputs.folder) in caplog.text


def test_a_stream_that_is_joined_late_tells_the_images_and_one_that_is_resumed_only_what_came_after(
    client: TestClient,
) -> None:
    job = submitted(client, batch_count=3)
    whole = events(client, job)
    late = events(client, job)
    assert [event["type"] for event in late if event["type"] != "step"] == [
        event["type"] for event in whole if event["type"] != "step"
    ]
    second = [event for event in whole if event["type"] == "image"][1]
    rest = events(client, job, after=event_id(second["seq"]))
    assert [event["type"] for event in rest if event["type"] != "step"] == ["image", "done"]
    assert all(event["seq"] > second["seq"] for event in rest)
    assert events(client, job, after=event_id(whole[-1]["seq"])) == []
    assert events(client, job, after=str(whole[-1]["seq"])) == []  # a number alone
    assert events(client, job, after="nonsense")[-1]["type"] == "done"
    earlier = f"{whole[-1]['seq']}-0a1b2c3d"  # of an earlier start of the server, which knew of other events
    assert events(client, job, after=earlier) == events(client, job)


def test_previews_are_told_and_can_be_left_out(client: TestClient) -> None:
    job = submitted(client, steps=20)
    assert any("preview" in event for event in events(client, job))
    again = submitted(client, steps=20, seed=6)
    assert not any("preview" in event for event in events(client, again, query="?previews=false"))


def test_an_idempotency_key_makes_one_job_of_a_request_that_is_sent_twice(client: TestClient) -> None:
    body, key = {"params": {**QUICK, "seed": -1}}, {"idempotency-key": "one"}
    first, again = (client.post("/api/v1/jobs", json=body, headers=key).json()["id"] for _ in range(2))
    assert first == again
    other = client.post("/api/v1/jobs", json={"params": {**QUICK, "steps": 4}}, headers=key)
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    assert client.post("/api/v1/jobs", json=body).json()["id"] != first
    assert client.post("/api/v1/jobs", json=body, headers={"idempotency-key": "x" * 201}).status_code == 422


def test_a_job_is_cancelled_and_an_image_skipped(client: TestClient) -> None:
    job = submitted(client, prompt="slow", batch_count=5)
    end = time.monotonic() + 30
    while time.monotonic() < end and not (client.get(job["url"]).json()["progress"] or {}).get("step"):
        time.sleep(0.02)
    assert client.post(f"{job['url']}/skip").status_code == 200
    assert client.post(f"{job['url']}/cancel").status_code == 200
    assert events(client, job)[-1]["type"] == "cancelled"


def test_a_job_that_is_cancelled_may_keep_the_image_at_hand(client: TestClient) -> None:
    job = submitted(client, prompt="slow", steps=40)
    end = time.monotonic() + 30
    while time.monotonic() < end and not (client.get(job["url"]).json()["progress"] or {}).get("step"):
        time.sleep(0.02)
    assert client.post(f"{job['url']}/cancel?keep=true").status_code == 200
    assert events(client, job)[-1]["type"] == "cancelled"
    assert len(client.get(job["url"]).json()["output"]["images"]) == 1


def test_a_start_picture_goes_with_the_request_or_before_it(client: TestClient) -> None:
    key = client.post("/api/v1/inputs", json={"image": picture("teal")}).json()["key"]
    by_key = submitted(client, init={"image": key, "mask": {"image": f"data:image/png;base64,{picture('white')}"}})
    inline = submitted(client, init={"image": f"data:image/png;base64,{picture('teal')}"})
    asked = [client.get(f"{job['url']}/request").json()["params"]["init"]["image"] for job in (by_key, inline)]
    assert asked == [key, key]


def test_what_was_asked_can_be_sent_again(client: TestClient) -> None:
    job = submitted(client, seed=-1)
    asked = client.get(f"{job['url']}/request").json()
    assert asked["params"]["seed"] >= 0
    again = client.post("/api/v1/jobs", json=asked).json()
    assert client.get(f"{again['url']}/request").json() == asked


def test_extras_take_pictures_by_key_or_as_they_are(client: TestClient) -> None:
    body = {"kind": "extras", "params": {"upscaler": "Lanczos"}, "inputs": [{"image": picture(), "name": "a.png"}]}
    answer = client.post("/api/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["kind"]) == (202, "extras")
    client.post(f"{answer.json()['url']}/cancel")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "replay", "path": "/etc/passwd"}, "kind"),
        ({"kind": 3}, "kind"),
        ({"params": 3}, "params"),
        ({"params": {"steps": 0}}, "steps"),
        ({"params": {"sampler": "nobody"}}, "sampler"),
        ({"params": {"init": {"image": "data:image/png;base64,!"}}}, "init.image"),
        ({"params": {"init": {"image": "0" * 64}}}, "init.image"),
        ({"kind": "extras", "inputs": 3}, "inputs"),
        ({"kind": "extras", "inputs": []}, "inputs"),
        ({"kind": "extras", "inputs": [{"key": "../../etc/passwd"}]}, "init.image"),
        ({"kind": "script", "script": "nobody"}, ""),
    ],
)
def test_a_mistake_is_answered_with_a_sentence_and_the_fields_name(
    client: TestClient, body: dict[str, Any], field: str
) -> None:
    answer = client.post("/api/v1/jobs", json=body)
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["detail"]
    assert answer.json()["field"] == field or not field


def test_a_start_picture_at_an_address_is_told_that_addresses_are_not_fetched(client: TestClient) -> None:
    answer = client.post("/api/v1/jobs", json={"params": {"init": {"image": "https://a.example/x.png"}}})
    assert (answer.status_code, answer.json()["field"]) == (422, "init.image")
    assert answer.json()["detail"] == "pictures at addresses are not fetched; send the picture itself, in base64"


def test_jobs_of_another_account_are_not_found(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "users.db")
    for name in ("alice", "bob"):
        accounts.add(name, f"{name} has a password")
    with (
        services(tmp_path / "data", accounts=accounts) as own,
        TestClient(create_app(own), base_url=ORIGIN) as client,
    ):
        alice, bob = ((name, f"{name} has a password") for name in ("alice", "bob"))
        key = {"idempotency-key": "shared"}
        job = client.post("/api/v1/jobs", json={"params": QUICK}, auth=alice, headers=key).json()
        for path in ("", "/events", "/request", "/images/00000-5.png"):
            assert client.get(f"{job['url']}{path}", auth=bob).status_code == 404
        for path in ("/cancel", "/skip"):
            assert client.post(f"{job['url']}{path}", auth=bob).status_code == 404
        assert client.get("/api/v1/jobs", auth=bob).json() == {"jobs": []}
        assert client.post("/api/v1/jobs", json={"params": QUICK}, auth=bob, headers=key).json()["id"] != job["id"]
        assert client.get(job["events"]).status_code == 401


def test_models_choices_and_history_are_listed(client: TestClient) -> None:
    job = submitted(client)
    events(client, job)
    assert client.get("/api/v1/models").json()["checkpoints"][0]["name"].startswith("reprise-mini")
    assert "Euler a" in client.get("/api/v1/choices").json()["samplers"]
    newest = client.get("/api/v1/history?limit=1").json()["pictures"][0]
    assert newest["job"] == job["id"]
    assert client.get(newest["url"]).status_code == client.get(newest["small"]).status_code == 200


def test_the_document_describes_every_parameter_and_every_reference_in_it_leads_somewhere(client: TestClient) -> None:
    told = client.get("/api/v1/openapi.json").json()
    assert told["openapi"] == "3.1.0"
    ours = told["components"]["schemas"]["GenerationParams"]["properties"]
    for name, one in options_of(GenerationParams).items():
        assert (ours[name]["title"], ours[name]["default"]) == (one.label, one.default)
    known = {f"#/components/schemas/{name}" for name in told["components"]["schemas"]}
    assert set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(told))) <= known
    operations = [one for methods in told["paths"].values() for one in methods.values()]
    assert all(one.get("description") for one in operations)
    examples = told["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    answer = client.post("/api/v1/jobs", json=examples["picture"]["value"])
    assert answer.status_code == 202
    client.post(f"{answer.json()['url']}/cancel")


def _ours(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations by their names."""
    paths = document["paths"].items()
    return {one["operationId"]: {**one, "path": path} for path, methods in paths for one in methods.values()}


def test_names_that_no_parameter_has_are_named_in_the_job(client: TestClient, given: Services) -> None:
    job = submitted(client, stepz=3, hires={"scale": 2, "size": 9})
    notes = given.queue.get(job["id"], "local").spec["notes"]
    assert notes == [f"there is no parameter {name!r}, so it was left out" for name in ("stepz", "hires.size")]
    assert not given.queue.get(submitted(client)["id"], "local").spec.get("notes")


def test_generators_of_clients_find_what_they_need_in_the_document(client: TestClient) -> None:
    """OpenAPI 3.1, readable names that are unique, and a schema for whatever is sent and answered."""
    told = client.get("/api/v1/openapi.json").json()
    OPENAPI_31_VALIDATOR.validate(told)
    for schema in told["components"]["schemas"].values():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})
    count = sum(len(methods) for methods in told["paths"].values())
    operations = _ours(told)
    assert len(operations) == count == len(OPERATIONS)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in operations)
    for name, operation in operations.items():
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        assert operation["summary"] and len(operation["tags"]) == 1, name
        assert any(status.startswith("2") for status in operation["responses"]), name
        for body in bodies:
            for media, content in body.get("content", {}).items():
                assert content["schema"].keys() & {"$ref", "type", "anyOf"}, (name, media)
                assert media != "application/json" or "$ref" in content["schema"], (name, media)


def test_answers_are_what_the_document_says_of_them(client: TestClient, given: Services) -> None:
    """Every field of every answer is described, with its type; those that are required are there."""
    told = client.get("/api/v1/openapi.json").json()
    closed = {
        name: {**schema, "additionalProperties": False} if name in SCHEMAS and "properties" in schema else schema
        for name, schema in told["components"]["schemas"].items()
    }
    operations, checked = _ours(told), set()

    def judge(name: str, answer: Any) -> Any:
        success = next(one for status, one in operations[name]["responses"].items() if status.startswith("2"))
        content = success["content"]
        assert answer.is_success, (name, answer.text)
        assert answer.headers["content-type"].partition(";")[0] in content, name
        checked.add(name)
        if "application/json" not in content:
            return answer.content
        schema = {**content["application/json"]["schema"], "components": {"schemas": closed}}
        errors = [
            f"{error.instance_path}: {error.message}"
            for error in Draft202012Validator(schema).iter_errors(answer.json())
        ]
        assert not errors, (name, errors[:3])
        return answer.json()

    def get(path: str) -> Any:
        return client.get(f"/api/v1{path}")

    def post(path: str, **values: Any) -> Any:
        return client.post(f"/api/v1{path}", json=values)

    key = judge("store_input", post("/inputs", image=picture()))["key"]
    judge("store_input", client.post("/api/v1/inputs", files={"image": base64.b64decode(picture())}))
    job = judge("submit_job", post("/jobs", params={"prompt": "a fox", "steps": 2, "width": 64, "height": 64}))["id"]
    events = judge("follow_job", get(f"/jobs/{job}/events"))
    assert b"event: done" in events
    image = judge("get_job", get(f"/jobs/{job}"))["output"]["images"][0]
    assert judge("get_job_image", client.get(image["url"])).startswith(b"\x89PNG")
    failed = post("/jobs", params={"prompt": "explode", "steps": 1}).json()["id"]
    get(f"/jobs/{failed}/events")
    assert judge("get_job", get(f"/jobs/{failed}"))["error"]
    slow = post("/jobs", params={"prompt": "slow", "steps": 150, "init": {"image": key}}).json()["id"]
    judge("list_queue", get("/queue"))
    judge("skip_image", post(f"/jobs/{slow}/skip"))
    judge("finish_job", post(f"/jobs/{slow}/finish"))
    judge("cancel_job", post(f"/jobs/{slow}/cancel"))
    judge("get_job_request", get(f"/jobs/{slow}/request"))
    judge("list_jobs", get("/jobs"))
    waiting = post("/jobs", params={"prompt": "slow", "steps": 150}).json()["id"]
    judge("cancel_queued_job", post(f"/queue/{waiting}/cancel"))
    judge("explain_prompt", post("/explain", prompt="a [red:blue:0.5] (fox:1.2) <lora:nobody:1> AND a hen", steps=9))
    judge("list_models", get("/models"))
    judge("list_choices", get("/choices"))
    given.host.add_modifier(ModifierSpec("pastes", "Pastes", Pasted, lambda _: Modifier()))
    (pastes,) = [one for one in judge("list_modifiers", get("/modifiers"))["modifiers"] if one["name"] == "pastes"]
    assert pastes["options"]["picture"]["x-kind"] == "image" and "x-kind" not in pastes["options"]["title"]
    number = judge("list_history", get("/history"))["pictures"][0]["number"]
    judge("get_picture", get(f"/pictures/{number}"))
    judge("get_small_picture", get(f"/pictures/{number}/small"))
    path = given.history.file("local", number)
    begun = judge("replay_image", post("/replay", image=base64.b64encode(path.read_bytes()).decode()))
    judge("replay_image", post("/replay", recipe="{}"))
    again = given.submit("local", ReplaySpec(path=str(path))).id
    get(f"/jobs/{again}/events")
    assert judge("get_replay", get(f"/replay/{again}"))["verdict"] and begun["verdict"]
    for kind in ("lora", "hypernetwork", "embedding", "checkpoint"):
        cards = judge("list_networks", get(f"/networks?kind={kind}"))["networks"]
        for card in cards[:4]:
            judge("get_network", get(f"/networks/{kind}/{card['key']}"))
    cards = get("/networks?kind=lora").json()["networks"]
    ink = next(card for card in cards if card["preview"])
    judge("edit_network", post(f"/networks/lora/{ink['key']}", notes="new"))
    judge("save_network_preview", post(f"/networks/lora/{ink['key']}/preview", picture=number))
    judge("save_checkpoint_preview", post("/models/preview", picture=number, checkpoint=CHECKPOINTS[0]))
    judge("get_network_preview", get(f"/networks/lora/{ink['key']}/preview"))
    assert checked == operations.keys()


def test_the_documentation_needs_no_network(client: TestClient) -> None:
    text = client.get("/docs").text
    assert "/api/v1/jobs" in text and "cfg_scale" in text
    assert not re.findall(r"https?://|<script|<link|@import", text)


PLAIN = strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(max_size=20)
NUMBERS = strategies.floats(allow_nan=False, allow_infinity=False)
WORDS = strategies.sampled_from(["image", "mask", "steps", "prompt", "init", "hires", "key", "width", "extensions"])
ANYTHING = strategies.recursive(
    PLAIN | NUMBERS,
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
KEYS = ["kind", "params", "inputs", "options", "script", "image", "recipe", "prompt", "steps"]
BODIES = strategies.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, ANYTHING))
PATHS = ("/jobs", "/history", "/jobs/{}", "/jobs/{}/events", "/jobs/{}/images/{}", "/pictures/{}")


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@drawn(body=BODIES, path=strategies.sampled_from(["jobs", "inputs", "explain", "replay"]))
def test_no_body_whatsoever_is_answered_by_a_fault_of_the_server(client: TestClient, body: Any, path: str) -> None:
    answer = client.post(f"/api/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code == 202 and (url := answer.json().get("url")):
        client.post(f"{url}/cancel")


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@drawn(
    path=strategies.sampled_from(PATHS),
    words=strategies.lists(strategies.text("abc019.-_%é", min_size=1, max_size=40), min_size=2, max_size=2),
    query=strategies.dictionaries(
        strategies.sampled_from(["limit", "state", "before", "after", "previews"]),
        strategies.integers().map(str) | strategies.text(max_size=10),
        max_size=3,
    ),
)
def test_no_address_whatsoever_is_answered_by_a_fault_of_the_server(
    client: TestClient, path: str, words: list[str], query: dict[str, str]
) -> None:
    clean = {key: value.encode("utf-8", "ignore").decode() for key, value in query.items()}
    answer = client.get(f"/api/v1{path.format(*words)}", params=clean)
    assert answer.status_code < 500, answer.text


def test_a_job_stops_behind_the_image_at_hand(client: TestClient) -> None:
    job = submitted(client, prompt="slow fox", steps=4, batch_count=5)
    for event in events_as_they_come(client, job):
        if event["type"] == "step":
            assert client.post(f"{job['url']}/finish").status_code == 200
            break
    told = events(client, job)
    assert told[-1]["type"] == "cancelled"
    made = told[-1]["output"]["images"]
    assert 1 <= len(made) < 5 and [image["seed"] for image in made] == [5 + n for n in range(len(made))]
    assert client.get(made[0]["url"]).status_code == 200


def test_a_job_that_waits_is_stopped_at_once_when_it_is_to_finish(client: TestClient) -> None:
    first, second = submitted(client, prompt="slow fox", steps=20), submitted(client)
    assert client.post(f"{second['url']}/finish").json()["state"] == "cancelled"
    client.post(f"{first['url']}/cancel")
    assert client.post("/api/v1/jobs/none/finish").status_code == 404


def test_the_history_is_searched_by_words_of_prompts(client: TestClient) -> None:
    for prompt in ("a teal Heron, 50% grey", "a teal otter", "ein Fuchs über dem Fluß 狐"):
        events(client, submitted(client, prompt=prompt, negative_prompt="blurry"))

    def found(words: str) -> int:
        answer = client.get("/api/v1/history", params={"q": words})
        assert answer.status_code == 200
        return len(answer.json()["pictures"])

    assert [found(words) for words in ("teal", "TEAL heron", "heron otter", "50%", "5_%", "狐 über")] == [
        2,
        1,
        0,
        1,
        0,
        1,
    ]
    assert found("blurry teal") == 2 and found("") >= 3


def test_a_picture_is_stored_from_a_form_as_from_json(client: TestClient) -> None:
    data = base64.b64decode(picture())
    form = client.post("/api/v1/inputs", files={"image": ("fox.png", data, "image/png")})
    assert (form.status_code, form.json()) == (201, client.post("/api/v1/inputs", json={"image": picture()}).json())
    for files in ({"other": ("fox.png", data)}, {"image": ("fox.png", b"no picture")}, {}):
        answer = client.post(
            "/api/v1/inputs",
            files=files or None,
            data={"x": "y"} if not files else None,
            headers={} if files else {"content-type": "multipart/form-data; boundary=b"},
        )
        assert answer.status_code in (400, 415, 422), answer.text
        assert answer.json()["detail"]


def test_a_body_of_a_hundred_megabytes_is_taken_and_one_of_many_values_is_not(client: TestClient) -> None:
    many = client.post(
        "/api/v1/explain",
        content=b'{"prompt": "a", "x": [' + b"[]," * 600_000 + b"1]}",
        headers={"content-type": "application/json"},
    )
    assert many.status_code == 422 and "500,000 values" in many.json()["detail"]
    large = client.post(
        "/api/v1/explain",
        content=b'{"prompt": "a", "x": "' + b"A" * 100_000_000 + b'"}',
        headers={"content-type": "application/json"},
    )
    assert large.status_code == 200
    larger = client.post("/api/v1/explain", content=b"", headers={"content-length": str(129 * 2**20)})
    assert larger.status_code == 413 and "128 MB" in larger.json()["detail"]
