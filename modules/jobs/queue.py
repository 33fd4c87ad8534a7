"""The dispatcher: claims queued jobs fairly while executor slots are free, runs them, and publishes their events."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from modules.errors import Cancelled, RepriseError, WorkerDied, without_folders
from modules.jobs.events import TERMINAL, Event, EventHub
from modules.jobs.executors.process import CancelFlag, Executor, Stopped, WorkerStatus
from modules.jobs.protocol import GENERATE, SCRIPT, Json
from modules.jobs.store import CANCELLED, DONE, FAILED, QUEUED, Job, Jobs, JobStore

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How soon a job that waits notices that the executor became ready."""
MOST_SCRIPTS = 64
"""Scripts that run at once, of all owners, with at most `SCRIPTS_EACH` of one; each is a thread that mostly sleeps."""
PROGRESS_S = 1.0
"""Steps are published as they come, but written to the database at most this often."""

ScriptRunner = Callable[[Job, Any, CancelFlag, Callable[[Event], None]], Json]
"""``(job, queue, cancel, on_event) -> output``, see `modules.jobs.runners.script`."""


class JobQueue:
    """The queue as the rest of the program sees it. Events of a job, each with ``job`` and ``seq``:

    ``queued {position}`` (1 is next), ``started``, ``step {step, steps, image, images, eta_s, preview?}``,
    ``image {path, ...}`` for each one saved, and at the end one of ``done {output}``, ``failed {error}`` and
    ``cancelled {output}``. A job whose worker died is ``queued`` again. Other events of a runner pass through.
    """

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        hub: EventHub,
        *,
        lease_s: float = 30.0,
        scripts: ScriptRunner | None = None,
    ):
        """``scripts`` runs the jobs of kind "script", in threads of the server: they wait for jobs of their own."""
        self.store = store
        self.executor = executor
        self.hub = hub
        self._scripts = scripts
        self._lease_s = lease_s
        self._name = _server_name()
        self._changed = threading.Condition()  # also orders "queued" before "started"
        self._running: dict[str, tuple[CancelFlag, threading.Thread]] = {}
        self._scripting: set[str] = set()  # those of the running that take no slot
        self._finishing: set[str] = set()  # those of the running that stop behind the image at hand
        self._published_positions: dict[str, int] = {}  # the place in the line last published
        self._waiting = True
        self._script_waits = scripts is not None
        self._closing = False
        self._thread = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Requeue what a dead server left running, then start dispatching."""
        self._requeue_stale()
        self.executor.start()
        self._thread.start()

    def submit(self, owner: str, spec: Json, kind: str = "generate", job_id: str = "") -> Job:
        """Queue a JSON ``spec`` with fixed seeds. Raises `QueueFull`. The same ``job_id`` is queued only once."""
        with self._changed:
            job = self.store.submit(owner, spec, kind, job_id)
            if job.state == QUEUED:
                self._tell_queued(job.id, self.store.position(job.id))
                self._wake()
        return job

    def heard(self, job_id: str, after: int = 0) -> list[Event]:
        """The events of a job after event ``after``, for polling instead of following."""
        return self.hub.snapshot(job_id, after)

    def cancel(self, owner: str | None, job_id: str, *, keep: bool = False) -> Job:
        """Cancel a job: a queued one at once, a running one at its next step; a finished one is left as it is.
        ``keep``: the image at hand is made from what has been sampled.
        """
        with self._changed:
            job = self.store.cancel(owner, job_id)
            running = self._running.get(job_id)
            if job.is_finished:
                self.hub.publish(job_id, _last_event(job))
                self._published_positions.pop(job_id, None)
                self._tell_positions()
        if running is not None and keep and job.kind in (GENERATE, SCRIPT):
            running[0].interrupt()
        elif running is not None:
            running[0].set()
        return job

    def skip(self, owner: str | None, job_id: str) -> Job:
        """Finish the current image of a running job from what has been sampled, and go on; other jobs are
        unaffected.
        """
        with self._changed:
            job = self.store.get(job_id, owner)
            running = self._running.get(job_id)
        if running is not None:
            running[0].skip()
        return job

    def finish(self, owner: str | None, job_id: str) -> Job:
        """Stop a running job behind the image at hand, or the batch that it is in; one that waits is cancelled at
        once.
        """
        with self._changed:
            job = self.store.get(job_id, owner)
            if job_id in self._running:
                self._finishing.add(job_id)
                return job
        return self.cancel(owner, job_id)

    def get(self, job_id: str, owner: str | None = None) -> Job:
        return self.store.get(job_id, owner)

    def list(self, owner: str | None = None, limit: int = 50, states: Iterable[str] | None = None) -> Jobs:
        return self.store.list(owner, limit, states)

    def position(self, job_id: str) -> int:
        return self.store.position(job_id)

    def follow(self, owner: str | None, job_id: str, after: int = 0, *, end_only: bool = False) -> AsyncIterator[Event]:
        """Follow the job's events after number ``after`` to the end. Raises `NotFound` at once for another owner's
        job. ``end_only``: of what happens from now on, the end alone is waited for.
        """
        with self._changed:
            job = self.store.get(job_id, owner)
            self.hub.seed(job_id, self._where_it_stands(job), after)
        return self.hub.follow(job_id, after, end_only=end_only)

    def status(self) -> WorkerStatus:
        return self.executor.status()

    def restart_worker(self) -> None:
        """Restart the worker between two jobs, so that it loads what changed on disk."""
        self.executor.restart()

    def close(self) -> None:
        """Stop: running jobs go back into the queue for the next start."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            running = list(self._running.values())
        if self._thread.ident is not None:
            self._thread.join()
        for flag, _ in running:
            flag.set()
        self.executor.close()
        for _, thread in running:
            thread.join()
        self.hub.close()

    # -- the dispatcher's thread

    def _dispatch(self) -> None:
        next_beat = 0.0
        while not self._closing:
            try:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + self._lease_s / 3
                    for job_id in list(self._running):  # first, so that our own jobs are never stale
                        self.store.heartbeat(job_id, self._lease_s)
                    self._requeue_stale()
                self._start_what_fits()
            except RepriseError:
                logger.exception("the queue goes on after")
            with self._changed:
                if not self._closing and not (self._waiting and self._has_room()):
                    self._changed.wait(POLL_S if self._waiting else max(0.0, next_beat - time.monotonic()))

    def _has_room(self) -> bool:
        return len(self._running) - len(self._scripting) < self.executor.slots()

    def _start_what_fits(self) -> None:
        with self._changed:
            while self._script_waits and not self._closing and len(self._scripting) < MOST_SCRIPTS:
                job = self.store.claim(self._name, self._lease_s, script=True)
                self._script_waits = job is not None
                if job is not None:
                    self._scripting.add(job.id)
                    self._start(job)
                    self._tell_positions()
            while not self._closing and self._waiting and self._has_room():
                job = self.store.claim(self._name, self._lease_s)
                if job is None:
                    self._waiting = False
                    return
                self._start(job)
                self._tell_positions()

    def _start(self, job: Job) -> None:
        thread = threading.Thread(target=self._run, args=(job,), name=f"job {job.id[:8]}", daemon=True)
        self._running[job.id] = CancelFlag(), thread
        self._published_positions.pop(job.id, None)
        self.hub.publish(job.id, {"type": "started"})
        thread.start()

    def _requeue_stale(self) -> None:
        with self._changed:
            for job in self.store.requeue_stale(self._is_gone):
                logger.warning("job %s lost its server and is %s", job.id, job.state)
                self._tell_after_death(job)

    def _is_gone(self, worker: str) -> bool:
        """Whether a server on this machine has ended; for other machines only the lease tells."""
        host, _, process = worker.partition(":")
        pid = process.partition(":")[0]
        if worker == self._name or host != socket.gethostname() or not pid.isdigit():
            return False
        return int(pid) == os.getpid() or not _is_alive(int(pid))

    # -- a job's thread

    def _run(self, job: Job) -> None:
        flag = self._running[job.id][0]

        def on_image() -> None:
            if job.id in self._finishing:
                self.store.cancel(None, job.id)
                flag.set()

        record = _Record(self.store, self.hub, job.id, on_image)
        try:
            end = self._outcome(job, flag, record)
            with self._changed:
                end()
        except RepriseError:
            logger.exception("job %s is tried again when its lease runs out: its end cannot be written down", job.id)
        finally:
            with self._changed:
                del self._running[job.id]
                self._scripting.discard(job.id)
                self._finishing.discard(job.id)
                self._wake()

    def _outcome(self, job: Job, flag: CancelFlag, record: _Record) -> Callable[[], None]:
        """Run the job; returns how its result is to be recorded."""
        made: Json = {"images": record.images}
        try:
            if self._scripts and job.id in self._scripting:
                output = self._scripts(job, self, flag, record)
            else:
                output = self.executor.run(job.id, job.spec, flag, record)
        except WorkerDied as error:
            logger.warning("job %s: %s", job.id, error)
            return lambda: self._release(job.id) if self._closing else self._tell_after_death(self.store.died(job.id))
        except Cancelled as error:
            if self._closing:
                return lambda: self._release(job.id)
            stopped = error.output if isinstance(error, Stopped) else made
            return lambda: self._tell_end(self.store.stopped(job.id, stopped))
        except RepriseError as error:
            explained = error.as_json()
        except BaseException as error:  # a script's KeyboardInterrupt too: no person can send one to a thread
            logger.exception("job %s", job.id)
            explained = _unexpected(error)
        else:
            return lambda: self._tell_end(self.store.finish(job.id, output))
        return lambda: self._tell_end(self.store.fail(job.id, explained, made if record.images else None))

    def _release(self, job_id: str) -> None:
        job = self.store.release(job_id)
        if job.is_finished:
            self._tell_end(job)

    # -- telling; with the lock held

    def _wake(self) -> None:
        self._waiting = True
        self._script_waits = self._scripts is not None
        self._changed.notify_all()

    def _tell_end(self, job: Job) -> None:
        self.hub.publish(job.id, _last_event(job))

    def _tell_after_death(self, job: Job) -> None:
        if job.is_finished:
            self._tell_end(job)
        else:
            self._tell_queued(job.id, self.store.position(job.id))
            self._wake()

    def _tell_queued(self, job_id: str, position: int) -> None:
        self._published_positions[job_id] = position
        self.hub.publish(job_id, {"type": "queued", "position": position})

    def _tell_positions(self) -> None:
        """Publish the new queue positions of jobs that have followers."""
        watched = self.hub.watched() & self._published_positions.keys()
        if not watched:
            return
        positions = self.store.positions()
        for job_id in watched:
            if job_id in positions and positions[job_id] != self._published_positions[job_id]:
                self._tell_queued(job_id, positions[job_id])

    def _where_it_stands(self, job: Job) -> Event:
        """The first event of a job of which this process has published nothing yet, or no longer remembers."""
        if job.is_finished:
            return _last_event(job)
        if job.state == QUEUED:
            position = self._published_positions[job.id] = self.store.position(job.id)
            return {"type": "queued", "position": position}
        return {"type": "started"}


