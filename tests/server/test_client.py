"""The client in one file, and the command line that uses it, against a server with a painter for a model."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from modules.cli.client import Client, ServerError
from tests.server.real_server import ROOT, Process, serving

QUICK = {"prompt": "a fox", "steps": 3, "seed": 5, "batch_size": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("data"), "--pasting") as made:
        yield made


@pytest.fixture
def client(server: Process) -> Client:
    return Client(f"http://127.0.0.1:{server.port}/")


def test_a_job_is_submitted_followed_and_fetched(client: Client) -> None:
    job = client.submit(QUICK)
    told = [event["type"] for event in client.follow(job)]
    assert told[-1] == "done" and told.count("image") == 2
    images = client.fetch(job)
    assert [image.seed for image in images] == [5, 6]
    assert all(Image.open(io.BytesIO(image.data)).size == (128, 128) for image in images)
    assert images[0].infotext.startswith("a fox\nSteps: 3")


def test_a_stream_can_be_taken_up_behind_any_event(client: Client) -> None:
    job = client.submit(QUICK)
    events = list(client.follow(job))
    first = next(event for event in events if event["type"] == "image")
    assert [e["type"] for e in client.follow(job, first["id"]) if e["type"] != "step"] == ["image", "done"]


def test_a_request_that_is_sent_twice_with_its_key_is_one_job(client: Client) -> None:
    assert client.submit(QUICK, key="a") == client.submit(QUICK, key="a") != client.submit(QUICK)


def test_a_job_is_stopped(client: Client) -> None:
    job = client.submit({**QUICK, "prompt": "slow", "batch_count": 50})
    client.cancel(job)
    assert list(client.follow(job))[-1]["type"] == "cancelled"
    assert client.state(job)["state"] == "cancelled"


def test_a_job_that_is_stopped_may_keep_or_finish_the_image_at_hand(client: Client) -> None:
    for stop in ("keep", "finish"):
        job = client.submit({**QUICK, "prompt": "slow", "batch_size": 3, "seed": 9})
        for event in client.follow(job):
            if event["type"] == "step":
                client.finish(job) if stop == "finish" else client.cancel(job, keep=True)
                break
        assert list(client.follow(job))[-1]["type"] == "cancelled"
        assert [image.seed for image in client.fetch(job)] == [9]


def test_a_start_picture_is_put_there_first(client: Client) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(out, "PNG")
    job = client.submit({**QUICK, "init": {"image": client.put(out.getvalue())}})
    assert list(client.follow(job))[-1]["type"] == "done"


def test_what_the_server_refuses_is_said_with_its_sentence_and_field(client: Client) -> None:
    with pytest.raises(ServerError, match="did you mean") as caught:
        client.submit({**QUICK, "sampler": "Eulr"})
    assert (caught.value.status, caught.value.field) == (422, "sampler")
    with pytest.raises(ServerError) as caught:
        client.state("0" * 32)
    assert caught.value.status == 404


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/", "127.0.0.1:7860"])
def test_an_address_that_is_no_servers_is_refused(url: str) -> None:
    with pytest.raises(ServerError, match="no address"):
        Client(url)


def test_generate_lets_a_server_do_it(server: Process, tmp_path: Path) -> None:
    command = [sys.executable, "app.py", "generate", "a fox", "--server", f"http://127.0.0.1:{server.port}"]
    command += ["--steps", "2", "--seed", "5", "--batch-size", "2", "-o", str(tmp_path / "fox.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox-2.png", "fox.png"]
    assert Image.open(tmp_path / "fox.png").size == (128, 128)
    wrong = subprocess.run([*command, "--sampler", "Eulr"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and "did you mean 'Euler'?" in wrong.stderr
    nobody = [*command[:4], "--server", "http://127.0.0.1:9"]
    lost = subprocess.run(nobody, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert lost.returncode == 2 and "cannot be reached" in lost.stderr


def test_pictures_in_options_of_extensions_are_put_on_the_server(
    server: Process, client: Client, tmp_path: Path
) -> None:
    """Only where the option is one of a picture, and not where it has a stored one's key already."""
    data = {}
    for name, colour in {"face.png": "teal", "area.png": "white"}.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
        data[name] = (tmp_path / name).read_bytes()
    command = [sys.executable, "app.py", "generate", "a fox", "--server", f"http://127.0.0.1:{server.port}"]
    command += ["--steps", "1", "-o", str(tmp_path / "made" / "fox.png")]
    said = [f"pastes.picture={tmp_path / 'face.png'}", "pastes.area=area.png", "pastes.title=face.png"]
    flags = [word for text in said for word in ("--ext", text)]
    lost = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert lost.returncode != 0 and "area.png cannot be read" in lost.stderr
    flags[3] = f"pastes.area={client.put(data['area.png'])}"
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    asked = client.ask(client.ask("/api/v1/jobs?limit=1")["jobs"][0]["url"] + "/request")["params"]["extensions"]
    keys = {name: client.put(one) for name, one in data.items()}  # a picture's name is that of its content
    assert asked == {"pastes": {"area": keys["area.png"], "picture": keys["face.png"], "title": "face.png"}}


def test_a_stream_waits_a_minute_for_a_server_that_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(ServerError, match=r"broke off: .* cannot be reached"):
        list(Client("http://127.0.0.1:9").follow("0" * 32))
    assert 60 < sum(pauses) < 70
    assert all(after == 2 * before for before, after in pairwise(pauses))


def test_the_client_needs_nothing_but_python(tmp_path: Path) -> None:
    text = (ROOT / "modules" / "cli" / "client.py").read_text(encoding="utf-8")
    (tmp_path / "client.py").write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", "-S", str(tmp_path / "client.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_whoever_goes_away_before_a1111s_answer_finds_the_result_in_the_history(server: Process) -> None:
    client = Client(f"http://127.0.0.1:{server.port}")
    before = client.ask("/api/v1/history")["count"]
    body = json.dumps({"prompt": "a slow fox", "steps": 8, "seed": 3}).encode()
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as gone:
        gone.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        end = time.monotonic() + 30
        while time.monotonic() < end and not client.ask("/api/v1/jobs?state=running")["jobs"]:
            time.sleep(0.02)
    end = time.monotonic() + 30
    while time.monotonic() < end and client.ask("/api/v1/jobs?state=running,queued")["jobs"]:
        time.sleep(0.02)
    time.sleep(0.5)  # for the answer, which nobody reads
    assert client.ask("/api/v1/history")["count"] == before + 1
