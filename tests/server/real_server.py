"""The painter's server as a process of its own: its memory and files can be counted, a proxy can stand before it."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_S = 180.0


@dataclass(frozen=True)
class Process:
    """A server on 127.0.0.1."""

    port: int
    pid: int
    data_dir: Path

    def connection(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def memory(self) -> int:
        """Resident bytes."""
        return int(self._status("VmRSS")) * 1024

    def threads(self) -> int:
        return int(self._status("Threads"))

    def files(self) -> int:
        """Open descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def temp_bytes(self) -> int:
        found = [path for path in (self.data_dir / "tmp").rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in found)

    def _status(self, name: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def free_port() -> int:
    """A port that nothing listens on, below those that Linux gives away by itself: while a server starts, the
    connections of tests beside this one cannot take it."""
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def serving(data_dir: Path, *arguments: str) -> Iterator[Process]:
    """`tests.webui.fake_server` with ``arguments``, from when it answers to the end of the block."""
    port = free_port()
    command = [sys.executable, str(ROOT / "tests" / "webui" / "fake_server.py"), "--port", str(port)]
    command += ["--data-dir", str(data_dir), *arguments]
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "server.log").open("wb") as log:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=env)
        try:
            wait_for(port, process, data_dir / "server.log")
            yield Process(port, process.pid, data_dir)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until something listens on ``port``."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    pytest.fail(f"no server (exit {process.poll()}):\n{log.read_text(errors='replace')[-3000:]}")
