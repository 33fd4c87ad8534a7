"""The extension watchdog: blames a crash, a hang or an error on the extension whose hook was running.

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
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.jobs.protocol import Json
from modules.jobs.worker import Emit, JobControl, Runner
from modules.pipeline.hooks import HookFailed
from modules.storage import atomic

log = logging.getLogger(__name__)

LIMIT_S = 60.0
"""Time limit of an extension's own code in one hook call. No interactive hook takes longer."""
SLOW_EXIT = 75
LEAK_BYTES, LEAK_IMAGES = 32 * 2**20, 3
"""Growth within an extension's own code that is reported, where it comes with so many images in a row."""
_SIZE = 512
_JOBS_KEPT = 20
_REASON, _TRACE = 500, 20_000
"""Length limits of a stored failure, in characters."""


@dataclass
class _Frame:
    name: str
    """The extension; empty for the engine."""
    hook: str
    since: float
    memory: int
    """That the process held when this frame was entered, or entered again."""
    spent: float = 0.0
    grown: int = 0
    """Bytes by which that grew within it."""


class Growth:
    """How much more memory the process holds after each image, and within whose code it grew."""

    def __init__(self, least: int = LEAK_BYTES, images: int = LEAK_IMAGES):
        self._least = least
        self._images = images
        self._grown: Counter[str] = Counter()
        self._before = 0
        self._streaks: Counter[str] = Counter()

    def add(self, name: str, size: int) -> None:
        self._grown[name] += size

    def image(self, held: int) -> tuple[str, int] | None:
        """An image is finished, with so much ``held``: who let it grow for so many in a row, once, and by how much."""
        grown, self._grown = self._grown, Counter()
        total, self._before = held - self._before, held
        for name in {*grown, *self._streaks}:
            leaks = grown[name] >= self._least and total >= self._least
            self._streaks[name] = self._streaks[name] + 1 if leaks else 0
        found = [name for name, streak in self._streaks.items() if streak == self._images]
        return (found[0], grown[found[0]]) if found else None


class HookWatch:
    """The watchdog of the worker of that name (see `modules.pipeline.hooks.Watch`): keeps a marker file, a timer and
    the list of failures.

    Each worker has a marker of its own, and all have one list.
    """

    def __init__(self, folder: Path, worker: str = "worker", *, limit_s: float = LIMIT_S):
        from modules.devices import held_memory  # here: the server reads failures, and never loads torch

        self._held = held_memory
        folder.mkdir(parents=True, exist_ok=True)
        self._failures = folder / "failures.json"
        self._unwritten: list[tuple[str, Json, str]] = []  # name, failure, job
        self._quitting: Callable[[], bool] = lambda: False
        self._over = False  # the process ends, through no fault of whoever is at work
        self._limit_s = limit_s
        self._job = ""
        self._frames: list[_Frame] = []
        self._growth = Growth()
        self._lock = threading.Lock()
        self._file = os.open(folder / f"{worker}.hook", os.O_RDWR | os.O_CREAT, 0o600)
        self._bury()
        threading.Thread(target=self._look, name="extension watch", daemon=True).start()

    def watched(self, runner: Runner) -> Runner:
        """Wrap ``runner`` so that the watchdog knows the current job."""

        def run(job_id: str, spec: Json, emit: Emit, control: JobControl) -> Json:
            self._job, self._quitting = job_id, control.quitting
            try:
                return runner(job_id, spec, emit, control)
            finally:
                self._job = ""

        return run

    def enter(self, name: str, hook: str) -> None:
        now, held = time.monotonic(), self._held()
        with self._lock:
            if self._frames:
                top = self._frames[-1]
                top.spent += now - top.since
                top.grown += held - top.memory
            self._frames.append(_Frame(name, hook, now, held))
        self._mark()

    def leave(self) -> None:
        held = self._held()
        with self._lock:
            frame = self._frames.pop()
            if frame.name:
                self._growth.add(frame.name, frame.grown + held - frame.memory)
            if self._frames:
                self._frames[-1].since, self._frames[-1].memory = time.monotonic(), held
        self._mark()

    def made(self) -> str:
        found = self._growth.image(self._held())
        if not found:
            return ""
        name, size = found
        reason = f"it keeps about {size / 2**20:.0f} MB more with every picture"
        self._record(name, "memory", reason, "")
        return f"extension {name}: {reason}; memory will run out"

    def failed(self, failure: HookFailed) -> None:
        self._record(failure.name, failure.hook, failure.reason, "".join(traceback.format_exception(failure.error)))

    def crashed(self) -> Mapping[str, str]:
        """Those within which the job in hand ended a worker before, and how."""
        if not self._job:
            return {}
        found = [(name, one, one["jobs"]) for name, one in read_failures(self._failures).items()]
        found += [(name, one, [job]) for name, one, job in self._unwritten]
        return {
            name: f"it ended the worker in {one['hook']} ({one['reason']})"
            for name, one, jobs in found
            if self._job in jobs
        }

    def _mark(self) -> None:
        with self._lock:
            top = self._frames[-1] if self._frames and not self._over else None
            entry = {"job": self._job, "name": top.name, "hook": top.hook} if top and top.name else None
            os.pwrite(self._file, json.dumps(entry).encode().ljust(_SIZE)[:_SIZE] if entry else b" " * _SIZE, 0)

    def _bury(self) -> None:
        """Find the extension whose hook was running when the last worker ended, and record the failure."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = json.loads(os.pread(self._file, _SIZE, 0))
            log.warning("extension %s ended the last worker in %s", found["name"], found["hook"])
            self._record(found["name"], found["hook"], "the process ended", "", found["job"])
        self._mark()

    def _look(self) -> None:
        """End the process if an extension's hook hangs: nothing else stops code that is not Python."""
        while True:
            time.sleep(min(1.0, self._limit_s / 4))
            if self._quitting():  # the server is gone: who happens to be at work now did not end this process
                self._over = True
                self._mark()
                return
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
        """Store a failure; in memory only, as long as the file cannot be read or written."""
        one = {"hook": hook, "reason": reason[:_REASON], "traceback": trace[-_TRACE:], "when": time.time()}
        self._unwritten.append((name, one, job))
        try:
            with atomic.exclusive(self._failures):
                failures = _failures_in(self._failures)
                for name, one, job in self._unwritten:
                    jobs = [*failures.get(name, {}).get("jobs", ()), *([job] if job else [])][-_JOBS_KEPT:]
                    failures[name] = {**one, "jobs": jobs}
                atomic.write(self._failures, json.dumps(failures).encode())
        except OSError as error:
            log.warning("what went wrong in extension %s cannot be kept in %s: %s", name, self._failures, error)
        else:
            self._unwritten.clear()


def read_failures(path: Path) -> dict[str, Json]:
    """The last failure of each extension in the worker: ``hook``, ``reason``, ``traceback``, ``when``, ``jobs``."""
    try:
        return _judged(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}


def _failures_in(path: Path) -> dict[str, Json]:
    """Read the failures before replacing the file: bad content is set aside, `OSError` if it cannot be read."""
    try:
        return _judged(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        atomic.set_aside(path)
        return {}


def _judged(found: object) -> dict[str, Json]:
    good = found.items() if isinstance(found, dict) else ()
    return {
        name: one
        for name, one in good
        if isinstance(one, dict) and {"hook", "reason", "jobs"} <= one.keys() and isinstance(one["jobs"], list)
    }


def _stack_of_main() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else ""