class _Record:
    """Receives a running job's events: publishes all, and stores the last step and the images in the database."""

    def __init__(self, store: JobStore, hub: EventHub, job_id: str, on_image: Callable[[], None]):
        """``on_image``: called when one was saved."""
        self.images: list[Json] = []
        self._store = store
        self._hub = hub
        self._job_id = job_id
        self._on_image = on_image
        self._last: Json = {}
        self._write_at = 0.0

    def __call__(self, event: Json) -> None:
        if event["type"] in TERMINAL:
            raise ValueError(f"a runner cannot tell {event['type']!r}, it returns or raises")
        kept = {key: value for key, value in event.items() if key not in ("type", "preview")}
        if event["type"] == "image":
            self.images.append(kept)
            self._write()
        elif event["type"] == "step":
            self._last = kept
            if time.monotonic() >= self._write_at:
                self._write()
        self._hub.publish(self._job_id, event)
        if event["type"] == "image":
            self._on_image()

    def _write(self) -> None:
        self._write_at = time.monotonic() + PROGRESS_S
        try:
            self._store.progress(self._job_id, {**self._last, "saved": self.images})
        except RepriseError:
            logger.exception("the progress of job %s is not kept", self._job_id)


def _last_event(job: Job) -> Event:
    if job.state == DONE:
        return {"type": "done", "output": job.output or {}}
    if job.state == FAILED:
        return {"type": "failed", "error": job.error or {}}
    if job.state == CANCELLED:
        return {"type": "cancelled", "output": job.output or {"images": []}}
    raise ValueError(f"job {job.id} is {job.state}")


def _unexpected(error: BaseException) -> Json:
    reason = without_folders(error) or type(error).__name__
    return RepriseError(f"something unexpected went wrong ({reason})", hint="the log has more").as_json()


def _server_name() -> str:
    """The holder of a lease: machine, process id, and a random token, because process ids are reused."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is not a question; the lease will tell
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
