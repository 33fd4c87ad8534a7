"""Pretended machines: what is read of them, and which build of torch they get."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modules.machine import GB, HUGE_PAGES, Card, Machine, Ram, ask_for_huge_pages, look, ram
from modules.torch_build import choose

linux_only = pytest.mark.skipif("sys.platform != 'linux'", reason="reads Linux's files")
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@linux_only
def test_memory_is_what_is_free_with_a_containers_limit(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO})
    assert ram(tmp_path) == Ram(16 * GB, 8 * GB)
    files = {"memory.max": "max\n", "memory.current": f"{GB}\n"}
    write(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert ram(tmp_path) == Ram(16 * GB, 8 * GB)
    files = {
        "memory.max": f"{6 * GB}",
        "memory.current": f"{5 * GB}",
        "memory.stat": f"file 9\ninactive_file {2 * GB}\n",
    }
    write(tmp_path, {f"sys/fs/cgroup/a/b/{name}": text for name, text in files.items()})
    write(tmp_path, {"proc/self/cgroup": "0::/a/b\n"})
    assert ram(tmp_path) == Ram(6 * GB, 3 * GB)  # 2 of the 5 GB are cached files


@linux_only
def test_cards_and_matrix_units_are_found(tmp_path: Path) -> None:
    flags = "fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile"
    pci = "sys/bus/pci/devices/0000:0"
    write(
        tmp_path,
        {
            "proc/cpuinfo": f"processor : 0\nmodel name\t: Xeon\nflags\t\t: {flags}\n",
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\n",
            "proc/driver/nvidia/gpus/0000:01/information": "Model: \t\t NVIDIA H100\nIRQ: 3\n",
            f"{pci}1/vendor": "0x10de\n",
            f"{pci}1/class": "0x030200\n",
            f"{pci}2/vendor": "0x1002\n",
            f"{pci}2/class": "0x030000\n",
            f"{pci}2/mem_info_vram_total": f"{16 * GB}\n",
            f"{pci}3/vendor": "0x1002\n",
            f"{pci}3/class": "0x030000\n",
            f"{pci}3/mem_info_vram_total": f"{GB // 2}\n",  # a processor's graphics unit
            f"{pci}4/vendor": "0x8086\n",
            f"{pci}4/class": "0x030000\n",
            f"{pci}4/device": "0x56a0\n",
            f"{pci}5/vendor": "0x8086\n",
            f"{pci}5/class": "0x030000\n",
            f"{pci}5/device": "0x3e92\n",  # another one
            f"{pci}6/vendor": "0x8086\n",
            f"{pci}6/class": "0x020000\n",  # a network card
        },
    )
    found = look(tmp_path)
    assert found.processor == "Xeon"
    assert found.units == ("amx_bf16", "avx512_bf16", "avx512", "avx2")
    assert [(card.vendor, card.name, card.driver, card.memory) for card in found.cards] == [
        ("NVIDIA", "NVIDIA H100", "580.95.05", 0),
        ("AMD", "", "", 16 * GB),
        ("Intel", "", "", 0),
    ]


@linux_only
def test_a_card_without_its_driver_is_found_too(tmp_path: Path) -> None:
    write(tmp_path, {"sys/bus/pci/devices/1/vendor": "0x10de\n", "sys/bus/pci/devices/1/class": "0x030000\n"})
    assert look(tmp_path).cards == (Card("NVIDIA"),)


def machine(system: str, *vendors: str, architecture: str = "x86_64") -> Machine:
    return Machine(system, architecture, Ram(16 * GB, 8 * GB), tuple(Card(vendor) for vendor in vendors))


@pytest.mark.parametrize(
    ("pretended", "wanted", "sentence"),
    [
        (machine("linux", "NVIDIA"), "CUDA", ""),
        (machine("linux", "AMD"), "ROCm", "torch for this machine's AMD card (ROCm) is not what pip's index has, so"),
        (machine("linux", "Intel"), "XPU", "torch for this machine's Intel card (XPU) is not what pip's index has, so"),
        (machine("linux", "AMD", "NVIDIA"), "CUDA", ""),
        (machine("linux"), "CPU", "this machine has no card that torch can use, and pip's index has the build for"),
        (machine("linux", "NVIDIA", architecture="aarch64"), "CUDA", "torch for this machine's NVIDIA card (CUDA) is"),
        (machine("win32", "NVIDIA"), "CUDA", "torch for this machine's NVIDIA card (CUDA) is not what pip's index has"),
        (machine("win32", "AMD"), "CPU", ""),
        (machine("win32"), "CPU", ""),
        (machine("darwin", "Apple", architecture="arm64"), "MPS", ""),
        (machine("darwin"), "CPU", ""),
    ],
    ids=str,
)
def test_each_machine_gets_its_build_or_a_sentence(pretended: Machine, wanted: str, sentence: str) -> None:
    choice = choose(pretended)
    assert choice.wanted == wanted
    assert choice.sentence.startswith(sentence) and bool(choice.sentence) == bool(sentence)
    if sentence:
        assert choice.sentence.endswith("--torch-index URL")


def test_huge_pages_are_asked_for_unless_the_owner_said_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HUGE_PAGES, "0")
    ask_for_huge_pages()
    assert os.environ[HUGE_PAGES] == "0"
    monkeypatch.delenv(HUGE_PAGES)
    ask_for_huge_pages()
    assert os.environ[HUGE_PAGES] == "1"
