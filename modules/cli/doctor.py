"""``doctor``: what this machine has for making images, and a line of advice for each finding.

It installs nothing and needs nothing: torch is asked in a process of its own, with the interpreter that would run it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import torch_build
from modules.bootstrap import Environment
from modules.machine import GB, Machine, look

MATRIX_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
LEAST_RAM, LEAST_DISK = 8 * GB, 10 * GB
_ASK_TORCH = """
import json, torch
found = {"version": torch.__version__, "card": "", "kind": "", "memory": 0, "count": 0}
kind = torch.accelerator.current_accelerator(check_available=True)
if kind is not None:
    found["kind"] = kind.type
    module = torch.get_device_module(kind)
    found["card"] = module.get_device_name(0) if hasattr(module, "get_device_name") else kind.type
    found["count"] = torch.accelerator.device_count()
    try:
        found["free"], found["memory"] = torch.accelerator.get_memory_info(0)
    except Exception:
        pass
    x = torch.ones(64, 64, device=kind)
    found["works"] = float((x @ x).sum().cpu()) == 64**3
print(json.dumps(found))
"""
Ask = Callable[[], Mapping[str, Any]]
"""What torch says of itself and its card; {"error": sentence} where it cannot be asked."""
Survey = Callable[[Path], tuple[int, list[str]]]
"""How many models are in a folder, and the names of links there that lead to nothing."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, what it is, and what to do."""

    subject: str
    found: str
    advice: str = ""
    """Empty: nothing needs to be done."""
    bad: bool = False
    """Whether images cannot be made, or the page not be served, as it is."""


def examine(
    root: Path,
    data_dir: Path,
    folders: Mapping[str, Sequence[Path]],
    host: str,
    port: int,
    *,
    survey: Survey,
    machine: Machine | None = None,
    ask_torch: Ask | None = None,
    device: tuple[str, int | None] = ("auto", None),
) -> list[Finding]:
    """Look at everything. ``folders``: of models, by what they hold; ``machine`` and ``ask_torch``: pretended ones;
    ``device``: what ``--device`` and ``--device-id`` say.
    """
    machine = machine or look()
    torch = (ask_torch or (lambda: _ask(root)))()
    return [
        *_cards(machine, torch),
        _torch(machine, torch),
        *_chosen(*device, torch),
        _memory(machine, torch),
        _units(machine, torch),
        *_folders(folders, survey),
        _port(host, port),
        _disk(data_dir),
    ]


def report(findings: list[Finding]) -> str:
    """A line for each finding, and below it the advice, if any.

    >>> print(report([Finding("port", "7860 is free"), Finding("disk", "full", "make room", bad=True)]))
    ok      port: 7860 is free
    problem disk: full
            -> make room
    """
    lines = []
    for one in findings:
        word = "problem" if one.bad else "advice" if one.advice else "ok"
        lines.append(f"{word:<7} {one.subject}: {one.found}")
        if one.advice:
            lines.append(f"        -> {one.advice}")
    return "\n".join(lines)


