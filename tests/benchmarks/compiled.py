"""UNet steps through torch.compile, each in a process of its own beside the `gpu` benchmark: compiling takes longer
than everything else that it measures.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modules.devices import choose
from modules.nn.unet import UNet
from tests.benchmarks.card import (
    DIFFUSERS_SD15,
    ROOT,
    SD15,
    Report,
    Step,
    alone,
    diffusers_call,
    diffusers_unet,
    milliseconds,
    new,
)

COMPILED = (("diffusers", 4), ("diffusers", 8), ("diffusers", 1), ("ours", 4))


def compiled(kind: str, batch: int, folder: Path) -> None:
    """One network through torch.compile, in this process: milliseconds, and those of its graph, into a file."""
    device = choose("cuda", "float16")
    begin = time.monotonic()
    with torch.no_grad():
        if kind == "diffusers":
            call = diffusers_call(torch.compile(diffusers_unet(device, DIFFUSERS_SD15)), device, batch, 64)
        else:
            unet = new(UNet, SD15, device)
            step = Step(unet, device, batch, 64)
            run: Callable[..., Any] = torch.compile(unet.run)
            call = lambda: run(step.x, step.emb, step.text, 2)  # noqa: E731
        call(), call()
        torch.cuda.synchronize()
        rows = {f"UNet 512 batch {batch}, {kind}, compiled: ready after": time.monotonic() - begin}
        with alone(folder):
            rows[f"UNet 512 batch {batch}, {kind}, compiled"] = milliseconds({"": call})[""]
            with contextlib.suppress(Exception):
                replay = device.recorder()(call)  # type: ignore[misc]
                rows[f"UNet 512 batch {batch}, {kind}, compiled, graph"] = milliseconds({"": replay})[""]
    (folder / f"{kind}-{batch}.json").write_text(json.dumps(rows))


def start_compiling(folder: Path) -> list[subprocess.Popen[bytes]]:
    """The processes, each the first of a group: what it starts to compile with ends with it."""
    threads = str(max((os.cpu_count() or 4) // len(COMPILED) - 1, 1))
    started = []
    for kind, batch in COMPILED:
        own = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": threads, "OMP_NUM_THREADS": "1"}
        own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / f"inductor-{kind}-{batch}")
        command = [sys.executable, "-m", "tests.benchmarks.compiled", kind, str(batch), str(folder)]
        with (folder / f"{kind}-{batch}.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=ROOT, env=own, stdout=log, stderr=log, start_new_session=True))
    return started


def end(children: list[subprocess.Popen[bytes]]) -> None:
    """End what still compiles, with the processes that it started."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def collect(report: Report, folder: Path, children: list[subprocess.Popen[bytes]]) -> None:
    """Wait for what is being compiled while there is time."""
    while report.left > 3 and any(child.poll() is None for child in children):
        time.sleep(0.2)
    for (kind, batch), child in zip(COMPILED, children, strict=True):
        path = folder / f"{kind}-{batch}.json"
        if path.exists():
            for name, value in json.loads(path.read_text()).items():
                report.put(name, value, "s" if "ready" in name else "ms")
        else:
            reason = why(child.poll(), (folder / f"{kind}-{batch}.log").read_text(errors="replace"))
            report.put(f"UNet 512 batch {batch}, {kind}, compiled", reason)


def why(status: int | None, log: str) -> str:
    """Why a process has no figures, in a few words: ``status`` is its exit status, None while it runs."""
    if status is None:
        return "not ready in time: still compiling"
    said = log.strip().splitlines()
    return f"failed: {said[-1].strip()[:120] if said else f'exit status {status}'}"


if __name__ == "__main__":
    compiled(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
