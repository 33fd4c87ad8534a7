"""What is in this machine: memory, processor and cards, as the operating system tells it. Standard library only, for it
is asked before anything is installed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GB = 2**30
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""By which torch asks Linux for pages of 2 MB under its large tensors."""
VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
"""PCI numbers of those whose cards torch can compute on."""
_ARC = re.compile(r"0x(4905|56|e2)")
"""Beginnings of the PCI numbers of Intel's cards; the others are graphics units of processors."""
_LEAST_VRAM = 2 * GB
"""Of AMD's own memory, below which it is a processor's graphics unit."""


def ask_for_huge_pages() -> None:
    """Before torch is imported: fresh memory is then cleared in large pieces. Where the owner has said something, or
    the system gives none, nothing changes.
    """
    os.environ.setdefault(HUGE_PAGES, "1")


@dataclass(frozen=True)
class Card:
    """A graphics card that some build of torch can use. ``memory`` in bytes and ``driver`` where the system tells."""

    vendor: str
    name: str = ""
    driver: str = ""
    memory: int = 0


@dataclass(frozen=True)
class Ram:
    """Main memory in bytes: what this process may use, a container's limit counted, and what of it is free now."""

    total: int
    available: int


@dataclass(frozen=True)
class Machine:
    """A machine. ``system`` as in `sys.platform`, ``architecture`` as in `platform.machine`."""

    system: str
    architecture: str
    ram: Ram
    cards: tuple[Card, ...] = ()
    processor: str = ""
    units: tuple[str, ...] = ()
    """Of the processor's instruction sets those that count: "amx_bf16", "avx512_bf16", "avx512", "avx2"."""


def look(root: Path = Path("/")) -> Machine:
    """This machine. ``root``: where a pretended one has its ``proc`` and ``sys``."""
    name, units = _processor(root)
    return Machine(sys.platform, platform.machine().lower(), ram(root), tuple(_cards(root)), name, units)


def ram(root: Path = Path("/")) -> Ram:
    """Main memory. Zeros where the system does not tell."""
    if sys.platform == "win32":
        return _windows_ram()
    lines = _text(root / "proc/meminfo").splitlines()
    values = {words[0].rstrip(":"): int(words[1]) * 1024 for line in lines if len(words := line.split()) > 1}
    total = values.get("MemTotal", 0) or _pages("SC_PHYS_PAGES")
    available = values.get("MemAvailable", 0) or _pages("SC_AVPHYS_PAGES") or total
    for limit, used in _container_limits(root):
        total, available = min(total, limit), min(available, max(limit - used, 0))
    return Ram(total, available)


def _container_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of the control groups that hold this process, versions 2 and 1. Cached files do not count as used:
    they make room.
    """
    own = next((line[3:] for line in _text(root / "proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    base = root / "sys/fs/cgroup"
    places = [base, *(base / part for part in _parents(own.strip("/")))]
    found = [(place / "memory.max", place / "memory.current", place / "memory.stat") for place in places]
    first = base / "memory"
    found.append((first / "memory.limit_in_bytes", first / "memory.usage_in_bytes", first / "memory.stat"))
    for limit, used, stat in found:
        size, now = _text(limit).strip(), _text(used).strip()
        if size.isdecimal() and now.isdecimal():
            files = re.search(r"^(?:total_)?inactive_file (\d+)$", _text(stat), re.MULTILINE)
            yield int(size), max(int(now) - int(files[1] if files else 0), 0)


def _parents(path: str) -> Iterator[str]:
    """
    >>> list(_parents("a/b"))
    ['a', 'a/b']
    """
    parts = [part for part in path.split("/") if part]
    return ("/".join(parts[: i + 1]) for i in range(len(parts)))


def _pages(name: str) -> int:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in ("total", "free", "page", "page_free", "virtual", "virtual_free", "more")
        ),
    )


def _windows_ram() -> Ram:
    status = _Status(length=ctypes.sizeof(_Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return Ram(int(status.total), int(status.free))


def _processor(root: Path) -> tuple[str, tuple[str, ...]]:
    text = _text(root / "proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set((re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE) or ["", ""])[1].split())
    known = {"amx_bf16": "amx_bf16", "avx512_bf16": "avx512_bf16", "avx512f": "avx512", "avx2": "avx2"}
    return (name[1] if name else platform.processor()), tuple(ours for flag, ours in known.items() if flag in flags)


def _cards(root: Path) -> Iterator[Card]:
    if sys.platform == "darwin":
        if platform.machine() == "arm64":
            yield Card("Apple", "Apple GPU")
    elif sys.platform == "win32":
        yield from _windows_cards()
    else:
        yield from _linux_cards(root)


def _linux_cards(root: Path) -> Iterator[Card]:
    driver = re.search(r"Kernel Module[^\n]*?\s(\d+\.[\d.]+)\s", _text(root / "proc/driver/nvidia/version"))
    names = [
        model[1]
        for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
        if (model := re.search(r"^Model:\s*(.+)$", _text(path), re.MULTILINE))
    ]
    for name in names:
        yield Card("NVIDIA", name, driver[1] if driver else "")
    for path in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, kind = VENDORS.get(_text(path / "vendor").strip()), _text(path / "class").strip()
        if vendor is None or not kind.startswith("0x03"):  # display controllers
            continue
        memory = int(_text(path / "mem_info_vram_total").strip() or 0)
        if vendor == "NVIDIA" and not names:
            yield Card(vendor)  # without its driver
        elif (vendor == "AMD" and memory >= _LEAST_VRAM) or (
            vendor == "Intel" and _ARC.match(_text(path / "device").strip())
        ):
            yield Card(vendor, memory=memory)


def _windows_cards() -> Iterator[Card]:
    """From the registry, where drivers are entered."""
    import winreg

    place = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
    for number in range(16):
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{place}\{number:04}") as key:  # type: ignore[attr-defined,unused-ignore]
                values = {}
                for name in ("DriverDesc", "DriverVersion", "HardwareInformation.qwMemorySize"):
                    try:
                        values[name] = winreg.QueryValueEx(key, name)[0]  # type: ignore[attr-defined,unused-ignore]
                    except OSError:
                        continue
        except OSError:
            continue
        name = str(values.get("DriverDesc", ""))
        vendor = next((vendor for vendor in ("NVIDIA", "AMD", "Intel") if vendor.lower() in name.lower()), "")
        memory = values.get("HardwareInformation.qwMemorySize", 0)
        memory = memory if isinstance(memory, int) else 0
        if vendor == "NVIDIA" or (vendor == "AMD" and memory >= _LEAST_VRAM) or (vendor == "Intel" and "Arc" in name):
            yield Card(vendor, name, str(values.get("DriverVersion", "")), memory)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
