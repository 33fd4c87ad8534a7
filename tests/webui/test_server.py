"""The application as a whole: quiet, light, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from modules.checkpoints.embeddings import Suited
from modules.errors import UserError
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui import server
from webui.server import create_app
from webui.services import Services

ROOT = Path(__file__).parents[2]

OUTGOING = """
import socket, sys
tried = []
real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo

def near(host):
    return host in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0", b"127.0.0.1")

def connect(self, address):
    if self.family != socket.AF_UNIX and not near(address[0]):
        tried.append(address)
        raise OSError("no network in this test")
    return real_connect(self, address)

def lookup(host, *rest, **named):
    if not near(host):
        tried.append(host)
        raise socket.gaierror("no network in this test")
    return real_lookup(host, *rest, **named)

socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect, lookup
sys.path.insert(0, {root!r})
"""

QUIET_RUN = """
import json, os, threading, time
from pathlib import Path
from tests.webui.fake_server import services
from starlette.testclient import TestClient
from webui.server import create_app

with services(Path({data!r})) as given, TestClient(create_app(given), base_url="http://127.0.0.1") as client:
    page = client.get("/").text
    config = client.get("/config").json()
    button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "txt2img_generate")
    click = next(f for f in config["dependencies"] if [button, "click"] in [list(t) for t in f["targets"]])
    values = [c["props"].get("value") for i in click["inputs"] for c in config["components"] if c["id"] == i]
    client.post("/gradio_api/queue/join", json={{"data": values, "fn_index": click["id"], "session_hash": "s"}})
    client.get("/gradio_api/queue/data?session_hash=s")
    until = time.monotonic() + 60
    while not (made := list(Path({data!r}).glob("outputs/**/*.png"))) and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(3)
heavy = [name for name in ("torch", "transformers", "diffusers") if name in sys.modules]
print(json.dumps({{"tried": [str(t) for t in tried], "heavy": heavy, "page": page, "done": bool(made),
                  "cwd": os.listdir(".")}}))
"""


def test_nothing_leaves_the_machine_and_torch_is_not_loaded(tmp_path: Path) -> None:
    """From the import to a finished image, in a fresh interpreter whose sockets go nowhere."""
    code = OUTGOING.format(root=str(ROOT)) + QUIET_RUN.format(data=str(tmp_path / "data"))
    empty = tmp_path / "cwd"
    empty.mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO", "HF_"))}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=empty, env=plain, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["tried"] == []
    assert said["heavy"] == []
    assert said["done"], "the image was not made"
    assert said["cwd"] == [], "files were left in the working directory"
    foreign = [line for line in said["page"].splitlines() if 'src="http' in line or 'href="http' in line]
    assert foreign == []


def test_health_says_what_the_worker_does(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": "0.0-test", "worker": "ready", "detail": ""}


def test_there_is_no_documentation_page_from_elsewhere(client: TestClient) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert "swagger" not in client.get(path).text.lower()


def test_a_page_holds_no_connection_while_nothing_runs(client: TestClient) -> None:
    """A browser has six for a server. With gr.State, Gradio keeps one open for each page that is looked at."""
    assert client.get("/config").json()["connect_heartbeat"] is False


def test_no_event_is_offered_by_name(client: TestClient) -> None:
    """Names like /lambda_1 would be an API that nobody promised."""
    assert client.get("/gradio_api/info").json()["named_endpoints"] == {}


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            server.listen("127.0.0.1", port)
    assert str(caught.value) == f"port {port} is in use by another program; choose another with --port"


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 8000), ("no such host.invalid", 8000), ("127.0.0.1", 70000)])
def test_an_address_that_cannot_be_had_is_one_sentence(host: str, port: int) -> None:
    with pytest.raises(UserError, match=r"^cannot listen on .*; check --host and --port$"):
        server.listen(host, port)


def test_errors_of_ours_are_answered_as_json(given: Services) -> None:
    app = server.create_app(given)

    @app.get("/wrong")
    def wrong() -> None:
        raise UserError("steps are <many>", hint="use fewer", field="steps")

    app.router.routes.insert(0, app.router.routes.pop())
    answer = TestClient(app, base_url="http://localhost").get("/wrong")
    assert answer.status_code == 422
    assert answer.json() == {
        "error": "UserError",
        "detail": "steps are <many>; use fewer",
        "field": "steps",
        "hint": "use fewer",
    }


def test_a_name_that_is_not_utf_8_keeps_nobody_from_the_page(tmp_path: Path) -> None:
    """It is shown with U+FFFD where it is no character, on the page, in the answers of its events and of the API."""
    odd = b"caf\xe9.safetensors".decode("utf-8", "surrogateescape")
    refused = Suited((), {odd: f"{odd} is for others"})
    changes = {"checkpoints": lambda: (odd, "b.ckpt"), "vaes": lambda: (odd,), "embeddings": lambda name: refused}
    with services(tmp_path, **changes) as given, TestClient(create_app(given), base_url=ORIGIN) as client:
        assert "caf\ufffd.safetensors" in client.get("/").text
        config = client.get("/config").json()
        assert "caf\ufffd.safetensors" in json.dumps(config, ensure_ascii=False)
        names = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
        asked = [
            {"data": [""] * len(one["inputs"]), "fn_index": one["id"], "session_hash": "x"}
            for one in config["dependencies"]
            if one["backend_fn"] and [names.get(number) for number, _ in one["targets"]] == ["refresh_checkpoints"]
        ]
        answers = [client.post("/gradio_api/run/predict", json=body) for body in asked]
        assert {answer.status_code for answer in answers} == {200}
        assert any("caf\ufffd.safetensors" in answer.text for answer in answers)
        missing = client.post("/api/v1/explain", json={"prompt": "a", "checkpoint": "nowhere"})
        assert missing.status_code < 500
