"""A script's job: it takes no worker but submits jobs of its own, waits for them, and draws what came of them.

``spec``: ``{"kind": "script", "script": name, "options": {...}, "params": {...}, "tab": "txt2img"}`` with seeds fixed.
The jobs within are named by the script's job and their number, so that a script which is run again after a restart
finds those that had ended before.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from modules.errors import Cancelled, QueueFull, RepriseError
from modules.extension import Host
from modules.gallery import Gallery
from modules.infotext import quote
from modules.jobs.events import Event
from modules.jobs.executor import CancelFlag, OnEvent, Stopped
from modules.jobs.store import DONE, FAILED, Job
from modules.options import read, values_of
from modules.params import GenerationParams
from modules.pipeline.plan import check
from modules.script import MOST_REQUESTS, Answer, Made, ScriptContext, ScriptSpec, Sheet, Steps, Turn
from modules.sheets import table

logger = logging.getLogger(__name__)

KIND = "script"
AHEAD = 3
"""So many jobs of one script wait or run at once: the queue stays free for its owner's other wishes."""
POLL_S = 0.1
LOOK_S = 1.0
"""How often the database is asked of a job of which nothing was heard."""
MAX_CELL = 512
"""Sides of a picture in a sheet of more than `MANY` cells."""
MANY = 16


class Jobs(Protocol):
    """The part of the queue that a script uses."""

    def submit(self, owner: str, spec: dict[str, Any], kind: str = ..., job_id: str = ...) -> Job: ...
    def get(self, job_id: str, owner: str | None = None) -> Job: ...
    def cancel(self, owner: str | None, job_id: str) -> Job: ...
    def heard(self, job_id: str, after: int) -> list[Event]: ...


