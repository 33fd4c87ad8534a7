"""The requests in the README of the APIs, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.real_server import ROOT, serving

README = (ROOT / "webui" / "api" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(shell|python)\n(.*?)```", README, re.DOTALL)


def run(command: list[str], url: str, place: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "URL": url, "PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_requests_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    shell = "\n".join(code for language, code in BLOCKS if language == "shell").replace("curl -sS", "curl -sS --fail")
    assert shell.count("curl") >= 10
    with serving(tmp_path / "data") as server:
        url = f"http://127.0.0.1:{server.port}"
        told = run(["bash", "-euo", "pipefail", "-c", shell], url, tmp_path)
        assert "event: done" in told and "event: image" in told and '"warnings"' in told
        assert (tmp_path / "fox.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "answer.json").read_text(encoding="utf-8").startswith('{"images":["iVBOR')
        for code in (code for language, code in BLOCKS if language == "python"):
            assert run([sys.executable, "-c", code], url, tmp_path)
        assert any(path.suffix == ".png" and path.name != "fox.png" for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", re.findall(r"`((?:sdapi|v1)/\w+\.py)`", README))
def test_files_that_the_readme_names_are_there(name: str) -> None:
    assert (ROOT / "webui" / "api" / name).is_file()
