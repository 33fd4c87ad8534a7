"""The card's memory, as its driver tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from webui.api.sdapi.card_memory import UNAVAILABLE, CardMemory

DRIVER = """#!/bin/sh
case "$1" in
  --query-gpu=*) echo "78000, 3559, 81559" ;;
  --query-compute-apps=*) echo "3000"; echo "500" ;;
esac
"""


def driver(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_card_is_told_in_a1111s_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = CardMemory()
    driver(tmp_path, DRIVER, monkeypatch)
    told = memory.told()
    assert told["system"] == {"free": 78000 * 2**20, "used": 3559 * 2**20, "total": 81559 * 2**20}
    assert told["reserved"] == {"current": 3500 * 2**20, "peak": 3500 * 2**20}
    driver(tmp_path, DRIVER.replace("3000", "1000"), monkeypatch)
    assert memory.told()["reserved"] == {"current": 1500 * 2**20, "peak": 3500 * 2**20}
    assert {"system", "active", "allocated", "reserved", "inactive", "events"} == set(told)


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices were found\n", "not a program"])
def test_where_there_is_none_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    driver(tmp_path, text, monkeypatch)
    assert CardMemory().told() == UNAVAILABLE
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert CardMemory().told() == UNAVAILABLE
