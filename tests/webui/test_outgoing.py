"""Requests to other machines: listed hosts alone, resolved once, and never into a private network by a name."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from starlette.testclient import TestClient

from modules.errors import UserError
from modules.params.generation import TO
from modules.pipeline.limits import Limits
from tests.modules.metadata.test_recipe import RECIPE
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from tests.webui.test_sdapi_fields import picture
from webui.api.v1.jobs import read_spec
from webui.api.v1.webhooks import Webhooks
from webui.outgoing import Outgoing
from webui.policy import ApiPolicy
from webui.server import create_app


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another machine: pictures, redirects, and webhooks that it takes or refuses."""

    got: ClassVar[list[tuple[str, bytes]]] = []
    picture: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        self.got.append((self.path, b""))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path[4:])
            self.end_headers()
            return
        self.send_response(200 if self.path.startswith("/fox") else 404)
        self.end_headers()
        self.wfile.write(self.picture * (1000 if "large" in self.path else 1))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        busy = self.path == "/busy" and not any(path == "/busy" for path, _ in self.got)
        self.got.append((self.path, body))
        self.send_response(503 if busy else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    Elsewhere.picture = base64.b64decode(picture())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://other.example/", "not listed"),
        ("https://a.example:8443/", "not listed"),
        ("http://a.example.evil.com/", "not listed"),
        ("https://a.example@evil.com/", "no address"),
        ("https://user:pw@a.example/", "no address"),
        ("file:///etc/passwd", "no address"),
        ("gopher://a.example/", "no address"),
        ("//a.example/", "no address"),
        ("https://[::1", "no address"),
        ("https://a.example/\r\nhost: b", "no address"),
        ("http://127.0.0.1/", "not listed"),
        ("http://2130706433/", "not listed"),
        ("", "no address"),
    ],
)
def test_an_address_is_judged_before_anybody_is_asked(url: str, reason: str) -> None:
    def never(name: str, port: int) -> Sequence[str]:
        pytest.fail("a name was resolved")

    with pytest.raises(UserError, match=reason):
        Outgoing(["a.example"], "--image-host", resolve=never).target(url)


PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "fd00::1", "0.0.0.0"]


@pytest.mark.parametrize(
    "address", [*PRIVATE, "::ffff:127.0.0.1", "100.64.0.1", "224.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"]
)
def test_a_name_that_leads_into_a_private_network_is_refused(address: str) -> None:
    outgoing = Outgoing(["a.example"], "--image-host", resolve=lambda *_: ["93.184.216.34", address])
    with pytest.raises(UserError, match="private network; list its address itself with --image-host"):
        outgoing.target("https://a.example/x.png")


def test_a_name_is_resolved_once_and_that_address_is_connected_to(elsewhere: str) -> None:
    asked: list[str] = []

    def rebinding(name: str, port: int) -> Sequence[str]:
        asked.append(name)
        return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

    target = Outgoing([f"a.example:{elsewhere.rpartition(':')[2]}"], "x", resolve=rebinding).target(
        f"http://a.example:{elsewhere.rpartition(':')[2]}/fox.png"
    )
    assert (target.address, target.host, asked) == ("93.184.216.34", "a.example", ["a.example"])


def test_pictures_come_from_a_listed_host_through_redirects_that_are_judged_too(elsewhere: str) -> None:
    outgoing = Outgoing([elsewhere], "--image-host")
    assert outgoing.get(f"http://{elsewhere}/fox.png") == Elsewhere.picture
    assert outgoing.get(f"http://{elsewhere}/to//to//fox.png") == Elsewhere.picture
    for path, reason in (
        ("to/http://127.0.0.1:9/x", "not listed"),
        ("to/http://localhost/x", "not listed"),
        ("to/file:///etc/passwd", "no address"),
        ("to//to//to//to//fox", "too often"),
        ("gone", "status 404"),
    ):
        with pytest.raises(UserError, match=reason):
            outgoing.get(f"http://{elsewhere}/{path}")
    with pytest.raises(UserError, match="larger than"):
        outgoing.get(f"http://{elsewhere}/fox-large", max_bytes=len(Elsewhere.picture) * 10)


