"""From the command to a page that answers, with everything installed."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Prints, for each of three starts, seconds until the page answered and until the model was ready."""
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            port = _free_port()
            begin = time.perf_counter()
            command = [sys.executable, "app.py", "--port", str(port), "--data-dir", folder]
            server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                _wait(f"http://127.0.0.1:{port}/", lambda body: True)
                page = time.perf_counter() - begin
                _wait(f"http://127.0.0.1:{port}/healthz", lambda body: b'"ready"' in body)
                print(f"page {page:.1f} s, model ready {time.perf_counter() - begin:.1f} s")
            finally:
                server.terminate()
                server.wait()


def _wait(url: str, good: object, seconds: float = 120.0) -> None:
    assert callable(good)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if good(answer.read()):
                    return
        except (urllib.error.URLError, ConnectionError):
            pass  # not there yet
        time.sleep(0.05)
    raise TimeoutError(url)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
