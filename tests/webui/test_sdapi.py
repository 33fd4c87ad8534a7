"""A1111's HTTP API with a painter for a model: routes, errors, accounts, and what becomes of a request that is left."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from modules.accounts import Accounts
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.files import Hashes
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.errors import UserError
from modules.extension.host import Host, Owner
from modules.extension.modifier import Modifier, ModifierSpec
from modules.extension.script import Outcome, Round, ScriptSpec, Sheet
from modules.params.options import option
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from tests.webui.test_sdapi_fields import picture
from webui.api.sdapi import NOT_HERE
from webui.api.sdapi.pictures import PicturesJSON
from webui.api.sdapi.scripts import called
from webui.security.routes import routes_of
from webui.server import create_app
from webui.services import Services

API = json.loads((Path(__file__).parents[1] / "golden" / "api.json").read_text(encoding="utf-8"))
QUICK: dict[str, Any] = {"prompt": "a fox", "steps": 2, "width": 64, "height": 64}


def post(client: TestClient, path: str, **values: Any) -> Any:
    return client.post(f"/sdapi/v1/{path}", json=values)


def test_every_route_of_a1111_is_there(client: TestClient) -> None:
    ours = {(path, method) for path, methods in routes_of(client.app) for method in methods}
    for route in API["endpoints"]:
        for method in route["methods"]:
            assert (route["path"], method) in ours, route["path"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("txt2img", {"sampler_name": "nobody"}, 400, "Sampler not found"),
        ("txt2img", {"sampler_index": "nobody"}, 400, "Sampler not found"),
        ("txt2img", {"scheduler": "nobody"}, 400, "nobody"),
        ("txt2img", {"script_name": "nobody"}, 422, "Script 'nobody' not found"),
        ("txt2img", {"script_name": "refiner"}, 422, "always on"),
        ("txt2img", {"script_name": "sd upscale"}, 422, "not found"),
        ("txt2img", {"alwayson_scripts": {"nobody": {"args": []}}}, 422, "nobody not found"),
        (
            "img2img",
            {"init_images": ["aGVsbG8="], "alwayson_scripts": {"sd upscale": {"args": []}}},
            422,
            "script_name",
        ),
        ("txt2img", {"alwayson_scripts": {"seed": {"args": 3}}}, 422, "args"),
        ("txt2img", {"steps": 0}, 422, "between 1 and 150"),
        ("txt2img", {"prompt": 3}, 422, "prompt must be text"),
        ("txt2img", {"prompt": "explode"}, 500, "boom"),
        ("img2img", {}, 404, "Init image not found"),
        ("img2img", {"init_images": ["!"]}, 500, "Invalid encoded image"),
        ("img2img", {"init_images": ["aGVsbG8="]}, 500, "Invalid encoded image"),
        ("img2img", {"init_images": ["http://127.0.0.1:1/a.png"]}, 422, "not fetched"),
        ("img2img", {"init_images": [" HTTPS://example.org/a.png"]}, 422, "not fetched"),
        ("img2img", {"init_images": [picture()], "mask": "file:///etc/passwd"}, 500, "Invalid encoded image"),
        ("img2img", {"init_images": [picture()], "resize_mode": 9}, 422, "resize_mode"),
        ("extra-single-image", {}, 404, "Image not found"),
        ("extra-single-image", {"image": picture(), "upscaler_1": "nobody"}, 422, "nobody"),
        ("extra-batch-images", {"imageList": 3}, 422, "imageList"),
        ("png-info", {"image": "!"}, 500, "Invalid encoded image"),
        ("interrogate", {"image": picture()}, 404, "describes pictures"),
        ("train/embedding", {}, 404, "not trained"),
        ("train/hypernetwork", {}, 404, "not trained"),
        ("server-kill", {}, 404, "--api-server-stop"),
    ],
)
def test_errors_have_a1111s_status_and_shape(
    client: TestClient, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    answer = post(client, path, **body)
    assert answer.status_code == status
    told = answer.json()
    assert told.keys() == {"error", "detail", "body", "errors"}
    assert said in str(told["detail"])
    assert float(answer.headers["x-process-time"]) >= 0


def test_a_body_that_is_no_object_is_refused(client: TestClient) -> None:
    assert client.post("/sdapi/v1/txt2img", json=[1]).status_code == 422


def test_start_pictures_come_back_where_they_are_asked_for(client: TestClient) -> None:
    start = picture("teal")
    silent = post(client, "img2img", init_images=[start], **QUICK).json()["parameters"]
    assert (silent["init_images"], silent["mask"]) == (None, None)
    loud = post(client, "img2img", init_images=[f"data:image/png;base64,{start}"], include_init_images=True, **QUICK)
    assert loud.json()["parameters"]["init_images"] == [f"data:image/png;base64,{start}"]


def test_a_task_is_found_by_the_name_that_its_request_gave(client: TestClient) -> None:
    answers: list[Any] = []
    body = {**QUICK, "prompt": "slow", "steps": 12, "force_task_id": "task(abc)"}
    thread = threading.Thread(target=lambda: answers.append(post(client, "txt2img", **body)))
    thread.start()
    seen: dict[str, Any] = {}
    end = time.monotonic() + 30
    while time.monotonic() < end and not seen.get("live_preview"):
        seen = client.post("/internal/progress", json={"id_task": "task(abc)"}).json()
        time.sleep(0.05)
    assert client.get("/internal/pending-tasks").json() == {"size": 1, "tasks": ["task(abc)"]}
    assert seen["active"] and 0 < seen["progress"] <= 1
    assert seen["live_preview"].startswith("data:image/jpeg;base64,")
    post(client, "interrupt")
    thread.join(30)
    assert answers[0].status_code == 200
    after = client.post("/internal/progress", json={"id_task": "task(abc)"}).json()
    assert (after["active"], after["queued"], after["completed"]) == (False, False, True)
    unknown = client.post("/internal/progress", json={"id_task": "task(other)"}).json()
    assert (unknown["active"], unknown["queued"], unknown["completed"]) == (False, False, False)


def test_an_interrupted_request_answers_the_pictures_that_were_finished(client: TestClient) -> None:
    answers: list[Any] = []
    body = {**QUICK, "prompt": "slow", "n_iter": 9}
    thread = threading.Thread(target=lambda: answers.append(post(client, "txt2img", **body)))
    thread.start()
    end = time.monotonic() + 30
    while time.monotonic() < end and client.get("/sdapi/v1/progress").json()["state"]["job_no"] < 1:
        time.sleep(0.02)
    post(client, "interrupt")
    thread.join(30)
    assert answers[0].status_code == 200
    assert 1 <= len(answers[0].json()["images"]) < 9


@pytest.mark.parametrize("keep", [True, False])
def test_a_request_interrupted_in_its_first_image_answers_that_as_it_is(
    client: TestClient, given: Services, keep: bool
) -> None:
    given.settings.change({"keep_interrupted": keep})
    answers: list[Any] = []
    body = {**QUICK, "prompt": "slow", "steps": 40}
    thread = threading.Thread(target=lambda: answers.append(post(client, "txt2img", **body)))
    thread.start()
    end = time.monotonic() + 30
    while time.monotonic() < end and not client.get("/sdapi/v1/progress").json()["state"]["sampling_step"]:
        time.sleep(0.02)
    post(client, "interrupt")
    thread.join(30)
    assert answers[0].status_code == 200
    assert len(answers[0].json()["images"]) == keep
    given.settings.change({"keep_interrupted": True})


def test_routes_that_take_no_body_leave_one_of_any_type_unread(client: TestClient) -> None:
    """As A1111's, which programs call with an empty form (``curl -d ''``), or with anything."""
    found = list(iter_route_contexts(client.app.routes))  # type: ignore[attr-defined]
    routes = [
        route for route in found if re.match("/(sdapi|api)/v1/", route.path or "") and "POST" in (route.methods or ())
    ]
    without = {"/api/v1/inputs", *(f"/sdapi/v1/{path}" for path in NOT_HERE)}
    bodiless = [str(route.path) for route in routes if route.body_field is None and route.path not in without]
    assert {"/sdapi/v1/interrupt", "/sdapi/v1/skip", "/sdapi/v1/refresh-checkpoints"} <= set(bodiless)
    kinds = ("application/x-www-form-urlencoded", "text/plain", "application/json", "multipart/form-data; boundary=x")
    for path in bodiless:
        address = re.sub(r"\{.*?\}", "none", path)
        known = {client.post(address).status_code}
        for kind in kinds:
            for body in (b"", b"a=1"):
                known.add(client.post(address, content=body, headers={"content-type": kind}).status_code)
        assert len(known) == 1, path


