"""Executors: run jobs in worker processes of this machine, or inline for tests."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, Literal, Protocol, cast

from modules.errors import Cancelled, RepriseError, WorkerDied
from modules.jobs.protocol import Json
from modules.jobs.worker import JobControl, Message, Runner, run_job

logger = logging.getLogger(__name__)

State = Literal["starting", "loading", "ready", "busy", "dead"]
OnEvent = Callable[[Json], None]

CLOSE_GRACE_S = 5.0
LONGEST_PAUSE_S = 30.0
LONGEST_LINE = 4096
"""Length limit in bytes of a line of worker output; longer ones are split."""
LINE_COST = 50
"""Approximate length of a log line's prefix."""
LOG_BURST = 500_000
LOG_RATE = 1000.0
"""86 MB a day."""


@dataclass(frozen=True)
class WorkerStatus:
    """The worker's state for the page's status line. ``detail`` is empty or a sentence."""

    state: State
    detail: str = ""


class _Once:
    """Something that happens once, with callbacks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.happened = False

    def happen(self) -> None:
        with self._lock:
            callbacks = [] if self.happened else self._callbacks
            self.happened = True
        for callback in callbacks:
            callback()

    def then(self, callback: Callable[[], None]) -> None:
        """Call a function when it happens: at once if it has already."""
        with self._lock:
            if not self.happened:
                self._callbacks.append(callback)
                return
        callback()


class CancelFlag:
    """What is asked of a running job, polled at every step, with callbacks: to stop, to stop with the image at hand
    made from what there is, and how often to skip.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop, self._interrupt = _Once(), _Once()
        self._skips = 0
        self._skip_callbacks: list[Callable[[], None]] = []

    def set(self) -> None:
        self._stop.happen()

    def is_set(self) -> bool:
        return self._stop.happened

    def when_set(self, callback: Callable[[], None]) -> None:
        """Call a function when the flag is set: at once if it is already."""
        self._stop.then(callback)

    def interrupt(self) -> None:
        """Request that the current image be finished from what has been sampled so far, and that the job end."""
        self._interrupt.happen()

    def is_interrupted(self) -> bool:
        return self._interrupt.happened

    def when_interrupted(self, callback: Callable[[], None]) -> None:
        """As `when_set`, for `interrupt`."""
        self._interrupt.then(callback)

    def skip(self) -> None:
        """Request that the current image be finished from what has been sampled so far."""
        with self._lock:
            self._skips += 1
            callbacks = list(self._skip_callbacks)
        for callback in callbacks:
            callback()

    def skips(self) -> int:
        return self._skips

    def when_skipped(self, callback: Callable[[], None]) -> None:
        """Call a function at every skip from now on."""
        with self._lock:
            self._skip_callbacks.append(callback)


class Stopped(Cancelled):
    """The job was cancelled; carries what it had made by then."""

    def __init__(self, output: Json):
        super().__init__()
        self.output = output


class JobFailed(RepriseError):
    """The job failed in the worker; ``error`` is the original error's JSON."""

    def __init__(self, error: Json):
        super().__init__(error["detail"])
        self.error = error

    def as_json(self) -> Json:
        return self.error


class Executor(Protocol):
    """Runs jobs given as JSON specs. All executors give the same output for the same spec."""

    def start(self) -> None: ...

    def slots(self) -> int:
        """How many jobs it can run in parallel at present; 0 while it loads."""
        ...

    def run(self, job_id: str, spec: Json, cancel: CancelFlag, on_event: OnEvent) -> Json:
        """Run a job and return its output; blocks. Raises `Stopped`, `JobFailed` or `WorkerDied`."""
        ...

    def status(self) -> WorkerStatus: ...

    def restart(self) -> None:
        """Restart the workers once they are idle."""
        ...

    def close(self) -> None: ...


class InlineExecutor:
    """Runs jobs in this process, one at a time."""

    def __init__(self, runner: Runner):
        self._runner = runner
        self._busy = threading.Lock()

    def start(self) -> None:
        """Do nothing: there is no process to start."""

    def slots(self) -> int:
        return 1

    def run(self, job_id: str, spec: Json, cancel: CancelFlag, on_event: OnEvent) -> Json:
        with self._busy:
            control = JobControl(cancel.is_set, cancel.skips, interrupted=cancel.is_interrupted)
            return _outcome(run_job(self._runner, job_id, spec, on_event, control))

    def status(self) -> WorkerStatus:
        return WorkerStatus("busy" if self._busy.locked() else "ready")

    def restart(self) -> None:
        """Do nothing: there is no process to restart."""

    def close(self) -> None:
        """Do nothing: there is no process to end."""


