"""Gradio hands out no file but pictures of the outputs folder and what it made itself. To be run at every upgrade."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import gradio as gr
import pytest
from PIL import Image
from starlette.testclient import TestClient

from modules.extension.host import TabSpec
from tests.webui.fake_server import services
from webui.context import Page
from webui.server import create_app
from webui.services import Services

CANARY = "canary-7d1f"
SECRET = "what nobody shall read"
ROUTES = ("/gradio_api/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/static/", "/assets/", "/svelte/")
KINDS = ("File", "Files", "Image", "ImagePath", "Gallery", "ImageEditor", "Audio", "Video", "Textbox", "HTML", "JSON")


def build_probe_tab(page: Page) -> None:
    """A tab as an extension would write it: a component that takes files of each kind, and an echo."""
    kinds: dict[str, Any] = {
        "File": gr.File(),
        "Files": gr.File(file_count="multiple"),
        "Image": gr.Image(type="numpy"),
        "ImagePath": gr.Image(type="filepath"),
        "Gallery": gr.Gallery(interactive=True),
        "ImageEditor": gr.ImageEditor(),
        "Audio": gr.Audio(type="filepath"),
        "Video": gr.Video(),
        "Textbox": gr.Textbox(),
        "HTML": gr.HTML(),
        "JSON": gr.JSON(),
    }
    assert tuple(kinds) == KINDS
    for kind, component in kinds.items():
        gr.Button(kind).click(lambda value: value, component, component, api_name=f"probe_{kind}")


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture outside of every folder that is served, whose name and text are known."""
    path = tmp_path_factory.mktemp("outside") / f"{CANARY}.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services(tmp_path_factory.mktemp("data")) as made:
        made.host.add_tab(TabSpec("probe", "Probe", build_probe_tab))
        yield made


def ask(client: TestClient, function: int, *data: list[Any]) -> str:
    """Run an event as the page does, once with each of ``data``, and give everything that was answered."""
    return ask_all(client, [(function, values) for values in data])


def ask_all(client: TestClient, events: Iterable[tuple[int, list[Any]]]) -> str:
    """Run events, and give everything that was answered: by one stream, which Gradio looks after twenty times a
    second."""
    refused, session = [], uuid4().hex
    for function, values in events:
        body = {"data": values, "fn_index": function, "session_hash": session, "event_data": None}
        joined = client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            refused.append(joined.text)
    return "".join(refused) + client.get("/gradio_api/queue/data", params={"session_hash": session}).text


def functions(client: TestClient) -> list[dict[str, Any]]:
    found = client.get("/config").json()["dependencies"]
    assert isinstance(found, list)
    return [function for function in found if function["backend_fn"]]


def different(client: TestClient) -> list[tuple[dict[str, Any], int]]:
    """Events, each with the place of one of its inputs, so that every kind of component is met in every kind of event:
    the check sees nothing else of them."""
    kinds = {component["id"]: component["type"] for component in client.get("/config").json()["components"]}
    found: dict[Any, tuple[dict[str, Any], int]] = {}
    for function in functions(client):
        for place, component in enumerate(function["inputs"]):
            found.setdefault((kinds[component], function["queue"], bool(function["js"])), (function, place))
    return list(found.values())


def filled(function: dict[str, Any], place: int, value: Any) -> list[Any]:
    """The inputs of an event, empty but for one."""
    return [value if number == place else None for number in range(len(function["inputs"]))]


def index_of(client: TestClient, kind: str) -> int:
    return next(int(f["id"]) for f in functions(client) if f["api_name"] == f"probe_{kind}")


def in_temp(given: Services) -> list[Path]:
    return list((given.data_dir / "tmp").rglob(f"*{CANARY}*"))


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png", "url": None}


