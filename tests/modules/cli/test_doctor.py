"""The doctor on pretended machines: every finding, and its line of advice."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from modules.checkpoints.folders import survey
from modules.cli.doctor import Finding, examine, report
from modules.machine import GB, Card, Machine, Ram


def found(tmp_path: Path, machine: Machine, torch: Mapping[str, Any], port: int = 0) -> dict[str, Finding]:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "a.safetensors").touch()
    folders = {"checkpoints": [tmp_path / "checkpoints"], "VAEs": [tmp_path / "none"]}
    findings = examine(
        tmp_path, tmp_path / "data", folders, "127.0.0.1", port, survey=survey, machine=machine, ask_torch=lambda: torch
    )
    return {finding.subject: finding for finding in findings}


@pytest.mark.parametrize(
    ("device", "number", "torch", "bad", "advice"),
    [
        ("auto", None, "card", None, ""),
        ("cpu", None, "none", False, ""),
        ("cuda", None, "card", False, ""),
        ("auto", 0, "card", False, ""),
        ("cuda", None, "none", True, "torch sees no card here"),
        ("xpu", None, "card", True, "torch sees cuda here"),
        ("cuda", 1, "card", True, "there is 0"),
        ("auto", 0, "none", True, "torch sees no card here"),
    ],
)
def test_a_device_that_the_command_line_names_is_looked_for(
    device: str, number: int | None, torch: str, bad: bool | None, advice: str, tmp_path: Path
) -> None:
    answer = {**ON_CARD, "kind": "cuda"} if torch == "card" else WITHOUT
    findings = examine(
        *(tmp_path, tmp_path, {}, "127.0.0.1", 0),
        survey=survey,
        machine=machine(),
        ask_torch=lambda: answer,
        device=(device, number),
    )
    own = [finding for finding in findings if finding.subject == "device"]
    assert [finding.bad for finding in own] == ([] if bad is None else [bad])
    assert all(finding.advice.startswith(advice) or advice in finding.advice for finding in own)


def looked(tmp_path: Path, folders: Mapping[str, list[Path]]) -> list[Finding]:
    return examine(
        tmp_path, tmp_path, folders, "127.0.0.1", 0, survey=survey, machine=machine(), ask_torch=lambda: WITHOUT
    )


def machine(*cards: Card, ram: int = 32, units: tuple[str, ...] = ("avx2",), system: str = "linux") -> Machine:
    return Machine(system, "x86_64", Ram(ram * GB, ram * GB), cards, "Test CPU", units)


ON_CARD = {"version": "2.13.0", "card": "RTX", "memory": 12 * GB, "free": 11 * GB, "count": 1, "works": True}
WITHOUT = {"version": "2.13.0", "card": "", "memory": 0, "count": 0}


def test_a_machine_that_has_everything_needs_no_advice(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    findings = found(tmp_path, machine(Card("NVIDIA", "RTX", "580.1"), units=("amx_bf16",)), ON_CARD)
    assert {subject: finding.advice for subject, finding in findings.items() if finding.advice} == {}
    assert list(findings) == [
        *("card", "driver", "torch", "memory", "matrix units"),
        *("folder of checkpoints", "folder of VAEs", "port", "disk"),
    ]
    assert findings["memory"].found == "32.0 of 32.0 GB are free, on the card 11.0 of 12.0 GB"
    assert findings["torch"].found == "2.13.0, CUDA on RTX"
    assert all(line.startswith("ok") for line in report(list(findings.values())).splitlines())


@pytest.mark.parametrize(
    ("pretended", "torch", "subject", "advice", "bad"),
    [
        (machine(), WITHOUT, "card", "images are made on the processor", False),
        (machine(Card("NVIDIA")), WITHOUT, "driver", "install NVIDIA's driver", False),
        (machine(Card("NVIDIA", "RTX", "470.1")), WITHOUT, "driver", "bring NVIDIA's driver up to date", False),
        (machine(Card("NVIDIA", "RTX", "470.1")), WITHOUT, "torch", "is the right build and sees no card", False),
        (machine(Card("NVIDIA", "RTX", "1", 2 * GB)), ON_CARD, "card", "--lowvram", False),
        (machine(Card("AMD")), WITHOUT, "torch", "--torch-index URL", False),
        (machine(Card("AMD")), {**WITHOUT, "version": "2.13.0+rocm7.0"}, "torch", "right build", False),
        (
            machine(Card("NVIDIA"), system="win32"),
            {**WITHOUT, "version": "2.13.0+cpu"},
            "torch",
            "--torch-index",
            False,
        ),
        (machine(Card("NVIDIA")), {**ON_CARD, "works": False}, "torch", "the card gives wrong numbers", True),
        (machine(), {"error": "ModuleNotFoundError: No module named 'torch'"}, "torch", "the first start", False),
        (machine(), {"error": "ImportError: libfoo.so"}, "torch", "remove .venv and start again", True),
        (machine(ram=4), WITHOUT, "memory", "SDXL models need about 8 GB", False),
        (machine(), WITHOUT, "matrix units", "float32 is used", False),
        (machine(), WITHOUT, "folder of VAEs", "make it, or name another", False),
    ],
)
def test_each_finding_has_its_advice(
    tmp_path: Path, pretended: Machine, torch: Mapping[str, Any], subject: str, advice: str, bad: bool
) -> None:
    finding = found(tmp_path, pretended, torch)[subject]
    assert advice in finding.advice
    assert finding.bad == bad


def test_a_port_in_use_and_a_folder_without_checkpoints_are_problems(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = found(tmp_path, machine(), WITHOUT, port)["port"]
    assert finding.bad and finding.advice == "choose another with --port"
    (tmp_path / "empty").mkdir()
    empty = {"checkpoints": [tmp_path / "empty"]}
    findings = examine(
        tmp_path, tmp_path, empty, "127.0.0.1", 0, survey=survey, machine=machine(), ask_torch=lambda: WITHOUT
    )
    assert [one.subject for one in findings if one.bad] == ["folder of checkpoints"]


def test_a_link_to_nothing_is_no_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "gone.safetensors").symlink_to(tmp_path / "elsewhere")
    folders = {"checkpoints": [folder]}
    findings = examine(
        tmp_path, tmp_path, folders, "127.0.0.1", 0, survey=survey, machine=machine(), ask_torch=lambda: WITHOUT
    )
    (found,) = (finding for finding in findings if finding.subject == "folder of checkpoints")
    assert found.bad and found.found.endswith("0 files")
    assert found.advice.endswith("; gone.safetensors is a link that leads to nothing: bring back what it led to")