@pytest.fixture(scope="module")
def open_client(elsewhere: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    policy = ApiPolicy(webhook_hosts=(elsewhere,), image_hosts=(elsewhere,), limits=Limits(512 * 512, 50))
    with (
        services(tmp_path_factory.mktemp("data"), api=policy) as given,
        TestClient(create_app(given, page=False), base_url=ORIGIN) as client,
    ):
        yield client


def test_both_apis_take_pictures_from_a_listed_host(open_client: TestClient, elsewhere: str) -> None:
    url = f"http://{elsewhere}/fox.png"
    quick = {"prompt": "a fox", "steps": 1, "width": 64, "height": 64}
    found = open_client.post("/sdapi/v1/img2img", json={**quick, "init_images": [url]})
    assert found.status_code == 200, found.text
    assert open_client.post("/sdapi/v1/png-info", json={"image": url}).status_code == 200
    key = open_client.post("/api/v1/inputs", json={"image": url}).json()["key"]
    same = open_client.post("/api/v1/inputs", json={"image": picture()}).json()["key"]
    assert key == same
    started = open_client.post("/api/v1/jobs", json={"params": {**quick, "init": {"image": url}}})
    assert started.status_code == 202, started.text
    refused = open_client.post("/api/v1/inputs", json={"image": "http://127.0.0.1:1/x"})
    assert refused.status_code == 422 and "not listed" in refused.json()["detail"]


def until(path: str, times: int = 1) -> list[bytes]:
    for _ in range(600):
        bodies = [body for found, body in Elsewhere.got if found == path]
        if len(bodies) >= times:
            return bodies
        threading.Event().wait(0.05)
    pytest.fail(f"{path} was not called {times} times: {Elsewhere.got}")


def test_a_webhook_gets_the_job_once_it_has_ended_and_never_a_place_on_the_disk(
    open_client: TestClient, elsewhere: str
) -> None:
    body = {"params": {"prompt": "a fox", "steps": 2, "width": 64, "height": 64}, "webhook": f"http://{elsewhere}/hook"}
    job = open_client.post("/api/v1/jobs", json=body).json()
    (told,) = until("/hook")
    assert b'"done"' in told and job["id"].encode() in told and b"/outputs/" not in told
    assert open_client.get(job["url"]).json()["output"]["images"]


def test_a_webhook_that_is_refused_is_tried_again(elsewhere: str, tmp_path: Path) -> None:
    with (
        services(tmp_path, api=ApiPolicy(webhook_hosts=(elsewhere,))) as given,
        TestClient(create_app(given, page=False), base_url=ORIGIN) as client,
    ):
        body = {"params": {"prompt": "a", "steps": 1, "width": 64, "height": 64}, "webhook": f"http://{elsewhere}/busy"}
        assert client.post("/api/v1/jobs", json=body).status_code == 202
        assert len(until("/busy", 2)) == 2


def test_a_webhook_outlives_a_restart(elsewhere: str, tmp_path: Path) -> None:
    policy = ApiPolicy(webhook_hosts=(elsewhere,))
    with services(tmp_path, api=policy) as given:
        before = Webhooks(tmp_path, policy.webhook_hosts)
        spec = given.prepared(read_spec(given, {"params": {"prompt": "a", "steps": 1}}))
        job = given.queue.submit("local", spec.to_json())
        before.note("local", job.id, f"http://{elsewhere}/later")
        with TestClient(create_app(given, page=False), base_url=ORIGIN):
            assert job.id.encode() in until("/later")[0]
    assert Webhooks(tmp_path, policy.webhook_hosts).waiting in ({}, {job.id: ["local", f"http://{elsewhere}/later"]})


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://a.example/", 7, [], "x" * 3000])
def test_a_webhook_elsewhere_is_refused_and_no_job_is_made(open_client: TestClient, url: Any) -> None:
    count = len(open_client.get("/api/v1/jobs?limit=500").json()["jobs"])
    answer = open_client.post("/api/v1/jobs", json={"params": {"prompt": "a fox"}, "webhook": url})
    assert answer.status_code == 422 and answer.json()["field"] == "webhook"
    assert len(open_client.get("/api/v1/jobs?limit=500").json()["jobs"]) == count


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"width": 1024, "height": 512}, "at most 0.262144 megapixels"),
        ({"width": 512, "height": 512, "hires": {"scale": 2}}, "megapixels"),
        ({"width": 64, "height": 64, "steps": 51}, "at most 50 steps"),
        ({"width": 64, "height": 64, "hires": {"scale": 2, "steps": 60}}, "at most 50 steps"),
    ],
)
def test_what_is_larger_than_an_administrator_allows_is_refused_by_every_way(
    open_client: TestClient, params: dict[str, Any], reason: str
) -> None:
    answer = open_client.post("/api/v1/jobs", json={"params": {"prompt": "a fox", **params}})
    assert answer.status_code == 422 and reason in answer.json()["detail"]
    if "hires" not in params:
        theirs = open_client.post("/sdapi/v1/txt2img", json={"prompt": "a fox", **params})
        assert theirs.status_code == 422 and reason in theirs.json()["detail"]


def test_replays_and_extras_are_held_against_the_limits(open_client: TestClient) -> None:
    large = replace(RECIPE, request=RECIPE.request.changed(width=1024))
    answer = open_client.post("/api/v1/replay", json={"recipe": str(large)})
    assert answer.status_code == 422 and "at most 0.262144 megapixels" in answer.json()["detail"]
    key = open_client.post("/api/v1/inputs", json={"image": picture()}).json()["key"]
    extras = {"kind": "extras", "params": {"upscaler": "Lanczos", "by": 8}, "inputs": [{"key": key}] * 2}
    small = open_client.post("/api/v1/jobs", json=extras)
    assert small.status_code == 202, small.text
    extras["params"] = {"upscaler": "Lanczos", "resize": TO, "width": 1024, "height": 1024}
    answer = open_client.post("/api/v1/jobs", json=extras)
    assert answer.status_code == 422 and "at most 0.262144 megapixels" in answer.json()["detail"]
    theirs = {"image": picture(), "upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 1024}
    answer = open_client.post("/sdapi/v1/extra-single-image", json=theirs)
    assert answer.status_code == 422 and "megapixels" in answer.json()["detail"]