@pytest.mark.parametrize("pictures", [[], [b"aGk="], [b"aGk=", b"+/8="]])
def test_pictures_stand_in_an_answer_as_json_has_them(pictures: list[bytes]) -> None:
    content = {
        "images": pictures,
        "image": b"",
        "parameters": {"prompt": "\u00e9\ud800\n"},
        "none": [],
        "info": '{"a": 1}',
    }
    texts = {"images": [one.decode() for one in pictures], "image": "", "parameters": {"prompt": "\u00e9\ufffd\n"}}
    assert (
        PicturesJSON(content).body
        == json.dumps({**content, **texts}, ensure_ascii=False, separators=(",", ":")).encode()
    )


def test_a_form_where_an_object_belongs_is_no_valid_request(client: TestClient) -> None:
    for body in (b"", b"prompt=fox"):
        answer = client.post(
            "/sdapi/v1/txt2img", content=body, headers={"content-type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 422, body


def test_a_file_that_is_not_here_is_told_before_anything_is_queued(client: TestClient, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "models" / "Stable-diffusion" / "tiny.safetensors")
    models = CheckpointCatalogue(tmp_path / "models", Hashes())
    with services(tmp_path / "data", check_files=models.check) as given:
        web = TestClient(create_app(given), base_url=ORIGIN)
        for settings, said in (
            (
                {"sd_model_checkpoint": "tinny.ckpt [0123456789]"},
                "no checkpoint named 'tinny.ckpt'; did you mean 'tiny'?",
            ),
            ({"sd_vae": "soft.pt"}, "no VAE named 'soft.pt'; put it into models/VAE"),
        ):
            answer = post(web, "txt2img", **QUICK, override_settings=settings)
            assert (answer.status_code, answer.json()["detail"]) == (422, said)
        assert (
            post(web, "options", sd_vae="soft.pt").json()["detail"] == "no VAE named 'soft.pt'; put it into models/VAE"
        )
        assert given.queue.list("", 10) == []


def test_pictures_that_nobody_keeps_leave_the_history_once_they_are_delivered(
    client: TestClient, given: Services
) -> None:
    before = given.history.count("local")
    assert len(post(client, "txt2img", **QUICK).json()["images"]) == 1
    assert given.history.count("local") == before
    assert len(post(client, "txt2img", save_images=True, n_iter=2, **QUICK).json()["images"]) == 3
    assert given.history.count("local") == before + 2


def test_settings_that_may_not_be_changed_stay_and_unknown_ones_are_kept_and_named(client: TestClient) -> None:
    answer = post(client, "options", api_enable_requests=False, of_mine=[1], CLIP_stop_at_last_layers=2)
    assert answer.json() is None
    assert answer.headers["x-without-effect"] == "api_enable_requests, of_mine"
    now = client.get("/sdapi/v1/options").json()
    assert (now["api_enable_requests"], now["of_mine"], now["CLIP_stop_at_last_layers"]) == (True, [1], 2)
    info = json.loads(post(client, "txt2img", **QUICK).json()["info"])
    assert info["clip_skip"] == 2
    post(client, "options", CLIP_stop_at_last_layers=1)


def test_what_a_request_asks_for_in_vain_is_named_in_its_answer(client: TestClient) -> None:
    settings = {"font": "x", "live_previews_enable": False, "show_progress_type": "Fuller"}
    body = {**QUICK, "do_not_save_grid": True, "override_settings": settings}
    notes = json.loads(post(client, "txt2img", **body).json()["info"])["notes"]
    assert [note.partition(" has no effect")[0] for note in notes] == [
        "do_not_save_grid",
        "the setting font",
        "the setting show_progress_type",
    ]
    named = {"x-without-effect": "font, show_progress_type"}
    assert named.items() <= post(client, "options", **settings).headers.items()


def test_styles_come_from_the_file_that_the_command_line_names(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("name,prompt,negative_prompt\nink,ink drawing,colour\n", encoding="utf-8")
    with (
        services(tmp_path / "data", styles_file=tmp_path / "mine.csv") as given,
        TestClient(create_app(given), base_url=ORIGIN) as client,
    ):
        told = client.get("/sdapi/v1/prompt-styles").json()
        assert told == [{"name": "ink", "prompt": "ink drawing", "negative_prompt": "colour"}]
        info = json.loads(post(client, "txt2img", styles=["ink"], **QUICK).json()["info"])
        assert (info["prompt"], info["negative_prompt"]) == ("a fox, ink drawing", "colour")


def test_loras_are_listed_with_their_alias_and_what_their_header_says(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Lora" / "sub"
    folder.mkdir(parents=True)
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {"ss_output_name": "Ink"}, "lora_unet_x.alpha": tensor}).encode()
    (folder / "ink.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with (
        services(tmp_path / "data") as given,
        TestClient(create_app(given), base_url=ORIGIN) as client,
    ):
        given.host.shelf = NetworkShelf(tmp_path / "models")
        given.host.shelf.read()
        (told,) = client.get("/sdapi/v1/loras").json()
        assert told == {
            "name": "ink",
            "alias": "Ink",
            "path": "Lora/sub/ink.safetensors",
            "metadata": {"ss_output_name": "Ink"},
        }
        assert client.get("/sdapi/v1/hypernetworks").json() == []


def test_start_parameters_tell_no_paths_and_no_secrets(client: TestClient, given: Services) -> None:
    text = client.get("/sdapi/v1/cmd-flags").text
    assert str(given.data_dir) not in text and "auth" not in text


def test_foreign_pages_get_no_answer_and_programs_do(client: TestClient) -> None:
    evil = {"origin": "http://evil.example"}
    assert client.post("/sdapi/v1/txt2img", json=QUICK, headers=evil).status_code == 403
    assert client.post("/sdapi/v1/interrupt", headers=evil).status_code == 403
    assert client.post("/sdapi/v1/interrupt").status_code == 200


def test_each_account_has_its_own_work_and_its_own_settings(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "users.db")
    for name in ("alice", "bob"):
        accounts.add(name, f"{name} has a password")
    with (
        services(tmp_path / "data", accounts=accounts) as given,
        TestClient(create_app(given), base_url=ORIGIN) as client,
    ):
        assert client.get("/sdapi/v1/options").status_code == 401
        alice, bob = ((name, f"{name} has a password") for name in ("alice", "bob"))
        client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 4}, auth=alice)
        mine, theirs = (client.get("/sdapi/v1/options", auth=who).json() for who in (alice, bob))
        assert (mine["CLIP_stop_at_last_layers"], theirs["CLIP_stop_at_last_layers"]) == (4, 1)
        answers: list[Any] = []
        body = {**QUICK, "prompt": "slow", "steps": 8}
        thread = threading.Thread(
            target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=body, auth=alice))
        )
        thread.start()
        end = time.monotonic() + 30
        while time.monotonic() < end and not client.get("/sdapi/v1/progress", auth=alice).json()["progress"]:
            time.sleep(0.02)
        assert client.get("/sdapi/v1/progress", auth=bob).json()["progress"] == 0
        client.post("/sdapi/v1/interrupt", auth=bob)
        thread.join(30)
        assert len(answers[0].json()["images"]) == 1


