"""The queue as a whole: real processes, a worker without a model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import runpy
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.errors import NotFound, QueueFull
from modules.jobs.events import Event, EventHub
from modules.jobs.executors.process import Executor, InlineExecutor, LocalExecutor
from modules.jobs.queue import JobQueue
from modules.jobs.store import JobStore

FAKE = Path(__file__).with_name("fake_worker.py")
RUNNER = runpy.run_path(str(FAKE))["runner"]


def until(true: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@contextlib.contextmanager
def a_queue(path: Path, executor: Executor | None = None, lease_s: float = 30) -> Iterator[JobQueue]:
    """Not yet started."""
    store = JobStore(path)
    queue = JobQueue(store, executor or InlineExecutor(RUNNER), EventHub(), lease_s=lease_s)
    try:
        yield queue
    finally:
        queue.close()
        store.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with a_queue(tmp_path / "jobs.db") as queue:
        yield queue


def local(*arguments: object) -> LocalExecutor:
    return LocalExecutor([sys.executable, "-S", str(FAKE), *map(str, arguments)])


async def story(queue: JobQueue, job_id: str, after: int = 0) -> list[Event]:
    """A job's events from now to its end; the queue is started once someone listens."""
    return [event async for event in queue.follow(None, job_id, after)]


def whole_story(queue: JobQueue, *job_ids: str) -> list[list[Event]]:
    """Start the queue when someone follows each job; all events of each."""

    async def main() -> list[list[Event]]:
        tasks = [asyncio.create_task(story(queue, job_id)) for job_id in job_ids]
        while len(queue.hub.watched()) < len(job_ids):
            await asyncio.sleep(0)
        queue.start()
        return await asyncio.wait_for(asyncio.gather(*tasks), 60)

    return asyncio.run(main())


def ended(queue: JobQueue, job_id: str) -> str:
    until(lambda: queue.get(job_id).is_finished)
    return queue.get(job_id).state


def running(queue: JobQueue, job_id: str, saved: int = 1) -> None:
    until(lambda: len((queue.get(job_id).progress or {}).get("saved", ())) >= saved)


def test_job_tells_its_story_in_order(queue: JobQueue) -> None:
    job = queue.submit("alice", {"seed": 7, "steps": 2, "images": 2})
    (events,) = whole_story(queue, job.id)
    assert [event["type"] for event in events] == [
        *("queued", "started", "step", "step", "image", "step", "step", "image", "done")
    ]
    assert [event["seq"] for event in events] == list(range(1, 10))
    assert events[0]["position"] == 1 and events[4]["path"] == "7.png"
    assert events[-1]["output"] == {"images": ["7.png", "8.png"]} == queue.get(job.id).output
    assert queue.position(job.id) == 0


def test_same_jobs_give_the_same_outputs_and_events_inline_and_in_a_process(tmp_path: Path) -> None:
    specs: list[dict[str, Any]] = [{"seed": n, "steps": 1 + n % 4, "images": 1 + n % 2} for n in range(18)]
    specs += [{"fail": "no such sampler"}, {"crash": "oh"}]

    def run(executor: Executor, name: str) -> list[list[Any]]:
        with a_queue(tmp_path / name, executor) as queue:
            stories = whole_story(queue, *[queue.submit(f"user {n % 3}", spec).id for n, spec in enumerate(specs)])
        return [[{**event, "job": "", "preview": ""} for event in story] for story in stories]

    inline = run(InlineExecutor(RUNNER), "inline.db")
    assert run(local(), "local.db") == inline
    assert [story[-1]["type"] for story in inline] == ["done"] * 18 + ["failed"] * 2


def test_owners_take_turns_however_much_one_of_them_asks(queue: JobQueue) -> None:
    jobs = [queue.submit("alice", {}) for _ in range(5)] + [queue.submit("bob", {}) for _ in range(2)]
    whole_story(queue, *(job.id for job in jobs))
    served = sorted((queue.get(job.id) for job in jobs), key=lambda job: job.started or 0)
    assert [job.owner for job in served] == ["alice", "bob", "alice", "bob", "alice", "alice", "alice"]
    assert [job.id for job in served if job.owner == "alice"] == [job.id for job in jobs[:5]]


def test_those_who_wait_hear_how_the_line_shortens(queue: JobQueue) -> None:
    jobs = [queue.submit("alice", {}) for _ in range(4)]
    assert queue.position(jobs[3].id) == 4
    *_, events = whole_story(queue, *(job.id for job in jobs))
    assert [event["position"] for event in events if event["type"] == "queued"] == [4, 3, 2, 1]


