"""Runs "script" jobs: takes no worker, but submits child jobs, waits for them, and draws the image grids.

The jobs within are named by the script's job and their number, so that a script which is run again after a restart
finds those that had ended before.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from modules.errors import Cancelled, QueueFull, RepriseError, UserError
from modules.extension.host import Host
from modules.extension.script import (
    MOST_REQUESTS,
    GeneratedImage,
    Outcome,
    Round,
    ScriptContext,
    ScriptSpec,
    Sheet,
    Steps,
)
from modules.gallery.outputs import Gallery
from modules.imaging.image_grid import table
from modules.jobs.events import Event
from modules.jobs.executors.process import CancelFlag, OnEvent, Stopped
from modules.jobs.protocol import GenerateSpec, ImageEvent, JobOutcome, Json, NoteEvent, Origin, SavedImage, Step
from modules.jobs.protocol import ScriptSpec as JobSpec
from modules.jobs.store import DONE, FAILED, Job
from modules.jobs.submit import Queue, generation, submit
from modules.metadata.infotext import quote
from modules.params.generation import GenerationParams
from modules.params.options import read
from modules.pipeline.plan import check

logger = logging.getLogger(__name__)

AHEAD = 3
"""Jobs of one script that wait or run at once: the queue stays free for its owner's other jobs."""
POLL_S = 0.1
LOOK_S = 1.0
"""How often to poll the database for a job without events."""
MAX_CELL = 512
"""Sides of a picture in a sheet of more than `MANY` cells."""
MANY = 16


class Jobs(Queue, Protocol):
    """The part of the queue that scripts use."""

    def get(self, job_id: str, owner: str | None = None) -> Job: ...
    def cancel(self, owner: str | None, job_id: str, *, keep: bool = False) -> Job: ...
    def heard(self, job_id: str, after: int) -> list[Event]: ...


@dataclass(frozen=True)
class Scripts:
    """Runs the scripts of ``host``. One object for all; a run's own state is in `_Running`."""

    host: Host
    gallery: Gallery
    context: ScriptContext
    check_limits: Callable[[GenerationParams], None] = lambda params: None
    """Raises `UserError` for a request that is larger than an administrator allows."""

    def prepare(self, name: str, options: Mapping[str, Any], params: GenerationParams) -> int:
        """The number of requests that the script will make, as far as known; raises `UserError` for bad options."""
        spec = self.host.scripts.get(name)
        steps = self._steps(spec, options, params)
        try:
            current = next(steps)
        except StopIteration:
            return 0
        finally:
            steps.close()
        for request in current.requests:
            self.check_limits(check(request, self.host)[0])
        return max(current.of, len(current.requests))

    def __call__(self, job: Job, jobs: Jobs, cancel: CancelFlag, on_event: OnEvent) -> Json:
        """The job's output. `Stopped` with what there is, when its owner stops it."""
        asked = JobSpec.from_json(job.spec)
        spec = self.host.scripts.get(asked.name)
        running = _Running(job, asked.origin, self.host, jobs, cancel, on_event, self.check_limits)
        begin = time.monotonic()
        try:
            sheets = self._played(self._steps(spec, asked.options, asked.params), running)
            drawn = [self._drawn(job, spec, sheet, asked.params) for sheet in sheets]
        except Cancelled:
            raise Stopped(running.outcome().to_json()) from None
        for drawing, _ in drawn:
            on_event(ImageEvent(drawing).to_json())
        outcome = running.outcome()
        return replace(
            outcome,
            images=(*(drawing for drawing, _ in drawn), *outcome.images),
            sheets=tuple(matrix for _, matrix in drawn),
            seconds=time.monotonic() - begin,
        ).to_json()

    def _steps(self, spec: ScriptSpec, options: Mapping[str, Any], params: GenerationParams) -> Steps:
        return spec.run(params, read(spec.options, options), self.context)

    def _played(self, steps: Steps, running: _Running) -> Sequence[Sheet]:
        try:
            current = next(steps)
            while True:
                current = steps.send(running.outcomes(current))
        except StopIteration as end:
            return end.value or ()
        finally:
            steps.close()

    def _drawn(self, job: Job, spec: ScriptSpec, sheet: Sheet, params: GenerationParams) -> tuple[SavedImage, Json]:
        """Draw and save a sheet; returns the image and the same table as paths, for the page."""
        words = (sheet.columns, sheet.rows) if sheet.legend else ((), ())
        cells = [[_cell_image(outcome, sheet) for outcome in row] for row in sheet.cells]
        drawing = table(cells, *words, title=sheet.title, margin=sheet.margin)
        first = next((made for row in sheet.cells for outcome in row for made in outcome.images), None)
        facts = ", ".join(f"{key}: {quote(text)}" for key, text in {"Script": spec.label, **sheet.facts}.items())
        infotext = f"{first.infotext}, {facts}" if first else facts
        folder = ("img2img" if params.init else "txt2img") + "-grids"
        saved = self.gallery.save(drawing, folder=folder, infotext=infotext, job=job.id)
        image = SavedImage(str(saved.path), infotext, *drawing.size, first.seed if first else None)
        matrix = {
            "title": sheet.title,
            "columns": list(sheet.columns),
            "rows": list(sheet.rows),
            "cells": [[_cell_json(outcome) for outcome in row] for row in sheet.cells],
        }
        return image, matrix


