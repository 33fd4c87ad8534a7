"""The worker process, which runs models: JSON lines in, JSON lines out, one job at a time.

In:   ``{"type": "run", "job", "spec"}``, ``{"type": "cancel", "job"}``, ``{"type": "interrupt", "job"}``,
``{"type": "skip", "job"}``, ``{"type": "quit"}``; end of input is a quit.
Out:  ``{"type": "status", "state", "detail"}``, ``{"type": "event", "job", "event"}`` and, once for each job, one of
``{"type": "done", "job", "output"}``, ``{"type": "failed", "job", "error"}``,
``{"type": "cancelled", "job", "output"}``.
"""

from __future__ import annotations

import base64
import ctypes
import json
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import BinaryIO, cast

from modules.errors import Cancelled, RepriseError, out_of_memory, without_folders
from modules.jobs.protocol import Json

logger = logging.getLogger(__name__)

Message = Json
Emit = Callable[[Json], None]
"""Reports an event of the job: ``type`` and JSON values; ``preview`` may be JPEG bytes, which are sent in base64."""


@dataclass(frozen=True)
class JobControl:
    """What may be asked of a job while it runs. Each may be read at any time."""

    cancelled: Callable[[], bool] = lambda: False
    skips: Callable[[], int] = lambda: 0
    """The number of skip requests: finish the current image from what has been sampled."""
    quitting: Callable[[], bool] = lambda: False
    """Whether the process is about to end, whatever the job does."""
    interrupted: Callable[[], bool] = lambda: False
    """Whether to finish the current image from what has been sampled, and to raise `Cancelled` behind it."""


Runner = Callable[[str, Json, Emit, JobControl], Json]
"""``(job_id, spec, emit, control) -> output``. Raises `Cancelled` when it stops because it was asked to."""
Report = Callable[[str, str], None]
"""``(state, detail)``, as in `WorkerStatus`."""
Build = Callable[[Report], Runner]

QUIT_GRACE_S = 3.0


def serve(build: Build, stdin: BinaryIO | None = None, stdout: BinaryIO | None = None) -> int:
    """Build the runner (which imports torch and loads the model), then run jobs until told to quit; returns the exit
    status.

    Without streams it speaks over the process's own, and everything else that prints goes to stderr. Commands are read
    by a thread, so a cancel is seen at once; when the server dies, the process ends within ``QUIT_GRACE_S``.
    """
    owns_process = stdin is None
    if owns_process:
        # A KeyboardInterrupt in here is no person's: the server gets their Ctrl+C and then closes the pipe.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands, events = (stdin, stdout) if stdin and stdout else _take_standard_streams()
    keep_freed_memory()
    worker = _Worker(commands, events)
    threading.Thread(target=worker.read_commands, args=(owns_process,), name="commands", daemon=True).start()
    worker.report("loading", "loading the model")
    try:
        runner = build(worker.report)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the server must hear of it
        worker.report("dead", _explain(error)["detail"])
        return 1
    worker.work(runner)
    return 0


def by_kind(runners: Mapping[str, Runner], otherwise: Runner) -> Runner:
    """A runner that dispatches by the spec's ``kind``."""

    def run(job_id: str, spec: Json, emit: Emit, control: JobControl) -> Json:
        return runners.get(str(spec.get("kind")), otherwise)(job_id, spec, emit, control)

    return run


def run_job(runner: Runner, job_id: str, spec: Json, emit: Emit, control: JobControl) -> Message:
    """Run one job to its last message: done, failed or cancelled. What it gives is JSON, whatever the runner does."""
    images: list[Json] = []

    def emit_json(event: Json) -> None:
        if isinstance(event.get("preview"), bytes):
            event = {**event, "preview": base64.b64encode(event["preview"]).decode("ascii")}
        event = _as_json(event)
        if event["type"] == "image":
            images.append({key: value for key, value in event.items() if key != "type"})
        emit(event)

    try:
        output = _as_json(runner(job_id, spec, emit_json, control))
    except Cancelled:
        return {"type": "cancelled", "job": job_id, "output": {"images": images}}
    except BaseException as error:  # noqa: BLE001 - a job may fail in any way, the worker goes on
        return {"type": "failed", "job": job_id, "error": _explain(error)}
    return {"type": "done", "job": job_id, "output": output}


