"""Many at once who ask little: pages that are opened, names that are thought of, connections that say nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.server.real_server import Process, serving
from webui.security.connections import HEAD_S, MOST_WAITING

MB = 2**20
SHORT_S = 3.0
"""The program waits ten seconds for a head."""
HALVES = (
    b"",
    b"G",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    b"POST /nowhere HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 999\r\n\r\nhalf",  # answered, and never ends
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("crowds"), "--head-s", str(SHORT_S)) as found:
        yield found


def is_alive(process: Process) -> bool:
    connection = process.connection(60)
    connection.request("GET", "/healthz")
    alive = connection.getresponse().status == 200
    connection.close()
    return alive


def until(process: Process, most: int, seconds: float) -> int:
    """How many descriptors are open, as soon as there are at most ``most``."""
    end = time.monotonic() + seconds
    while process.files() > most and time.monotonic() < end:
        time.sleep(0.1)
    return process.files()


def test_connections_that_say_nothing_are_few_and_end(process: Process) -> None:
    """1,500 of an address, half of them with some part of a request: at most 64 are held, others are answered
    meanwhile, and after the time for a head there is none. What trickles in gives no more time."""
    assert is_alive(process)
    before = until(process, 0, 1)
    lines = []
    for number in range(1500):
        line = socket.create_connection(("127.0.0.1", process.port), 10)
        line.sendall(HALVES[number % len(HALVES)])
        lines.append(line)
    assert is_alive(process)
    held = until(process, before + MOST_WAITING, 60) - before
    assert held <= MOST_WAITING
    end = time.monotonic() + SHORT_S + 60
    while process.files() > before + 1 and time.monotonic() < end:
        for line in lines[-20:]:
            try:
                line.sendall(b"x")
            except OSError:
                continue  # hung up
        time.sleep(0.2)
    left = process.files() - before
    print(f"1,500 half requests: {held} held, {left} left")
    for line in lines:
        line.close()
    assert left <= 1
    assert is_alive(process)


def test_a_stream_and_a_connection_at_work_outlast_the_time_for_a_head(process: Process) -> None:
    stream = process.connection(60)
    stream.request("GET", "/gradio_api/heartbeat/mine")
    answer = stream.getresponse()
    kept = process.connection(60)
    for _ in range(4):
        kept.request("GET", "/healthz")
        assert kept.getresponse().read()
        time.sleep(SHORT_S / 3)
    assert answer.read(1)
    stream.close()


def test_pages_that_are_opened_cost_little_and_names_that_are_thought_of_no_more(process: Process) -> None:
    """Gradio alone keeps 1.7 to 2 MB of each, for good. All run what a page runs when it is loaded."""
    connection = process.connection()
    connection.request("GET", "/config", headers={"accept-encoding": "identity"})
    config = json.loads(connection.getresponse().read())
    values = {one["id"]: one["props"].get("value") for one in config["components"]}
    loads = [
        one
        for one in config["dependencies"]
        if one["backend_fn"] and "load" in [target[1] for target in one["targets"]]
    ]
    assert loads

    def open_page(name: str, events: list[dict[str, object]]) -> None:
        for one in events:
            data = [values.get(number) for number in one["inputs"]]  # type: ignore[attr-defined]
            body = json.dumps({"data": data, "fn_index": one["id"], "session_hash": name}).encode()
            connection.request("POST", "/gradio_api/run/predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200

    for number in range(5):
        open_page(f"first{number}", loads)
    memory = process.memory()
    for number in range(30):
        open_page(f"page{number}", loads)
    pages, memory = process.memory() - memory, process.memory()
    for number in range(200):
        open_page(f"thought{number}", loads[:1])
    names = process.memory() - memory
    print(f"30 pages: +{pages / MB:.1f} MB, 200 names: +{names / MB:.1f} MB")
    assert pages <= 30 * MB
    assert names <= 20 * MB


def test_the_figures_hold_for_the_program() -> None:
    assert (HEAD_S, MOST_WAITING) == (10.0, 64)
