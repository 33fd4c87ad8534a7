"""How far an account's work is, and stopping it. A1111 has one state for everybody; here each account has its own."""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Body, Request

from modules.jobs.protocol import SCRIPT, Json, Origin
from webui.security.auth import owner_of
from webui.services import JobView, Services

MOST = 200
KEPT = 64
"""Previews and names of tasks that are remembered."""


class Tasks:
    """The jobs behind ``force_task_id``, and the last preview of each job. Any thread."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._previews: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, owner: str, task: str, job_id: str) -> None:
        with self._lock:
            self._jobs[owner, task] = job_id
            while len(self._jobs) > 4 * KEPT:
                self._jobs.popitem(last=False)

    def job(self, owner: str, task: str) -> str | None:
        with self._lock:
            return self._jobs.get((owner, task))

    def waiting(self, owner: str, jobs: Mapping[str, JobView]) -> list[str]:
        """The names of an owner's tasks that wait or run."""
        with self._lock:
            return [task for (whose, task), job_id in self._jobs.items() if whose == owner and job_id in jobs]

    def preview(self, job_id: str, new: Any) -> str | None:
        """The last preview in base64; ``new`` is that of the newest step, perhaps none."""
        with self._lock:
            if new:
                text = new if isinstance(new, str) else base64.b64encode(new).decode("ascii")
                self._previews[job_id] = text
                while len(self._previews) > KEPT:
                    self._previews.popitem(last=False)
            return self._previews.get(job_id)


def at_work(services: Services, owner: str) -> list[JobView]:
    """The jobs that an account asked for and that have not ended, the running ones first; none of a script's own."""
    running = services.queue.list(owner, MOST, ("running",))
    queued = services.queue.list(owner, MOST, ("queued",))
    return [job for jobs in (running, queued) for job in reversed(jobs) if not Origin.from_json(job.spec).script]


def last_step(services: Services, job: JobView) -> Json:
    """The newest step that was told of a job: ``step``, ``steps``, ``image``, ``images``, perhaps ``preview``."""
    steps = [event for event in services.queue.heard(job.id) if event["type"] == "step"]
    return dict(steps[-1] if steps else job.progress or {})


def part_done(step: Mapping[str, Any]) -> float:
    """A1111's number from 0 to 1, from the images that are done and the steps of the one at hand."""
    images, steps = int(step.get("images") or 1), int(step.get("steps") or 1)
    image, done = int(step.get("image") or 1) - 1, int(step.get("step") or 0)
    return min(0.01 + image / images + done / steps / images, 1.0)


def state_of(job: JobView | None, step: Mapping[str, Any]) -> Json:
    begun = time.localtime(job.created) if job else time.localtime(0)
    return {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": (Origin.from_json(job.spec).tab or job.kind) if job else "",
        "job_count": int(step.get("images") or 1) if job else 0,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", begun) if job else "0",
        "job_no": int(step.get("image") or 1) - 1 if job else 0,
        "sampling_step": int(step.get("step") or 0) if job else 0,
        "sampling_steps": int(step.get("steps") or 0) if job else 0,
    }


def add_progress(routes: APIRouter, services: Services, tasks: Tasks) -> None:
    """``/progress``, ``/interrupt``, ``/skip``."""

    @routes.get("/progress")
    def progress(request: Request, skip_current_image: bool = False) -> Json:
        """How far the account's job at hand is, with its last preview."""
        jobs = at_work(services, owner_of(request))
        job = jobs[0] if jobs else None
        step = last_step(services, job) if job else {}
        image = tasks.preview(job.id, step.get("preview")) if job else None
        return {
            "progress": part_done(step) if job else 0.0,
            "eta_relative": float(step.get("eta_s") or 0.0),
            "state": state_of(job, step),
            "current_image": None if skip_current_image else image,
            "textinfo": None,
        }

    @routes.post("/interrupt")
    def interrupt(request: Request) -> Json:
        """Stop the account's job at hand; what it has made is answered to whoever waits for it, the image at hand as it
        was, unless the server's settings drop it."""
        owner, keep = owner_of(request), services.settings.current().keep_interrupted
        for job in at_work(services, owner)[:1]:
            services.queue.cancel(owner, job.id, keep=keep)
        return {}

    @routes.post("/skip")
    def skip(request: Request) -> None:
        """Make the image at hand from what there is, and go on with the next."""
        owner = owner_of(request)
        for job in at_work(services, owner)[:1]:
            inner = services.queue.list(owner, MOST, ("running",)) if job.kind == SCRIPT else [job]
            for one in inner:
                services.queue.skip(owner, one.id)


def add_internal(routes: APIRouter, services: Services, tasks: Tasks) -> None:
    """``/internal/progress`` and ``/internal/pending-tasks``, which A1111's own page asks."""

    @routes.post("/progress")
    def internal_progress(request: Request, values: Json = Body()) -> Json:
        """How far the task is that a request called ``force_task_id``."""
        owner, task = owner_of(request), str(values.get("id_task", ""))
        jobs = {job.id: job for job in at_work(services, owner)}
        known = tasks.job(owner, task)
        job = jobs.get(known) if known else None
        step = last_step(services, job) if job else {}
        preview = tasks.preview(job.id, step.get("preview")) if job else None
        active = job is not None and job.state == "running"
        wanted = bool(values.get("live_preview", True)) and preview is not None
        return {
            "active": active,
            "queued": job is not None and not active,
            "completed": known is not None and job is None,
            "progress": part_done(step) if active else None,
            "eta": step.get("eta_s"),
            "live_preview": f"data:image/jpeg;base64,{preview}" if wanted else None,
            "id_live_preview": int(step.get("seq") or -1),
            "textinfo": None if active else "Waiting..." if job is None else "In queue...",
        }

    @routes.get("/pending-tasks")
    def pending(request: Request) -> Json:
        """The names of the account's tasks that wait or run."""
        owner = owner_of(request)
        names = tasks.waiting(owner, {job.id: job for job in at_work(services, owner)})
        return {"size": len(names), "tasks": names}
