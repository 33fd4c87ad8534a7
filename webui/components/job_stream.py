"""The job stream of one page: finished jobs, the one in view, and those that wait.

A page keeps the ids of the jobs that it submitted since it was last at rest. What came of them lies in the database, so
a page that is loaded again finds all of it by these ids. A job's ``spec`` says which page submitted it, so that whoever
follows the first job hears of those that were queued behind it meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modules.errors import NotFound
from modules.jobs.protocol import Origin
from webui.html.status import Result, results_of
from webui.services import JobView, Queue

ACTIVE = ("queued", "running")
MOST = 100
"""Jobs of one page; earlier ones are in the history."""
MOST_SHOWN = 60
"""Images of them on the page."""
_ID = re.compile(r"[0-9a-f]{32}")


def page_of(request: Any, tab: str) -> str:
    """A name for a tab of a visitor's page, stored in its jobs' specs. It reveals nothing of the session."""
    session = str(getattr(request, "session_hash", None) or "")
    return f"{tab}:{hashlib.sha256(session.encode()).hexdigest()[:16]}" if session else ""


def ids_of(text: Any) -> list[str]:
    """The distinct job ids in what a page sent; anything else in it is dropped."""
    return list(dict.fromkeys(_ID.findall(text)))[-MOST:] if isinstance(text, str) else []


def awake(ids: Iterable[str]) -> str:
    """A fresh value for a field whose change event starts following; never the same twice."""
    return " ".join((secrets.token_hex(4), *ids))


@dataclass(frozen=True)
class Shown:
    """An image on the page, and its place in its job."""

    job: str
    index: int
    result: Result


def shown_of(job: JobView) -> tuple[Shown, ...]:
    return tuple(Shown(job.id, index, result) for index, result in enumerate(results_of(job)))


class JobStream:
    """Reads and asks for the jobs of one ``owner``."""

    def __init__(self, queue: Queue, owner: str):
        self.queue = queue
        self.owner = owner

    def get(self, job_id: str) -> JobView | None:
        try:
            return self.queue.get(job_id, self.owner)
        except NotFound:  # forgotten, or somebody else's
            return None

    def jobs(self, ids: Sequence[str]) -> list[JobView]:
        """The jobs that exist, in the order of ``ids``."""
        return [job for job_id in ids if (job := self.get(job_id)) is not None]

    def joined(self, ids: Sequence[str], page: str) -> list[str]:
        """``ids`` followed by the jobs that the page has queued meanwhile."""
        active = self.queue.list(self.owner, MOST, ACTIVE) if page else []
        new = [job.id for job in reversed(active) if Origin.from_json(job.spec).page == page and job.id not in ids]
        return [*ids, *new]

    def waiting(self, ids: Sequence[str]) -> list[tuple[int, JobView]]:
        """The jobs that wait, with their positions in the queue."""
        waiting = [job for job in self.jobs(ids) if job.state == "queued"]
        return [(self.queue.position(job.id), job) for job in waiting]

    def is_active(self, ids: Sequence[str]) -> bool:
        return any(job.state in ACTIVE for job in self.jobs(ids))

    async def pictures(self, ids: Sequence[str]) -> list[Shown]:
        """The images of the jobs, in the order of the gallery."""
        jobs = await asyncio.to_thread(self.jobs, ids)
        return [picture for job in jobs for picture in shown_of(job)][-MOST_SHOWN:]