def _ask(root: Path) -> Mapping[str, Any]:
    own = Environment(root / ".venv").python
    python = str(own) if own.exists() else sys.executable
    try:
        done = subprocess.run([python, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=300)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {"error": _last_line(done.stderr)}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it did not say why")


def _cards(machine: Machine, torch: Mapping[str, Any]) -> Iterator[Finding]:
    if not machine.cards:
        yield Finding(
            "card", "none that torch could use", "images are made on the processor; smaller sizes take less time"
        )
        return
    for card in machine.cards:
        name = card.name or torch.get("card") or f"{card.vendor} card"
        memory = card.memory or int(torch.get("memory", 0))
        yield Finding("card", f"{name}, {memory / GB:.1f} GB" if memory else name, _on_size(memory))
        if card.vendor != "Apple":
            yield _driver(card.vendor, card.driver, bool(torch.get("card")))


def _on_size(memory: int) -> str:
    if 0 < memory < 4 * GB:
        return "start with --lowvram if memory runs out all the same"
    return ""


def _driver(vendor: str, driver: str, works: bool) -> Finding:
    if works or driver:
        advice = "" if works else f"torch cannot use the card: bring {vendor}'s driver up to date"
        return Finding("driver", driver or "works with torch", advice)
    return Finding("driver", f"{vendor}'s was not found", f"install {vendor}'s driver for this system")


def _torch(machine: Machine, torch: Mapping[str, Any]) -> Finding:
    choice = torch_build.choose(machine)
    if "error" in torch:
        missing = "No module named" in str(torch["error"])
        advice = "the first start installs it: python3 app.py" if missing else "remove .venv and start again"
        found = "is not installed yet" if missing else f"does not start ({torch['error']})"
        return Finding("torch", found, "; ".join(filter(None, (advice, choice.sentence))), bad=not missing)
    build = torch_build.build_of(str(torch["version"]), machine)
    found = f"{torch['version']}, {build}" + (f" on {torch['card']}" if torch.get("card") else "")
    if torch.get("card") and not torch.get("works", True):
        return Finding("torch", found, "the card gives wrong numbers: bring its driver up to date", bad=True)
    if torch.get("card") or choice.wanted == torch_build.CPU:
        return Finding("torch", found)
    if build == choice.wanted:
        return Finding("torch", found, "it is the right build and sees no card: bring the card's driver up to date")
    return Finding("torch", found, choice.sentence or "start once with --torch-index URL of a build for the card")


def _chosen(device: str, number: int | None, torch: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the device that the command line names is there."""
    if device == "auto" and number is None:
        return
    said = f"--device {device}" + (f" --device-id {number}" if number is not None else "")
    count, kind = int(torch.get("count", 0)), torch.get("kind", "")
    if "error" in torch or (device == "cpu" and number is None):
        yield Finding("device", said)
    elif not count or device not in ("auto", kind):
        advice = f"torch sees {kind or 'no card'} here: leave --device out, or start with --device cpu"
        yield Finding("device", f"{said} is not there", advice, bad=True)
    elif number is not None and not 0 <= number < count:
        there = "0" if count == 1 else f"0 to {count - 1}"
        yield Finding("device", f"{said} is not there", f"choose one with --device-id: there is {there}", bad=True)
    else:
        yield Finding("device", said)


def _memory(machine: Machine, torch: Mapping[str, Any]) -> Finding:
    found = f"{machine.ram.available / GB:.1f} of {machine.ram.total / GB:.1f} GB are free"
    if torch.get("free"):
        found += f", on the card {int(torch['free']) / GB:.1f} of {int(torch['memory']) / GB:.1f} GB"
    if 0 < machine.ram.available < LEAST_RAM:
        return Finding("memory", found, "SDXL models need about 8 GB; end other programs, or use SD 1.5 models")
    return Finding("memory", found)


def _units(machine: Machine, torch: Mapping[str, Any]) -> Finding:
    units = [name for unit, name in MATRIX_UNITS.items() if unit in machine.units]
    name = machine.processor or "processor"
    if units:
        return Finding("matrix units", f"{', '.join(units)} ({name})")
    advice = (
        ""
        if torch.get("card") or machine.cards
        else "bfloat16 would be emulated, so float32 is used: that is best here"
    )
    return Finding("matrix units", f"none for bfloat16 ({name})", advice)


def _folders(folders: Mapping[str, Sequence[Path]], survey: Survey) -> Iterator[Finding]:
    for kind, places in folders.items():
        found = {folder: survey(folder) for folder in places if folder.is_dir()}
        if not found:
            advice = "make it, or name another with --models-dir"
            yield Finding(f"folder of {kind}", f"{places[0]} is not there", advice)
        empty = kind == "checkpoints" and not any(count for count, _ in found.values())
        for folder, (count, dead) in found.items():
            advice = f"put a checkpoint (.safetensors) into {folder}" if empty else ""
            if dead:
                links = f"{dead[0]} is a link that leads to nothing: bring back what it led to"
                advice = "; ".join(filter(None, (advice, links)))
            yield Finding(f"folder of {kind}", f"{folder}, {count} file{'' if count == 1 else 's'}", advice, bad=empty)


def _port(host: str, port: int) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            return Finding("port", f"{port} cannot be served ({reason})", "choose another with --port", bad=True)
    return Finding("port", f"{port} is free")


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("disk", f"{there} cannot be read ({error.strerror})", "choose another with --data-dir", bad=True)
    if not os.access(there, os.W_OK):
        return Finding("disk", f"{there} cannot be written", "choose another folder with --data-dir", bad=True)
    advice = "make room: a model takes 2 to 7 GB, and torch several more" if free < LEAST_DISK else ""
    return Finding("disk", f"{free / GB:.0f} GB are free in {there}", advice, bad=free < GB // 2)