def test_queued_job_is_cancelled_at_once_and_a_running_one_at_its_next_step(tmp_path: Path) -> None:
    with a_queue(tmp_path / "jobs.db", local()) as queue:
        first, second = (queue.submit("alice", {"hold": str(tmp_path / "never")}) for _ in range(2))
        queue.start()
        running(queue, first.id)
        assert queue.cancel("alice", second.id).state == "cancelled"
        queue.cancel("alice", first.id)
        assert ended(queue, first.id) == "cancelled"
        assert queue.get(first.id).output == {"images": [{"path": "0.png"}]}
        assert [event["type"] for event in asyncio.run(story(queue, second.id))] == ["queued", "cancelled"]
        assert queue.cancel("alice", first.id).state == "cancelled"  # once more changes nothing
        assert ended(queue, queue.submit("alice", {}).id) == "done"


def test_a_running_job_that_is_cancelled_may_keep_the_image_at_hand(queue: JobQueue) -> None:
    queue.start()
    jobs = [queue.submit("alice", {"partial": "half.png"}), queue.submit("alice", {"hold": "/never"}, "extras")]
    for job in jobs:
        running(queue, job.id)
        queue.cancel("alice", job.id, keep=True)
        assert ended(queue, job.id) == "cancelled"
    made = [queue.get(job.id).output for job in jobs]
    assert made[0] == {"images": [{"path": "0.png"}, {"path": "half.png"}]}
    assert made[1] == {"images": [{"path": "0.png"}]}  # jobs of other kinds have no image at hand, and stop


def test_a_running_job_is_told_to_skip_by_its_owner_alone(tmp_path: Path) -> None:
    with a_queue(tmp_path / "jobs.db", local()) as queue:
        job, later = (queue.submit("alice", {"skips": 1}) for _ in range(2))
        queue.start()
        running(queue, job.id)
        with pytest.raises(NotFound):
            queue.skip("bob", job.id)
        queue.skip("alice", later.id)  # it waits, so there is no image at hand
        queue.skip("alice", job.id)
        assert ended(queue, job.id) == "done"
        running(queue, later.id)
        queue.skip("alice", later.id)
        assert ended(queue, later.id) == "done"


def test_other_owner_neither_sees_nor_stops_a_job(queue: JobQueue) -> None:
    job = queue.submit("alice", {})
    for attempt in (queue.cancel, queue.follow):
        with pytest.raises(NotFound):
            attempt("bob", job.id)
    with pytest.raises(NotFound):
        queue.get(job.id, "bob")
    assert queue.get(job.id, "alice").state == "queued" and queue.hub.watched() == set()


def test_job_whose_worker_dies_is_tried_once_more_and_then_failed(tmp_path: Path) -> None:
    with a_queue(tmp_path / "jobs.db", local()) as queue:
        deadly = queue.submit("alice", {"die": "SIGKILL"})
        (events,) = whole_story(queue, deadly.id)
        assert [event["type"] for event in events if event["type"] not in ("step", "image")] == [
            *("queued", "started", "queued", "started", "failed")
        ]
        job = queue.get(deadly.id)
        assert (job.state, job.tries, job.output) == ("failed", 2, {"images": [{"path": "0.png"}]})
        assert job.error and job.error["detail"].startswith("the worker died twice on this job")
        assert ended(queue, queue.submit("alice", {}).id) == "done"


def test_killed_worker_is_replaced_and_its_job_done_within_ten_seconds(tmp_path: Path) -> None:
    pid, go = tmp_path / "pid", tmp_path / "go"
    with a_queue(tmp_path / "jobs.db", local(pid)) as queue:
        job = queue.submit("alice", {"hold": str(go)})
        queue.start()
        running(queue, job.id)
        os.kill(int(pid.read_text()), signal.SIGKILL)
        until(lambda: queue.get(job.id).tries == 1)
        go.touch()
        assert ended(queue, job.id) == "done"


