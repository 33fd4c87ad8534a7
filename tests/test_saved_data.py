"""What version 0.1 left in a data folder still loads: jobs, settings, recipes, accounts, and an extension of then."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import app
from modules.accounts import Accounts
from modules.extension.host import Host
from modules.extension.loader import Loader
from modules.metadata.image_text import read_metadata
from modules.params import settings
from tests.old_model import SHA256, write_old_model
from tests.server.real_server import free_port

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "fixtures" / "data-0.1"
EXTENSIONS = Path(__file__).parent / "fixtures" / "extensions-0.1"
PATIENCE_S = 400.0
"""For a busy machine; an idle one takes ten seconds."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` as it was recorded, ``models`` with the model of then, ``extensions`` with those that its jobs name."""
    home = tmp_path_factory.mktemp("home")
    data = home / "data"
    shutil.copytree(RECORDED, data)
    for script in data.glob("*.sql"):
        with sqlite3.connect(data / f"{script.stem}.db") as db:
            text = script.read_text(encoding="utf-8").replace("@DATA@", str(data))
            # Of the job that was at work; one step and four pictures are enough here.
            text = text.replace('"steps": 150', '"steps": 1').replace('"batch_count": 16', '"batch_count": 2')
            db.executescript(text)
        db.close()
        script.unlink()
    (home / "models").mkdir()
    (home / "models" / "clip").symlink_to(ROOT / "models" / "clip")
    (home / "models" / "embeddings").mkdir()
    save_file({"emb_params": torch.ones(2, 4)}, home / "models" / "embeddings" / "mystyle.safetensors")
    for name in ("dynamic_prompts", "xyz_grid"):
        shutil.copytree(ROOT / "extensions" / name, home / "extensions" / name)
    shutil.copytree(EXTENSIONS / "everything", home / "extensions" / "everything")
    tiny = home / "models" / "Stable-diffusion" / "tiny.safetensors"
    assert app.main(["make-tiny-checkpoint", str(tiny)]) == 0
    assert sha256(write_old_model(tiny, tiny).read_bytes()).hexdigest() == SHA256
    return home


def places(home: Path) -> list[str]:
    return [word for name in ("data", "models", "extensions") for word in (f"--{name}-dir", str(home / name))]


def states(data: Path) -> dict[str, int]:
    """How many jobs are in each state."""
    with sqlite3.connect(f"file:{data / 'reprise.db'}?mode=ro", uri=True) as db:
        found = dict(db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state"))
    db.close()
    return found


@pytest.fixture
def server(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    port = str(free_port())
    with (home / "log").open("wb") as log:
        command = [sys.executable, str(ROOT / "app.py"), *places(home), "--port", port, "--device", "cpu"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_settings_are_as_the_owner_left_them(home: Path) -> None:
    found, trouble = settings.load(home / "data" / "settings.json")
    assert (found.image_format, trouble) == ("webp", "")


def test_accounts_are_known(home: Path) -> None:
    accounts = Accounts(home / "data" / "users.db")
    assert accounts.log_in("alice", "correct horse battery", "127.0.0.1").is_admin
    accounts.close()


def test_every_recipe_is_followed_again(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A picture of each kind; on this processor the pixels are the same or the verdict says what differs."""
    outputs = home / "data" / "outputs"
    for name in ("txt2img-images/*/00001-5.png", "img2img-images/*/00002-9.png"):
        (path,) = outputs.glob(name)
        assert read_metadata(path)["recipe"]
        app.main(["replay", str(path), *places(home)])
        said = capfd.readouterr().out
        assert said.startswith(("identical", "differs, because")), said


def test_an_extension_of_then_loads(home: Path) -> None:
    host = Host()
    loader = Loader(home / "extensions", home / "data", ROOT, process="command")
    loader.load_all(host)
    assert ("softer" in host.modifiers, "twice" in host.scripts) == (True, True)
    assert [one.reason for one in loader.extensions.values() if one.reason] == []


def test_jobs_that_waited_are_done_after_the_start(home: Path, server: subprocess.Popen[bytes]) -> None:
    """The one that was at work too, though the server that had it was killed."""
    data, end = home / "data", time.monotonic() + PATIENCE_S
    while {"queued", "running"} & states(data).keys() and time.monotonic() < end:
        assert server.poll() is None, (home / "log").read_text()
        time.sleep(0.2)
    assert states(data).pop("failed") == 1, (home / "log").read_text()
    assert states(data).keys() == {"done", "failed"}, (home / "log").read_text()