class LocalExecutor:
    """Runs one worker process per command line (one per device) and restarts each whenever it ends.

    The command must call `modules.jobs.worker.serve`. Its stderr goes to this process's log.
    """

    def __init__(self, command: Sequence[str], *others: Sequence[str]):
        commands = (command, *others)
        names = ["worker"] if not others else [f"worker {n}" for n in range(1, len(commands) + 1)]
        self._changed = threading.Condition()
        self._workers = [_WorkerProcess(each, name, self._changed) for each, name in zip(commands, names, strict=True)]
        self._closing = False

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    def slots(self) -> int:
        with self._changed:
            return sum(worker.ready for worker in self._workers)

    def run(self, job_id: str, spec: Json, cancel: CancelFlag, on_event: OnEvent) -> Json:
        cancel.when_set(self._wake)
        cancel.when_interrupted(self._wake)
        with self._changed:
            while (worker := next((w for w in self._workers if w.ready and w.inbox is None), None)) is None:
                if cancel.is_set() or cancel.is_interrupted():
                    raise Stopped({"images": []})
                if self._closing:
                    raise WorkerDied("the server stops")
                self._changed.wait()
            inbox = worker.inbox = SimpleQueue()
            process = worker.process
        try:
            return _converse(process, inbox, job_id, spec, cancel, on_event)
        finally:
            with self._changed:
                worker.inbox = None
                if worker.leaving:
                    worker.leave(True)
                self._changed.notify_all()

    def status(self) -> WorkerStatus:
        """The status of the worker that is best able to take a job."""
        order = ("ready", "busy", "loading", "starting", "dead")
        with self._changed:
            return min((worker.status for worker in self._workers), key=lambda status: order.index(status.state))

    def restart(self) -> None:
        with self._changed:
            for worker in self._workers:
                worker.leave(worker.inbox is None)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.ask_to_quit()
        for worker in self._workers:
            worker.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _WorkerProcess:
    """One worker process, kept alive by a thread that also reads its messages."""

    def __init__(self, command: Sequence[str], name: str, changed: threading.Condition):
        self._command = list(command)
        self._name = name
        self._changed = changed  # guards all that follows
        self.status = WorkerStatus("starting")
        self.ready = False
        self.inbox: SimpleQueue[Message] | None = None
        """Messages for the current job; None if there is none."""
        self.process: subprocess.Popen[bytes] | None = None
        self._allowance = LogAllowance()
        self.leaving = False
        """It accepts no further job, because it is being replaced."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self, now: bool) -> None:
        """Replace the process: ``now``, or when its job is done. The lock must be held."""
        self.leaving, self.ready = True, False
        if now and self.process is not None:
            _close_quietly(self.process.stdin)

    def ask_to_quit(self) -> None:
        with self._changed:
            self._closing.set()
            process = self.process
        if process is not None:
            _close_quietly(process.stdin)

    def join(self) -> None:
        """Wait for the process to end; kill it after a few seconds."""
        if self._thread.ident is None:
            return
        self._thread.join(CLOSE_GRACE_S)
        with self._changed:
            process = self.process
        if process is not None and self._thread.is_alive():
            process.kill()
            self._thread.join(CLOSE_GRACE_S)

    def _keep_alive(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                was_ready = self._run_once()
            except OSError as error:
                was_ready = False
                self._set_dead(f"the worker does not start: {error}")
                logger.error("%s does not start: %s", self._name, error)
            failures = 0 if was_ready else failures + 1
            if failures:
                self._closing.wait(min(LONGEST_PAUSE_S, 0.25 * 2**failures))

    def _run_once(self) -> bool:
        """Start the process and read its messages until it ends; returns whether it ever became ready."""
        process = _spawn(self._command)
        assert process.stdout and process.stderr
        with self._changed:
            self.process = process
            self.leaving = False
            self.status = WorkerStatus("starting")
            closing = self._closing.is_set()
        if closing:
            _close_quietly(process.stdin)
        last_words: deque[str] = deque(maxlen=1)
        stderr = process.stderr
        log = threading.Thread(target=self._log, args=(stderr, last_words), name=f"{self._name} log", daemon=True)
        log.start()
        was_ready = False
        for line in process.stdout:
            was_ready = self._hear(line) or was_ready
        code = process.wait()
        log.join(1)
        _close_quietly(process.stdin, process.stdout, process.stderr)
        self._bury(_how_it_ended(code), last_words if not was_ready else ())
        return was_ready

    def _hear(self, line: bytes) -> bool:
        try:
            message = json.loads(line)
            kind = message["type"]
        except (ValueError, TypeError, KeyError):
            logger.warning("%s said something else than a message: %r", self._name, line[:200])
            return False
        with self._changed:
            if kind == "status":
                self.status = WorkerStatus(message["state"], message["detail"])
                self.ready = not self.leaving and (self.ready or message["state"] == "ready")
                self._changed.notify_all()
            elif self.inbox is not None:
                self.inbox.put(message)
            return self.ready

    def _bury(self, how: str, last_words: Sequence[str]) -> None:
        """Handle the end of the process: fail its job and update the status."""
        if not self._closing.is_set():
            logger.warning("%s %s", self._name, how)
        with self._changed:
            reason = self.status.detail if self.status.state == "dead" else "".join(last_words)
            if self.inbox is not None:
                self.inbox.put({"type": "died", "how": how})
        self._set_dead(reason or f"the worker {how}; another is started")

    def _set_dead(self, detail: str) -> None:
        with self._changed:
            self.process = None
            self.ready = False
            self.status = WorkerStatus("dead", detail)
            self._changed.notify_all()

    def _log(self, stderr: IO[bytes], last_words: deque[str]) -> None:
        """Read all output of the process, so that it never blocks, and log it within the allowance."""
        while line := stderr.readline(LONGEST_LINE):
            if text := line.decode("utf-8", "replace").rstrip():
                last_words.append(text)
                if self._allowance.admits(len(line)):
                    self._tell_what_is_missing()
                    logger.info("%s: %s", self._name, text)
        self._tell_what_is_missing()

    def _tell_what_is_missing(self) -> None:
        if missing := self._allowance.settle():
            logger.warning("%s: %s bytes that it printed are not in this log", self._name, f"{missing:,}")


class LogAllowance:
    """A token bucket for log output: ``LOG_BURST`` bytes at once, ``LOG_RATE`` bytes a second on average.

    Who has used it up is not heard until a quarter has grown again, so that what is heard hangs together.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._then = clock()
        self._room = float(LOG_BURST)
        self._dry = False
        self._left_out = 0

    def admits(self, size: int) -> bool:
        """Whether a line of that many bytes may be logged."""
        now = self._clock()
        self._room = min(LOG_BURST, self._room + (now - self._then) * LOG_RATE)
        self._then = now
        cost = size + LINE_COST
        self._dry = self._room < (LOG_BURST / 4 if self._dry else cost)
        if self._dry:
            self._left_out += size
        else:
            self._room -= cost
        return not self._dry

    def settle(self) -> int:
        """The number of bytes dropped since the last call."""
        left_out, self._left_out = self._left_out, 0
        return left_out