def test_killed_server_takes_its_worker_along_and_the_next_one_finishes_the_job(tmp_path: Path) -> None:
    """Twice: that is no fault of the job's."""
    database, pid, go = tmp_path / "jobs.db", tmp_path / "pid", tmp_path / "go"
    store = JobStore(database)
    job = store.submit("alice", {"hold": str(go)})
    waits = store.submit("alice", {})
    for lost in range(2):
        server = subprocess.Popen([sys.executable, "-S", FAKE, "server", database, pid], stdin=subprocess.PIPE)
        until(_has_saved(store, job.id, lost))
        server.kill()
        server.wait()
        assert server.stdin
        server.stdin.close()
        until(lambda: not _is_alive(int(pid.read_text())))
        assert store.get(job.id).state == "running"
    go.touch()
    with a_queue(database) as queue:
        queue.start()
        assert ended(queue, job.id) == ended(queue, waits.id) == "done"
        assert (queue.get(job.id).lost, queue.get(job.id).tries, queue.get(waits.id).lost) == (2, 0, 0)
    store.close()


def _has_saved(store: JobStore, job_id: str, lost: int) -> Callable[[], bool]:
    """Whether it saved a picture in the try after so many ends of the server."""

    def has_saved() -> bool:
        job = store.get(job_id)
        return job.lost == lost and job.state == "running" and bool((job.progress or {}).get("saved"))

    return has_saved


def _is_alive(pid: int) -> bool:
    """Not gone, and not a zombie whose new parent has yet to look."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_closing_puts_the_job_in_hand_back_without_blame(tmp_path: Path) -> None:
    go = tmp_path / "go"
    for executor in (local(), InlineExecutor(RUNNER)):
        with a_queue(tmp_path / "jobs.db", executor) as queue:
            job = queue.submit("alice", {"hold": str(go)})
            queue.start()
            running(queue, job.id)
        with a_queue(tmp_path / "jobs.db") as queue:
            assert (queue.get(job.id).state, queue.get(job.id).tries) == ("queued", 0)
            queue.cancel("alice", job.id)


def test_long_jobs_lease_is_renewed(tmp_path: Path) -> None:
    def lease() -> float:
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as db:
            return float(db.execute("SELECT lease_until FROM jobs").fetchone()[0])

    with a_queue(tmp_path / "jobs.db", lease_s=0.6) as queue:
        job = queue.submit("alice", {"hold": str(tmp_path / "go")})
        queue.start()
        running(queue, job.id)
        first = lease()
        until(lambda: lease() > first + 0.6)
        (tmp_path / "go").touch()
        assert ended(queue, job.id) == "done" and queue.get(job.id).tries == 0


def test_events_of_a_job_from_before_the_restart_are_its_end(tmp_path: Path) -> None:
    with a_queue(tmp_path / "jobs.db") as queue:
        job = queue.submit("alice", {})
        queue.start()
        ended(queue, job.id)
    with a_queue(tmp_path / "jobs.db") as queue:
        (event,) = asyncio.run(story(queue, job.id, after=3))
        assert (event["type"], event["output"], event["seq"]) == ("done", {"images": ["0.png"]}, 4)


def test_jobs_wait_in_the_queue_while_no_worker_is_ready(tmp_path: Path) -> None:
    with a_queue(
        tmp_path / "jobs.db", LocalExecutor([sys.executable, "-S", "-c", "raise SystemExit('no model')"])
    ) as queue:
        job = queue.submit("alice", {})
        queue.start()
        until(lambda: queue.status().state == "dead")
        assert "no model" in queue.status().detail
        assert (queue.get(job.id).state, queue.position(job.id)) == ("queued", 1)


def test_20_followers_who_drop_leave_no_thread_and_no_file_open(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with a_queue(tmp_path / "jobs.db", local()) as queue:
        queue.start()
        assert ended(queue, queue.submit("alice", {}).id) == "done"
        job = queue.submit("alice", {"hold": str(go)})
        running(queue, job.id)

        async def drop() -> None:
            tasks = [asyncio.create_task(story(queue, job.id)) for _ in range(20)]
            while len(queue.hub._channels[job.id].followers) < 20:
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        before = threading.active_count(), len(list(Path("/dev/fd").iterdir()))
        asyncio.run(drop())
        assert (threading.active_count(), len(list(Path("/dev/fd").iterdir()))) == before
        go.touch()
        assert ended(queue, job.id) == "done" and queue.hub.watched() == set()


def test_too_many_jobs_are_refused_and_the_rest_is_served(queue: JobQueue) -> None:
    jobs = [queue.submit("alice", {"steps": 1}) for _ in range(100)]
    with pytest.raises(QueueFull):
        queue.submit("alice", {"steps": 1})
    queue.start()
    assert {ended(queue, job.id) for job in jobs} == {"done"}


def test_queue_closed_before_it_was_started_just_closes(queue: JobQueue) -> None:
    queue.close()
