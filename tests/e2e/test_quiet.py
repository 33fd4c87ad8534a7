"""Nothing leaves the machine: neither from the page, on any tab, nor from the server and its worker while they work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import WATCH

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

LEAVING = """
import socket
for attempt in (
    lambda: socket.getaddrinfo("example.invalid", 443),
    lambda: socket.gethostbyname("example.invalid"),
    lambda: socket.socket().connect(("192.0.2.1", 443)),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        attempt()
    except OSError as error:
        print(error)
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname())
socket.getaddrinfo("localhost", 80)
"""


def test_whoever_wants_to_leave_is_stopped_and_told_of(tmp_path: Path) -> None:
    log = tmp_path / "watched"
    env = {**os.environ, "PYTHONPATH": str(WATCH), "REPRISE_WATCHED": str(log)}
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], env=env, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        *["example.invalid is not this machine"] * 2,
        *["192.0.2.1 is not this machine"] * 2,
    ]
    watched, *left = [line.partition(" ")[2] for line in log.read_text(encoding="utf-8").splitlines()]
    assert watched == "watched"
    assert left == [
        "left socket.getaddrinfo example.invalid",
        "left socket.gethostbyname example.invalid",
        "left socket.connect 192.0.2.1",
        "left socket.sendto 192.0.2.1",
    ]


@pytest.mark.browser
def test_server_and_worker_speak_to_nobody_from_start_to_picture(program: Visit) -> None:
    page = program.open()
    page.fill("#txt2img_prompt textarea", "a quiet lake")
    page.locator("#txt2img_steps input[type=number]").fill("2")
    page.click("#txt2img_generate")
    page.wait_for_selector('#txt2img_status .rp-status[data-phase="done"]')
    tabs = page.evaluate("[...document.querySelectorAll('#rp_tabs > .tab-wrapper [role=tab]')].map((one) => one.id)")
    for tab in tabs:
        page.click(f"#{tab}")
        page.wait_for_timeout(300)
    assert len(tabs) >= 5
    watched = [line for line in program.server.watched if line.endswith(" watched")]
    assert len({line.split()[0] for line in watched}) >= 2, "the worker is watched too"
    assert [line for line in program.server.watched if " left " in line] == []