def test_a_modifier_takes_an_object_of_options_as_well_as_values_in_their_order() -> None:
    @dataclass(frozen=True)
    class Options:
        amount: float = option(0.5, "Amount", lo=0.0, hi=1.0)
        gentle: bool = option(False, "Gentle")

    host = Host(Owner("softer", "1.0", permissions=frozenset({"modifier"})))
    host.add_modifier(ModifierSpec("softer", "Softer", Options, lambda options: Modifier()))

    def call(*args: Any) -> Any:
        return called(host, "txt2img", {"alwayson_scripts": {"Softer": {"args": [*args]}}})

    def asked(*args: Any) -> Any:
        return call(*args).modifiers

    assert asked(True, 0.7, True) == {"softer": {"amount": 0.7, "gentle": True}}
    assert asked({"amount": 0.7}) == asked(True, {"amount": 0.7}) == {"softer": {"amount": 0.7}}
    assert asked(False, {"amount": 0.7}) == {}
    with pytest.raises(UserError):
        asked(True, 0.7, {"gentle": True})
    with pytest.raises(UserError, match="give amount twice"):
        asked(True, {"amount": 0.7}, {"amount": 0.8})
    assert call(True, 0.7, True).notes == call(False, 0.7, True, 3).notes == call(True, {"amount": 1}).notes == ()
    assert call(True, 0.7, True, "more", None).notes == (
        "the arguments of Softer behind the first 3 have no effect: 'more', None",
    )
    assert call(True, False, {"amount": 0.7}).notes == (
        "the arguments of Softer behind the first 1 have no effect: False",
    )


