"""In whose hands the worker is: so that a crash, a hang or an error within an extension's hook is laid at its door.

Who is at work stands in a small file before a hook begins. It survives the process, whatever ends it; the next worker
reads it, and does the job that was in hand without that extension.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import atomic
from modules.jobs.worker import Emit, Runner, Wishes
from modules.pipeline.hooks import HookFailed

log = logging.getLogger(__name__)

LIMIT_S = 60.0
"""Of an extension's own time within one call of a hook. No hook of a picture that a person waits for takes longer."""
SLOW_EXIT = 75
_SIZE = 512
_JOBS_KEPT = 20


@dataclass
class _Frame:
    name: str
    """Empty: the engine."""
    hook: str
    since: float
    spent: float = 0.0


class HookWatch:
    """`modules.pipeline.hooks.Watch` for a worker: keeps the marker, the clock and the list of failures."""

    def __init__(self, folder: Path, *, limit_s: float = LIMIT_S):
        folder.mkdir(parents=True, exist_ok=True)
        self._failures = folder / "failures.json"
        self._limit_s = limit_s
        self._job = ""
        self._frames: list[_Frame] = []
        self._lock = threading.Lock()
        self._file = os.open(folder / "hook", os.O_RDWR | os.O_CREAT, 0o600)
        self._bury()
        threading.Thread(target=self._look, name="extension watch", daemon=True).start()

    def watched(self, runner: Runner) -> Runner:
        """``runner``, whose jobs are known by name here while they run."""

        def run(job_id: str, spec: dict[str, Any], emit: Emit, wishes: Wishes) -> dict[str, Any]:
            self._job = job_id
            try:
                return runner(job_id, spec, emit, wishes)
            finally:
                self._job = ""

        return run

    def enter(self, name: str, hook: str) -> None:
        now = time.monotonic()
        with self._lock:
            if self._frames:
                self._frames[-1].spent += now - self._frames[-1].since
            self._frames.append(_Frame(name, hook, now))
        self._mark()

    def leave(self) -> None:
        with self._lock:
            self._frames.pop()
            if self._frames:
                self._frames[-1].since = time.monotonic()
        self._mark()

    def failed(self, failure: HookFailed) -> None:
        self._record(failure.name, failure.hook, failure.reason, "".join(traceback.format_exception(failure.error)))

    def fallen(self) -> Mapping[str, str]:
        """Those within which the job in hand ended a worker before, and how."""
        if not self._job:
            return {}
        failures = read_failures(self._failures)
        return {
            name: f"it ended the worker in {one['hook']} ({one['reason']})"
            for name, one in failures.items()
            if self._job in one.get("jobs", ())
        }

    def _mark(self) -> None:
        top = self._frames[-1] if self._frames else None
        told = {"job": self._job, "name": top.name, "hook": top.hook} if top and top.name else None
        os.pwrite(self._file, json.dumps(told).encode().ljust(_SIZE)[:_SIZE] if told else b" " * _SIZE, 0)

    def _bury(self) -> None:
        """What the last worker was at when it ended, if it was within a hook."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = json.loads(os.pread(self._file, _SIZE, 0))
            log.warning("extension %s ended the last worker in %s", found["name"], found["hook"])
            self._record(found["name"], found["hook"], "the process ended", "", found["job"])
        self._mark()

    def _look(self) -> None:
        """End a process that does not come back from an extension: nothing else stops code that is not Python."""
        while True:
            time.sleep(min(1.0, self._limit_s / 4))
            with self._lock:
                top = self._frames[-1] if self._frames else None
                if not top or not top.name or top.spent + time.monotonic() - top.since < self._limit_s:
                    continue
            log.error("extension %s does not come back from %s; the worker is started anew", top.name, top.hook)
            reason = f"it took longer than {self._limit_s:g} s"
            self._record(top.name, top.hook, reason, _stack_of_main(), self._job)
            os.pwrite(self._file, b" " * _SIZE, 0)
            os._exit(SLOW_EXIT)

    def _record(self, name: str, hook: str, reason: str, trace: str, job: str = "") -> None:
        failures = read_failures(self._failures)
        jobs = [*failures.get(name, {}).get("jobs", ()), *([job] if job else [])][-_JOBS_KEPT:]
        one = {"hook": hook, "reason": reason, "traceback": trace, "when": time.time(), "jobs": jobs}
        with contextlib.suppress(OSError):
            atomic.write(self._failures, json.dumps(failures | {name: one}).encode())


def read_failures(path: Path) -> dict[str, dict[str, Any]]:
    """The last failure of each extension in the worker: ``hook``, ``reason``, ``traceback``, ``when``, ``jobs``."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    good = found.items() if isinstance(found, dict) else ()
    return {name: one for name, one in good if isinstance(one, dict) and {"hook", "reason", "jobs"} <= one.keys()}


def _stack_of_main() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else ""