class _Running:
    """The state of one run: the jobs it submitted, their results, and its progress."""

    def __init__(
        self,
        job: Job,
        origin: Origin,
        host: Host,
        jobs: Jobs,
        cancel: CancelFlag,
        on_event: OnEvent,
        check_limits: Callable[[GenerationParams], None],
    ):
        self._job = job
        self._origin = replace(origin, tab=origin.tab or "txt2img", page="", notes=(), script=job.id)
        self._host = host
        self._jobs = jobs
        self._cancel = cancel
        self._on_event = on_event
        self._check_limits = check_limits
        self._made: list[SavedImage] = []
        self._notes = list(origin.notes)
        self._asked = 0
        self._ended = 0
        self._of = 0
        self._begin = time.monotonic()

    def outcome(self) -> JobOutcome:
        return JobOutcome(tuple(self._made), tuple(self._notes))

    def outcomes(self, current: Round) -> Sequence[Outcome]:
        """What the requests of one round gave. A few at a time wait in the queue or run."""
        first, self._asked = self._asked, self._asked + len(current.requests)
        self._of = max(self._of, current.of, self._asked)
        if self._asked > MOST_REQUESTS:
            raise RepriseError(f"the script asks for more than {MOST_REQUESTS} requests", hint="ask for fewer values")
        found: dict[int, Outcome] = {}
        waiting: dict[int, _Child] = {}
        rest = list(enumerate(current.requests))
        try:
            while rest or waiting:
                if self._cancel.is_interrupted():
                    self._wind_up(waiting)
                if self._cancel.is_set() or self._cancel.is_interrupted():
                    raise Cancelled
                found |= self._fill(waiting, rest, first, current.names)
                for number, child in list(waiting.items()):
                    for event in child.news():
                        self._tell(event)
                    if (ended := child.ended()) is not None:
                        del waiting[number]
                        found[number] = self._outcome_of(ended, current.names[number] if current.names else "")
                if waiting:
                    time.sleep(POLL_S)
        except BaseException:
            for child in waiting.values():
                child.stop()
            raise
        return [found[number] for number in range(len(current.requests))]

    def _wind_up(self, waiting: dict[int, _Child]) -> None:
        """Interrupt the jobs of a script that wait or run, and take the images that are made of what there is."""
        for child in waiting.values():
            child.stop(keep=True)
        while waiting and not self._cancel.is_set():
            for number, child in list(waiting.items()):
                child.news()
                if (ended := child.ended()) is not None:
                    del waiting[number]
                    self._take_images(ended)
            if waiting:
                time.sleep(POLL_S)

    def _take_images(self, job: Job) -> tuple[SavedImage, ...]:
        images = JobOutcome.from_json(job.output or {}).images
        for image in images:
            self._made.append(image)
            self._on_event(ImageEvent(image).to_json())
        return images

    def _fill(
        self,
        waiting: dict[int, _Child],
        rest: list[tuple[int, GenerationParams]],
        first: int,
        names: Sequence[str],
    ) -> dict[int, Outcome]:
        """Submit as many as may wait; the outcomes of those that cannot be done."""
        refused: dict[int, Outcome] = {}
        while rest and len(waiting) < AHEAD:
            number, params = rest[0]
            name = hashlib.sha256(f"{self._job.id} {first + number}".encode()).hexdigest()[:32]
            try:
                spec = generation(GenerateSpec(params, origin=self._origin), self._host, absent=True)
                self._check_limits(spec.params)
                waiting[number] = _Child(self._jobs, submit(self._jobs, self._job.owner, spec, name))
            except QueueFull:
                if not waiting:
                    time.sleep(LOOK_S)
                break
            except UserError as error:
                self._ended += 1
                self._fail(names[number] if names else "", str(error))
                refused[number] = Outcome((), str(error))
            del rest[0]
        return refused

    def _outcome_of(self, job: Job, name: str) -> Outcome:
        self._ended += 1
        images = self._take_images(job)
        error = "" if job.state == DONE else str((job.error or {}).get("detail") or "it was stopped")
        if job.state == FAILED or (error and not images):
            self._fail(name, error)
        return Outcome(tuple(GeneratedImage(image.path, image.infotext, image.seed or 0) for image in images), error)

    def _fail(self, name: str, error: str) -> None:
        note = f"{name or f'request {self._ended}'} failed: {error}"
        self._notes.append(note)
        self._on_event(NoteEvent(note).to_json())

    def _tell(self, event: Event) -> None:
        """Report a child job's step as a step of the script; its requests count as images."""
        if event["type"] != "step":
            return
        step = Step.from_json(event)
        done = self._ended + step.step / max(step.steps, 1)
        left = (time.monotonic() - self._begin) / done * (self._of - done) if done else None
        self._on_event(replace(step, image=self._ended + 1, images=self._of, eta_s=left).to_json())


class _Child:
    """A child job, and how far its events were read."""

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

    def stop(self, *, keep: bool = False) -> None:
        try:
            self._jobs.cancel(self._job.owner, self._job.id, keep=keep)
        except RepriseError as error:
            logger.warning("a job of a script could not be stopped: %s", error)


def _cell_image(outcome: Outcome, sheet: Sheet) -> Image.Image | None:
    """The first picture of a cell; small where there are many cells."""
    if not outcome.images:
        return None
    with Image.open(outcome.images[0].path) as image:
        image.load()
        drawing = image.convert("RGB")
    if sum(map(len, sheet.cells)) > MANY:
        drawing.thumbnail((MAX_CELL, MAX_CELL))
    return drawing


def _cell_json(outcome: Outcome) -> Json:
    made = outcome.images[0] if outcome.images else None
    return {"path": made.path if made else "", "infotext": made.infotext if made else "", "error": outcome.error}