def _converse(
    process: subprocess.Popen[bytes] | None,
    inbox: SimpleQueue[Message],
    job_id: str,
    spec: Json,
    cancel: CancelFlag,
    on_event: OnEvent,
) -> Json:
    """Run one job over the pipe. Only this thread writes to the process, so a cancel goes through the inbox too."""
    _send(process, {"type": "run", "job": job_id, "spec": spec})
    cancel.when_set(lambda: inbox.put({"type": "cancel", "job": job_id}))
    cancel.when_interrupted(lambda: inbox.put({"type": "interrupt", "job": job_id}))
    cancel.when_skipped(lambda: inbox.put({"type": "skip", "job": job_id}))
    while True:
        message = inbox.get()
        if message["type"] == "died":
            raise WorkerDied(f"the worker {message['how']} before the job was done")
        if message["job"] != job_id:
            continue  # from a job given up before
        if message["type"] in ("cancel", "interrupt", "skip"):
            _send(process, message)
        elif message["type"] == "event":
            on_event(message["event"])
        else:
            return _outcome(message)


def _outcome(message: Message) -> Json:
    if message["type"] == "cancelled":
        raise Stopped(message["output"])
    if message["type"] == "failed":
        raise JobFailed(message["error"])
    return cast(Json, message["output"])


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # Its own session: Ctrl+C in the terminal is for the server, which then closes the pipe.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=os.name == "posix",
    )


def _send(process: subprocess.Popen[bytes] | None, message: Message) -> None:
    if process is None or process.stdin is None:
        raise WorkerDied("the worker ended before the job began")
    try:
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
    except (OSError, ValueError) as error:
        raise WorkerDied("the worker ended before the job was done") from error


def _close_quietly(*streams: IO[bytes] | None) -> None:
    for stream in streams:
        try:
            if stream is not None:
                stream.close()
        except OSError as error:
            logger.debug("closing a worker's pipe: %s", error)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
