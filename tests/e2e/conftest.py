"""A real browser on a real server, and a record of every request that the page made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright
from safetensors.torch import save_file

from modules.nn.compact import CompactConfig, CompactNet
from tests.server.real_server import free_port
from tests.tiny_vae import write_vae

ROOT = Path(__file__).parents[2]
WATCH, WATCHED = Path(__file__).parent / "watch", "watched.log"
START_S = 180.0
PATIENCE_MS = 45_000
"""For a busy machine; on an idle one nothing here takes a second."""
PLACES = ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class Server:
    """A running server process."""

    url: str
    data_dir: Path

    def health(self) -> dict[str, str]:
        with urllib.request.urlopen(f"{self.url}/healthz", timeout=30) as answer:
            found = json.load(answer)
        assert isinstance(found, dict)
        return found

    @property
    def watched(self) -> list[str]:
        """What ``watch/sitecustomize.py`` tells of the server's processes."""
        return (self.data_dir / WATCHED).read_text(encoding="utf-8").splitlines()

    def pictures(self) -> list[Path]:
        return sorted(self.data_dir.glob("outputs/txt2img-images/*/*.png"))


@dataclass
class Visit:
    """A page with what it asked for and what it complained about."""

    page: Page
    server: Server
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("request", self._asked)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def open(self) -> Page:
        self.page.goto(self.server.url)
        self.page.wait_for_selector("#txt2img_prompt textarea")
        self.page.wait_for_selector("#txt2img_networks_open")  # the last part of the prompts: now all has its place
        return self.page

    def foreign(self) -> list[str]:
        ours = (f"{self.server.url}/", "data:", "blob:")
        return [url for url in self.requests if not url.startswith(ours)]


def choose(page: Page, place: str, word: str) -> None:
    """Choose a value of a control by its word."""
    page.locator(f"#{place} select").select_option(label=word)


@contextlib.contextmanager
def running(command: list[str], data_dir: Path, *, worker: bool) -> Iterator[Server]:
    """Start ``command`` on a free port; ready when it answers and, with ``worker``, can take a job."""
    port = free_port()
    server = Server(f"http://127.0.0.1:{port}", data_dir)
    arguments = [*command, "--port", str(port), "--data-dir", str(data_dir)]
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "server.log").open("wb") as log:
        env = {**os.environ, "PYTHONPATH": f"{WATCH}{os.pathsep}{ROOT}", "REPRISE_WATCHED": str(data_dir / WATCHED)}
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            _wait(server, process, worker)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], worker: bool) -> None:
    end, states = time.monotonic() + START_S, ("ready", "busy")
    said = "nothing"
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            said = server.health().get("worker", "nothing")
            if not worker or said in states:
                return
        time.sleep(0.2)
    log = (server.data_dir / "server.log").read_text(errors="replace")
    pytest.fail(f"the server is not ready (exit {process.poll()}, worker {said}):\n{log[-3000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the whole session: while it is open, playwright keeps an event loop running in this thread."""
    program = next(filter(None, map(shutil.which, PLACES)), None)
    if program is None:
        pytest.fail("there is no Chromium for the browser tests; install it with: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture(scope="session")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose pictures are painted: prompts with "slow" take their time, "explode" fails."""
    script = ROOT / "tests" / "webui" / "fake_server.py"
    with running([sys.executable, str(script)], tmp_path_factory.mktemp("painter"), worker=True) as server:
        yield server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The program as people start it, on a small random checkpoint."""
    folder = tmp_path_factory.mktemp("program")
    model = folder / "models" / "Stable-diffusion" / "tiny.safetensors"
    program = [sys.executable, str(ROOT / "app.py")]
    subprocess.run([*program, "make-tiny-checkpoint", str(model)], cwd=ROOT, check=True, timeout=120)
    write_tiny_upscaler(folder / "models" / "ESRGAN" / "tiny-2x.pth")
    write_vae(folder / "models" / "VAE" / "fine.safetensors")
    (folder / "models" / "embeddings").mkdir()
    save_file({"emb_params": torch.ones(2, 4)}, folder / "models" / "embeddings" / "my style.safetensors")
    # The tokenizer's vocabulary is taken from the folder that comes with the program.
    (folder / "models" / "clip").symlink_to(ROOT / "models" / "clip")
    command = [*program, "--models-dir", str(folder / "models"), "--device", "cpu"]
    with running(command, folder / "data", worker=True) as found:
        yield found


def write_tiny_upscaler(path: Path) -> None:
    """A network of a few kB that doubles the size and adds nothing: a picture comes out as nearest makes it."""
    net = CompactNet(CompactConfig(features=4, convolutions=1, scale=2))
    state = {key: torch.zeros_like(tensor) for key, tensor in net.state_dict().items()}
    path.parent.mkdir(parents=True)
    torch.save({"params": state}, path)


@contextlib.contextmanager
def visiting(browser: Browser, server: Server, **habits: Any) -> Iterator[Visit]:
    """A fresh visitor with ``habits`` (locale, color_scheme); at the end: no request to elsewhere, by the page or
    by the server's processes, no complaint in the browser's console."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **habits})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(PATIENCE_MS)
    visit = Visit(context.new_page(), server)
    visit.watch()
    try:
        yield visit
    finally:
        context.close()
    assert visit.requests, "no request was recorded"
    assert visit.foreign() == []
    assert [line for line in server.watched if " left " in line] == []
    assert visit.complaints == []


@pytest.fixture
def visit(browser: Browser, painter: Server) -> Iterator[Visit]:
    with visiting(browser, painter) as made:
        yield made


@pytest.fixture
def program(browser: Browser, server: Server) -> Iterator[Visit]:
    with visiting(browser, server) as made:
        yield made