@dataclass(frozen=True)
class Scripts:
    """Runs scripts of ``host``. One object for all; a run's own state is in `_Running`."""

    host: Host
    gallery: Gallery
    context: ScriptContext

    def prepare(self, name: str, options: Mapping[str, Any], params: GenerationParams) -> int:
        """How many requests the script will make, as far as it can be told; raises `UserError` for bad options."""
        spec = self.host.scripts.get(name)
        steps = self._steps(spec, options, params)
        try:
            turn = next(steps)
        except StopIteration:
            return 0
        finally:
            steps.close()
        for request in turn.requests:
            check(request, self.host)
        return max(turn.of, len(turn.requests))

    def __call__(self, job: Job, jobs: Jobs, cancel: CancelFlag, on_event: OnEvent) -> dict[str, Any]:
        """The job's output. `Stopped` with what there is, when its owner stops it."""
        params = GenerationParams.from_json(job.spec["params"])
        spec = self.host.scripts.get(str(job.spec["script"]))
        running = _Running(job, jobs, cancel, on_event)
        begin = time.monotonic()
        try:
            sheets = self._played(self._steps(spec, job.spec["options"], params), running)
            drawn = [self._drawn(job, spec, sheet, params) for sheet in sheets]
        except Cancelled:
            raise Stopped(running.output()) from None
        for picture, _ in drawn:
            on_event({"type": "image", **picture})
        output = running.output()
        return {
            **output,
            "images": [*(picture for picture, _ in drawn), *output["images"]],
            "sheets": [matrix for _, matrix in drawn],
            "seconds": round(time.monotonic() - begin, 3),
        }

    def _steps(self, spec: ScriptSpec, options: Mapping[str, Any], params: GenerationParams) -> Steps:
        return spec.run(params, read(spec.options, options), self.context)

    def _played(self, steps: Steps, running: _Running) -> Sequence[Sheet]:
        try:
            turn = next(steps)
            while True:
                turn = steps.send(running.answers(turn))
        except StopIteration as end:
            return end.value or ()
        finally:
            steps.close()

    def _drawn(
        self, job: Job, spec: ScriptSpec, sheet: Sheet, params: GenerationParams
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A sheet's picture, saved, and the same as data: paths in rows and columns, for the page."""
        words = (sheet.columns, sheet.rows) if sheet.legend else ((), ())
        cells = [[_picture(answer, sheet) for answer in row] for row in sheet.cells]
        picture = table(cells, *words, title=sheet.title, margin=sheet.margin)
        first = next((made for row in sheet.cells for answer in row for made in answer.made), None)
        facts = ", ".join(f"{key}: {quote(text)}" for key, text in {"Script": spec.label, **sheet.facts}.items())
        infotext = f"{first.infotext}, {facts}" if first else facts
        folder = ("img2img" if params.init else "txt2img") + "-grids"
        saved = self.gallery.save(picture, folder=folder, infotext=infotext, job=job.id)
        entry = {
            "path": str(saved.path),
            "infotext": infotext,
            "seed": first.seed if first else None,
            "width": picture.width,
            "height": picture.height,
        }
        matrix = {
            "title": sheet.title,
            "columns": list(sheet.columns),
            "rows": list(sheet.rows),
            "cells": [[_told(answer) for answer in row] for row in sheet.cells],
        }
        return entry, matrix


class _Running:
    """One run: the jobs it has submitted, what they made, and what is told of it."""

    def __init__(self, job: Job, jobs: Jobs, cancel: CancelFlag, on_event: OnEvent):
        self._job = job
        self._jobs = jobs
        self._cancel = cancel
        self._on_event = on_event
        self._made: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._asked = 0
        self._ended = 0
        self._of = 0
        self._begin = time.monotonic()

    def output(self) -> dict[str, Any]:
        return {"images": list(self._made), "notes": list(self._notes)}

    def answers(self, turn: Turn) -> Sequence[Answer]:
        """What the requests of one turn made. A few at a time wait in the queue or run."""
        first, self._asked = self._asked, self._asked + len(turn.requests)
        self._of = max(self._of, turn.of, self._asked)
        if self._asked > MOST_REQUESTS:
            raise RepriseError(f"the script asks for more than {MOST_REQUESTS} requests", hint="ask for fewer values")
        found: dict[int, Answer] = {}
        waiting: dict[int, _Child] = {}
        rest = list(enumerate(turn.requests))
        try:
            while rest or waiting:
                if self._cancel.is_set():
                    raise Cancelled
                self._fill(waiting, rest, first)
                for number, child in list(waiting.items()):
                    for event in child.news():
                        self._tell(event)
                    if (ended := child.ended()) is not None:
                        del waiting[number]
                        found[number] = self._answer(ended, turn.names[number] if turn.names else "")
                if waiting:
                    time.sleep(POLL_S)
        except BaseException:
            for child in waiting.values():
                child.stop()
            raise
        return [found[number] for number in range(len(turn.requests))]

    def _fill(self, waiting: dict[int, _Child], rest: list[tuple[int, GenerationParams]], first: int) -> None:
        while rest and len(waiting) < AHEAD:
            number, params = rest[0]
            spec = {"kind": self._job.spec.get("tab", "txt2img"), "params": params.to_json(), "script": self._job.id}
            name = hashlib.sha256(f"{self._job.id} {first + number}".encode()).hexdigest()[:32]
            try:
                job = self._jobs.submit(self._job.owner, spec, job_id=name)
            except QueueFull:
                if not waiting:
                    time.sleep(LOOK_S)
                return
            waiting[number] = _Child(self._jobs, job)
            del rest[0]

    def _answer(self, job: Job, name: str) -> Answer:
        self._ended += 1
        images = (job.output or {}).get("images") or []
        for image in images:
            self._made.append(image)
            self._on_event({"type": "image", **image})
        error = "" if job.state == DONE else str((job.error or {}).get("detail") or "it was stopped")
        if job.state == FAILED or (error and not images):
            note = f"{name or f'request {self._ended}'} failed: {error}"
            self._notes.append(note)
            self._on_event({"type": "note", "text": note})
        return Answer(tuple(Made(i["path"], i.get("infotext") or "", i.get("seed") or 0) for i in images), error)

    def _tell(self, event: Event) -> None:
        """A step of one of the jobs as a step of the script: its requests count as pictures."""
        if event["type"] != "step":
            return
        done = self._ended + event["step"] / max(event["steps"], 1)
        left = (time.monotonic() - self._begin) / done * (self._of - done) if done else None
        told = {"type": "step", "step": event["step"], "steps": event["steps"], "image": self._ended + 1}
        told |= {"images": self._of} | ({"eta_s": round(left, 1)} if left is not None else {})
        self._on_event(told | ({"preview": event["preview"]} if event.get("preview") else {}))


class _Child:
    """A job within, and how far its events were read."""

    def __init__(self, jobs: Jobs, job: Job):
        self._jobs = jobs
        self._job = job
        self._seen = 0
        self._look_at = 0.0

    def news(self) -> list[Event]:
        events = self._jobs.heard(self._job.id, self._seen)
        if events:
            self._seen = events[-1]["seq"]
            self._look_at = 0.0
        return events

    def ended(self) -> Job | None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._job = self._jobs.get(self._job.id)
        return self._job if self._job.is_finished else None

    def stop(self) -> None:
        try:
            self._jobs.cancel(self._job.owner, self._job.id)
        except RepriseError as error:
            logger.warning("a job of a script could not be stopped: %s", error)


def _picture(answer: Answer, sheet: Sheet) -> Image.Image | None:
    """The first picture of a cell; small where there are many cells."""
    if not answer.made:
        return None
    with Image.open(answer.made[0].path) as image:
        image.load()
        picture = image.convert("RGB")
    if sum(map(len, sheet.cells)) > MANY:
        picture.thumbnail((MAX_CELL, MAX_CELL))
    return picture


def _told(answer: Answer) -> dict[str, Any]:
    made = answer.made[0] if answer.made else None
    return {"path": made.path if made else "", "infotext": made.infotext if made else "", "error": answer.error}


def spec_of(name: str, options: Any, params: GenerationParams, tab: str) -> dict[str, Any]:
    """The job that runs a script; ``params`` have their seeds fixed."""
    return {"kind": KIND, "script": name, "options": values_of(options), "params": params.to_json(), "tab": tab}
