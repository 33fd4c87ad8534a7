"""Attacks on the whole application, each against every place that might give way."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from starlette.testclient import TestClient

from modules.accounts import Accounts
from modules.checkpoints.files import find_model
from modules.errors import RepriseError
from modules.jobs.events import EventHub
from modules.jobs.queue import JobQueue
from modules.jobs.store import JobStore
from tests.modules.metadata.test_recipe import RECIPE
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from tests.webui.html.test_status import HOSTILE, everything, tags
from tests.webui.test_files import ask, functions, shapes
from webui.html import history as history_views
from webui.html import status as views
from webui.security.routes import routes_of
from webui.server import create_app
from webui.services import Services

SECRET = "what nobody shall read, 5b21"

# -- S08


@pytest.fixture(scope="module")
def canary(given: Services, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file outside of every folder that is served, with a link to it inside the outputs."""
    path = tmp_path_factory.mktemp("outside") / "canary.png"
    Image.new("RGB", (4, 4), "red").save(path)
    path.write_bytes(path.read_bytes() + SECRET.encode())
    (given.outputs_dir / "link.png").symlink_to(path)
    (given.outputs_dir / "linked").symlink_to(path.parent)
    return path


def payloads(canary: Path, outputs: Path) -> list[str]:
    """Forty ways to say the canary's path."""
    plain, up = str(canary), "../" * 14
    tail = plain.lstrip("/")
    encoded = quote(f"{up}{tail}", safe="")
    return [
        plain,
        f"/{plain}",
        f"//{plain}",
        f"/./{plain}",
        tail,
        f"{up}{tail}",
        f"/{up}{tail}",
        f"{up}{tail}".replace("/", "\\"),
        f"..;/{up}{tail}",
        "....//" * 14 + tail,
        "..../" * 14 + tail,
        ".\\./" * 14 + tail,
        encoded,
        quote(encoded, safe=""),
        quote(quote(encoded, safe=""), safe=""),
        f"{up}{tail}".replace("../", "%2e%2e/"),
        f"{up}{tail}".replace("../", "..%2f"),
        f"{up}{tail}".replace("../", "%2e%2e%5c"),
        f"{up}{tail}".replace("../", "..%c0%af"),
        f"{up}{tail}".replace("../", "%c0%ae%c0%ae/"),
        f"{up}{tail}".replace("../", "..%u2216"),
        f"{up}{tail}".replace("../", "\uff0e\uff0e\uff0f"),
        f"{outputs}/{up}{tail}",
        f"{outputs}/..%2f{up}{tail}",
        f"{outputs}/link.png",
        f"{outputs}/linked/canary.png",
        f"{outputs}/./linked/../link.png",
        "link.png",
        "linked/canary.png",
        f"{outputs}x/{up}{tail}",
        f"file://{plain}",
        f"file://localhost{plain}",
        f"FILE:{plain}",
        f"\\\\127.0.0.1\\c$\\{tail}",
        f"\\\\?\\{plain}",
        f"C:{plain}",
        f"{plain}%00.png",
        f"{plain}\x00.png",
        f"{plain}?.png",
        f"{plain}#.png",
        f"/proc/self/root{plain}",
        f"~/{up}{tail}",
    ]


def test_forty_payloads_in_every_path_of_every_route_read_nothing(
    client: TestClient, given: Services, canary: Path
) -> None:
    """S08, and the search of the address alone."""
    tried, wanted = 0, payloads(canary, given.outputs_dir.resolve())
    assert len(wanted) >= 40
    addressed = [path for path, methods in routes_of(client.app) if "{" in path and "GET" in methods]
    assert "/gradio_api/file={path_or_url:path}" in addressed
    slow = ("/gradio_api/heartbeat/", "/gradio_api/call/")  # streams of sessions that are none
    for path in addressed:
        if path.startswith(slow):
            continue
        for payload in wanted:
            for said in {payload, quote(payload, safe="/%")}:
                before, after = (re.split(r"{[^}]*}", path)[end] for end in (0, -1))
                answer = client.get(f"{before}{said}{after}".replace("\x00", "%00"))
                assert SECRET.encode() not in answer.content, (path, said)
                tried += 1
    for payload in wanted:
        assert client.get("/", params={"deep_link": payload}).status_code == 404
        assert SECRET not in client.get("/login", params={"next": payload}).text
    print(f"{len(wanted)} payloads, {len(addressed)} routes, {tried} requests, 0 hits")
    assert tried > 500


def test_forty_payloads_in_every_name_of_a_request_read_nothing(
    client: TestClient, given: Services, canary: Path, tmp_path: Path
) -> None:
    """S08: names of models, of stored pictures, of networks in a prompt; uploads by their file's name."""
    for payload in payloads(canary, given.outputs_dir.resolve()):
        for name in ("checkpoint", "vae", "upscaler", "sampler", "image", "mask_image", "refiner_checkpoint"):
            answer = client.post("/api/v1/explain", json={"prompt": f"<lora:{payload}:1>", name: payload})
            assert SECRET not in answer.text
            assert answer.status_code < 500
        with pytest.raises(RepriseError):
            find_model(tmp_path, payload, "none")
        with pytest.raises(RepriseError):
            given.inputs.read(payload)
        assert payload not in given.inputs
        sent = client.post("/gradio_api/upload", files={"files": (payload.replace("\x00", "%00"), b"x")})
        for path in sent.json() if sent.status_code == 200 else []:
            assert Path(path).resolve().is_relative_to((given.data_dir / "tmp" / "gradio").resolve())
    assert SECRET.encode() in canary.read_bytes()


# -- S12


