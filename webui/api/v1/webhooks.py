"""Tells an address that a job has ended. What is still to be told is kept on the disk, and so outlives a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.errors import NotFound, RepriseError, UserError
from modules.jobs.protocol import Json
from modules.storage import atomic
from webui.outgoing import Outgoing

log = logging.getLogger(__name__)

PAUSES_S = (1.0, 5.0, 25.0, 125.0)
"""Between tries; after the last one it is given up."""
MOST_WAITING = 10_000
AT_ONCE = 8
FLAG = "--webhook-host"


class Webhooks:
    """The addresses to call, by job. `follow` waits for the end of a job and calls its address."""

    def __init__(self, folder: Path, hosts: Sequence[str], pauses_s: Sequence[float] = PAUSES_S):
        self._file = folder / "webhooks.json"
        self._outgoing = Outgoing(hosts, FLAG, "webhook")
        self._pauses_s = pauses_s
        self._lock = threading.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self.waiting: dict[str, list[str]] = _read(self._file)
        """Owner and address, by job."""

    def check(self, url: Any) -> str:
        """An address that may be called; raises `UserError`."""
        if not isinstance(url, str) or len(url) > 2000:
            raise UserError("a webhook is an address", hint="write https://HOST/PATH", field="webhook")
        self._outgoing.checked(url)
        return url

    def note(self, owner: str, job_id: str, url: str) -> None:
        """Keep an address until its job has ended and it was told."""
        with self._lock:
            if len(self.waiting) >= MOST_WAITING:
                raise UserError("too many webhooks wait", hint="ask for the job's state instead", field="webhook")
            self.waiting[job_id] = [owner, url]
            self._save()

    def follow(self, services: Any, job_id: str, told: Any) -> None:
        """Begin to wait for a job, once. ``told(services, job)``: what is sent. Called in the server's event loop."""
        if job_id in self.waiting and job_id not in self._tasks:
            task = asyncio.ensure_future(self._ended(services, job_id, told))
            self._tasks[job_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(job_id, None))

    async def _ended(self, services: Any, job_id: str, told: Any) -> None:
        owner, url = self.waiting[job_id]
        try:
            async for _ in services.queue.follow(owner, job_id, end_only=True):
                pass
            job = await asyncio.to_thread(services.queue.get, job_id, owner)
            if job.state in ("queued", "running"):
                return  # the server stops; it is told after the next start
            await self._tell(url, json.dumps(told(services, job)).encode())
        except NotFound:
            log.info("job %s is gone, and nobody is told of it", job_id)
        await asyncio.to_thread(self._forget, job_id)

    async def _tell(self, url: str, body: bytes) -> None:
        headers = {"content-type": "application/json", "user-agent": "Reprise"}
        for pause in (*self._pauses_s, None):
            try:
                async with self._at_once:
                    status = await asyncio.to_thread(self._outgoing.post, url, body, headers)
                if 200 <= status < 300:
                    return
                reason = f"status {status}"
            except RepriseError as error:
                reason = str(error)
            if pause is not None:
                await asyncio.sleep(pause)
        log.warning("a webhook is given up after %d tries: %s", len(self._pauses_s) + 1, reason)

    def _forget(self, job_id: str) -> None:
        with self._lock:
            self.waiting.pop(job_id, None)
            self._save()

    def _save(self) -> None:
        try:
            atomic.make_folder(self._file.parent)
            atomic.write(self._file, json.dumps(self.waiting).encode())
        except (OSError, RepriseError) as error:
            log.warning("webhooks are not kept for the next start: %s", error)


def _read(file: Path) -> dict[str, list[str]]:
    try:
        found: Json = json.loads(file.read_bytes())
        return {job: [str(owner), str(url)] for job, (owner, url) in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("the webhooks that waited cannot be read: %s", error)
        return {}