def test_arguments_that_a_script_does_not_take_are_told() -> None:
    @dataclass(frozen=True)
    class Options:
        times: int = option(2, "Times")

    def run(*given: Any) -> Generator[Round, Sequence[Outcome], Sequence[Sheet]]:
        return ()
        yield

    host = Host(Owner("mine", "1.0", permissions=frozenset({"script"})))
    host.add_script(ScriptSpec("doubling", "Doubling", Options, run))
    selected = called(host, "txt2img", {"script_name": "doubling", "script_args": [3, 4, 5]})
    assert (selected.script, selected.options) == ("doubling", {"times": 3})
    assert selected.notes == ("the arguments of doubling behind the first 1 have no effect: 4, 5",)
    always = called(host, "txt2img", {"alwayson_scripts": {"Sampler": {"args": [20, "Euler", "Karras", "new"]}}})
    assert always.values == {"steps": 20, "sampler": "Euler", "scheduler": "Karras"}
    assert always.notes == ("the arguments of Sampler behind the first 3 have no effect: 'new'",)
    grown = called(host, "txt2img", {"alwayson_scripts": {"Seed": {"args": [*range(6), *range(9)]}}})
    assert grown.notes == ("the arguments of Seed behind the first 6 have no effect: 0, 1, 2, 3, 4, ...",)


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity", 10**400])
@pytest.mark.parametrize("field", ["hr_scale", "denoising_strength", "refiner_switch_at", "s_churn", "width"])
def test_what_is_no_number_is_refused_before_a_picture_is_made(client: TestClient, field: str, value: Any) -> None:
    before = client.get("/api/v1/jobs?limit=1").json()
    answer = (
        post(client, "txt2img", **QUICK, **{field: value}) if field != "width" else post(client, "txt2img", width=value)
    )
    assert answer.status_code == 422 and field in answer.json()["detail"].lower()
    assert client.get("/api/v1/jobs?limit=1").json() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLIP_stop_at_last_layers", "x"),
        ("s_churn", -1),
        ("randn_source", "TPU"),
        ("sd_vae", 5),
        ("eta_noise_seed_delta", []),
    ],
)
def test_a_setting_that_no_request_could_have_is_refused_and_not_kept(
    client: TestClient, name: str, value: Any
) -> None:
    before = client.get("/sdapi/v1/options").json()
    for answer in (post(client, "options", **{name: value}), post(client, "txt2img", override_settings={name: value})):
        assert answer.status_code == 422 and f"the setting {name} cannot be so" in answer.json()["detail"]
    assert client.get("/sdapi/v1/options").json() == before
    assert post(client, "txt2img", **QUICK).status_code == 200
    assert post(client, "options", **{name: None}).status_code == 200