def shapes(path: str) -> list[Any]:
    """The ways in which a client can put a file into a component's value."""
    one = file_data(path)
    return [
        one,
        [one],
        {**one, "url": f"file://{path}"},
        {"image": one, "caption": None},
        [{"image": one, "caption": None}],
        {"background": one, "layers": [], "composite": one, "id": None},
        {"background": None, "layers": [one], "composite": None, "id": None},
        {"video": one, "subtitles": one},
        {**one, "is_stream": True},
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_component_takes_a_file_that_was_not_uploaded(
    client: TestClient, given: Services, canary: Path, kind: str
) -> None:
    answer = ask(client, index_of(client, kind), *([shape] for shape in shapes(str(canary))))
    assert '"success": true' not in answer.replace('"success":true', '"success": true')
    assert "gradio_api/file=" not in answer
    assert in_temp(given) == []


def test_no_event_of_our_own_tabs_takes_a_file(client: TestClient, given: Services, canary: Path) -> None:
    own = [function for function in functions(client) if not str(function["api_name"]).startswith("probe_")]
    given_file = file_data(str(canary))
    answer = ask_all(client, [(int(function["id"]), [given_file] * len(function["inputs"])) for function in own])
    assert answer.count("process_completed") + answer.count("detail") >= len(own)
    probed = different(client)
    assert len(probed) >= 12
    ask_all(client, [(int(function["id"]), filled(function, place, given_file)) for function, place in probed])
    assert in_temp(given) == []


def test_the_probes_bite_when_the_door_is_left_open(given: Services, canary: Path) -> None:
    """Without the line in `create_app` that closes it, the same request copies the file to where it can be read."""
    app = create_app(given)
    mounted: list[Any] = [getattr(route, "app", None) for route in app.routes]
    blocks = next(inner for inner in mounted if hasattr(inner, "get_blocks")).get_blocks()
    blocks.has_launched = False
    with TestClient(app, base_url="http://127.0.0.1:7860") as open_client:
        answer = ask(open_client, index_of(open_client, "File"), [file_data(str(canary))])
        assert "gradio_api/file=" in answer
        assert in_temp(given) != []
    assert in_temp(given) == []  # swept when the server stops


def test_an_address_is_not_fetched_for_a_client(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("async_ssrf_protected_download", "ssrf_protected_download", "save_url_to_cache"):
        if hasattr(gr.processing_utils, name):
            monkeypatch.setattr(gr.processing_utils, name, lambda url, *a, **k: asked.append(url))
    addresses = ("http://127.0.0.1:1/a.png", "https://example.com/a.png")
    events = [
        (int(function["id"]), filled(function, place, form))
        for number, (function, place) in enumerate(different(client))
        for form in shapes(addresses[number % 2])
    ]
    answer = ask_all(client, events)
    assert answer.count("process_completed") + answer.count("detail") >= len(events)
    assert asked == []


def test_an_uploaded_picture_is_taken(client: TestClient, canary: Path) -> None:
    """The refusals above are not because nothing works."""
    sent = client.post("/gradio_api/upload", files={"files": ("mine.png", canary.read_bytes())})
    assert sent.status_code == 200, sent.text
    answer = ask(client, index_of(client, "ImagePath"), [file_data(sent.json()[0])])
    assert "process_completed" in answer
    assert "gradio_api/file=" in answer


def test_an_upload_stays_in_the_private_folder_whatever_its_name(client: TestClient, given: Services) -> None:
    for name in ("../../../../escaped.png", "/tmp/escaped.png", "..\\..\\escaped.png", "%2e%2e%2fescaped.png", ".."):
        sent = client.post("/gradio_api/upload", files={"files": (name, b"x")})
        for path in sent.json() if sent.status_code == 200 else []:
            assert Path(path).resolve().is_relative_to((given.data_dir / "tmp" / "gradio").resolve())


def test_the_temporary_folder_is_private(client: TestClient, given: Services) -> None:
    assert (given.data_dir / "tmp" / "gradio").stat().st_mode & 0o777 == 0o700


def test_no_path_leads_out_of_the_outputs(client: TestClient, given: Services, canary: Path) -> None:
    secret = given.data_dir / "settings.json"
    secret.write_text(json.dumps({"secret": SECRET}))
    link = given.outputs_dir / "link.png"
    link.symlink_to(canary)
    up = "../" * 12
    payloads = [
        "/etc/passwd",
        "//etc/passwd",
        f"{up}etc/passwd",
        quote(f"{up}etc/passwd", safe=""),
        quote(quote(f"{up}etc/passwd", safe=""), safe=""),
        f"{given.outputs_dir}/{up}etc/passwd",
        f"{given.outputs_dir}/..%2fsettings.json",
        f"{given.outputs_dir}/../settings.json",
        f"{given.outputs_dir}/%2e%2e/settings.json",
        f"{given.outputs_dir}x/../settings.json",
        str(secret),
        str(given.data_dir / "reprise.db"),
        f"file://{secret}",
        f"\\\\127.0.0.1\\share\\{CANARY}.png",
        "C:\\Windows\\win.ini",
        "~/.bashrc",
        f"{secret}%00.png",
        str(canary),
        str(link),
        "",
        ".",
        str(given.outputs_dir),
    ]
    content = canary.read_bytes()
    for payload in payloads:
        for route in ROUTES:
            answer = client.get(route + payload)
            assert SECRET.encode() not in answer.content, (route, payload)
            assert content not in answer.content, (route, payload)
            assert b"root:" not in answer.content, (route, payload)
            assert answer.status_code >= 400 or answer.headers["content-type"].startswith("text/html"), (route, payload)
    link.unlink()


def test_a_picture_of_the_outputs_is_shown_byte_for_byte(client: TestClient, given: Services) -> None:
    path = given.outputs_dir / "a b.png"
    Image.new("RGB", (8, 8), "blue").save(path)
    answer = client.get("/gradio_api/file=" + quote(str(path)))
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