class Listener:
    """Counts who comes."""

    def __init__(self) -> None:
        self.came = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            self.came += 1
            line.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def addresses(port: int) -> list[str]:
    hosts = (
        *("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1"),
        *("0.0.0.0", "127.0.0.1.nip.io", "localhost.", "a@127.0.0.1", "169.254.169.254", "10.0.0.1", "rebind.example"),
    )
    made = [f"{scheme}://{host}:{port}/a.png" for host in hosts for scheme in ("http", "HTTP", "https")]
    return [
        *made,
        f"//127.0.0.1:{port}/a.png",
        f"ftp://127.0.0.1:{port}/a",
        f"gopher://127.0.0.1:{port}/",
        "file:///etc/passwd",
    ]


def test_a_picture_is_never_fetched_from_an_address(client: TestClient, listener: Listener) -> None:
    """S12: in every event that takes one value, in the API, and on Gradio's routes that fetch; nobody comes."""
    wanted = addresses(listener.port)
    ours = [function for function in functions(client) if len(function["inputs"]) == 1]
    for address in wanted:
        for route in ("/gradio_api/file=", "/gradio_api/proxy=", "/gradio_api/file/"):
            assert client.get(route + address).status_code >= 400
        for name in ("image", "recipe"):
            assert client.post("/api/v1/replay", json={name: address}).status_code in (200, 202, 422), address
    for function in ours:
        for shape in (wanted[0], shapes(wanted[0])[0], shapes(wanted[6])[5]):  # test_files.py has all shapes
            ask(client, int(function["id"]), [shape])
    time.sleep(0.2)
    assert listener.came == 0
    with socket.create_connection(("127.0.0.1", listener.port)):
        pass
    end = time.monotonic() + 60
    while not listener.came and time.monotonic() < end:
        time.sleep(0.02)
    assert listener.came == 1  # it does count


# -- S13


def further(text: str) -> list[str]:
    """HTML made outside of `webui.html.status`, with ``text`` wherever a value can come from outside."""
    job = SimpleNamespace(
        id=text, spec={"params": {"prompt": text}, "kind": text}, state="failed", output={}, error={"detail": text}
    )
    picture = SimpleNamespace(number=1, kind=text, created=0.0, path=f"/{text}.png", job=text, index=0)
    pictures: Any = [picture]
    jobs: Any = [job]
    return [
        views.line_html([(1, jobs[0])]),
        views.trouble_html(text),
        history_views.tiles_html(pictures, 1, (), jobs),
        history_views.tiles_html(pictures, 1, (1,), jobs),
        history_views.chosen_html(pictures[0]),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_every_place_where_the_server_writes_html(client: TestClient, text: str) -> None:
    """S13: the same elements as for a harmless word, and no attribute that runs."""
    own = [[tag for tag, _ in tags(html).found] for html in further("x y")]
    assert len(own) + len(everything("x")) >= 12
    for html, expected in zip(further(text), own, strict=True):
        found = tags(html).found
        assert [tag for tag, _ in found] == expected, html
        assert not [name for _, attributes in found for name in attributes if name.startswith("on")], html
    page = client.get("/login", params={"next": text}).text
    assert "<img" not in page
    assert "<script>alert" not in page
    for path in (f"/api/v1/replay/{quote(text)}", f"/{quote(text)}", f"/locales/{quote(text)}.json"):
        answer = client.get(path)
        assert text not in answer.text or not answer.headers["content-type"].startswith("text/html"), path
    refused = client.post("/api/v1/explain", json={"prompt": "x", "sampler": text})
    assert refused.headers["content-type"].startswith("application/json")


def test_a_settings_name_from_outside_is_never_part_of_the_page(given: Services) -> None:
    """S13: what stands in the page before any script runs names models; a model's file name can be hostile."""
    named = replace(given, checkpoints=lambda: (f"{HOSTILE[1]}.safetensors",))
    html = TestClient(create_app(named), base_url=ORIGIN).get("/").text
    assert "<script>alert(1)" not in html


# -- L03


def test_fifteen_hundred_submits_meet_the_limits_with_a_time_to_come_back(tmp_path: Path) -> None:
    """L03: 1,000 in all and 100 each; the rest is 503 with Retry-After, and nothing hangs. The queue stands still."""
    accounts = Accounts(tmp_path / "users.db")
    tokens = []
    for n in range(15):
        accounts.add(f"user{n}", "correct horse")
        tokens.append(accounts.new_token(f"user{n}"))
    with services(tmp_path / "data", accounts=accounts) as running:
        still: Any = JobQueue(JobStore(tmp_path / "still.db"), running.queue.executor, EventHub())  # type: ignore[attr-defined]
        client = TestClient(create_app(replace(running, queue=still)), base_url=ORIGIN)
        times, statuses = [], []
        said: set[str] = set()
        for user, count in [(0, 150), *((n, 100) for n in range(1, 14)), (14, 50)]:
            for _ in range(count):
                begin = time.monotonic()
                answer = client.post(
                    "/api/v1/replay",
                    json={"recipe": str(RECIPE)},
                    headers={"authorization": f"Bearer {tokens[user]}"},
                )
                times.append(time.monotonic() - begin)
                statuses.append(answer.status_code)
                if answer.status_code == 503:
                    assert int(answer.headers["retry-after"]) > 0
                    said.add(re.sub(r"\d+", "N", json.loads(answer.text)["detail"]))
    p95 = sorted(times)[int(len(times) * 0.95)]
    print(f"1,500 submits: {statuses.count(202)} taken, {statuses.count(503)} refused, p95 {p95 * 1000:.1f} ms")
    assert (len(statuses), statuses.count(202), statuses.count(503)) == (1500, 1000, 500)
    assert statuses[:150] == [202] * 100 + [503] * 50
    assert said == {
        "you have N jobs waiting already; wait for some of them or cancel them",
        "N jobs wait already; try again in a few minutes",
    }