def _as_json(data: Json) -> Json:
    """The output as JSON readers will see it: NaN becomes null, since neither browsers nor SQLite read it."""
    return cast(Json, json.loads(json.dumps(data), parse_constant=lambda name: None))


def keep_freed_memory() -> bool:
    """Let malloc reuse large blocks: by default each activation is mapped, page-faulted and unmapped again.

    True where the C library is glibc and took the thresholds.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    trim_threshold, mmap_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    mapped = mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20)  # older glibc allows 32 MB at most
    return bool(mapped and mallopt(trim_threshold, 1 << 30))


class _Worker:
    """Both ends of the pipe, and the control requests received over it."""

    def __init__(self, commands: BinaryIO, events: BinaryIO):
        self._commands = commands
        self._events = events
        self._write = threading.Lock()
        self._jobs: SimpleQueue[Message | None] = SimpleQueue()
        self._cancelled: set[str] = set()
        self._interrupted: set[str] = set()
        self._skips: Counter[str] = Counter()
        self._quit = threading.Event()

    def send(self, message: Message) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._write:
                self._events.write(line)
                self._events.flush()
        except (BrokenPipeError, ValueError):  # nobody listens any more, so the end of the commands is near too
            self._quit.set()

    def report(self, state: str, detail: str) -> None:
        self.send({"type": "status", "state": state, "detail": detail})

    def read_commands(self, owns_process: bool) -> None:
        for line in self._commands:
            message = json.loads(line)
            if message["type"] == "run":
                self._jobs.put(message)
            elif message["type"] == "cancel":
                self._cancelled.add(message["job"])
            elif message["type"] == "interrupt":
                self._interrupted.add(message["job"])
            elif message["type"] == "skip":
                self._skips[message["job"]] += 1
            elif message["type"] == "quit":
                break
        self._quit.set()
        self._jobs.put(None)
        if owns_process:
            threading.Event().wait(QUIT_GRACE_S)  # this thread ends with the process, if the job stops in time
            os._exit(1)

    def work(self, runner: Runner) -> None:
        self.report("ready", "")
        while not self._quit.is_set() and (message := self._jobs.get()) is not None:
            job_id = message["job"]
            self.report("busy", "")

            def emit(event: Json, job_id: str = job_id) -> None:
                self.send({"type": "event", "job": job_id, "event": event})

            last = run_job(runner, job_id, message["spec"], emit, self._control(job_id))
            # Before the server hears of the end: it may send that job again, and stop it.
            self._cancelled.discard(job_id)
            self._interrupted.discard(job_id)
            self._skips.pop(job_id, None)
            self.send(last)
            self.report("ready", "")

    def _control(self, job_id: str) -> JobControl:
        return JobControl(
            lambda: self._quit.is_set() or job_id in self._cancelled,
            lambda: self._skips[job_id],
            self._quit.is_set,
            lambda: job_id in self._interrupted,
        )


def _explain(error: BaseException) -> Json:
    """The error's JSON for the job's owner; an unexpected one is logged with its traceback."""
    if isinstance(error, RepriseError):
        if error.place:
            logger.warning("%s", error.with_place)
        return error.as_json()
    logger.error("unexpected error", exc_info=error)
    if short := out_of_memory(error):
        return short.as_json()
    said = without_folders(error)
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return RepriseError(f"something unexpected went wrong ({reason})", hint="the log has more").as_json()


def _take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Reserve stdin and stdout for the protocol: what libraries print goes to stderr from now on."""
    sys.stdout.flush()
    commands = os.fdopen(os.dup(0), "rb")
    events = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return commands, events
