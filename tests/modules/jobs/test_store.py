"""Jobs in SQLite."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.errors import NotFound, OutputError, QueueFull, RepriseError, UserError
from modules.jobs.store import MIGRATIONS, JobStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.db")
    yield store
    store.close()


def claimed(store: JobStore) -> str:
    job = store.claim("server")
    assert job is not None
    return job.id


def test_job_goes_from_queued_to_done(store: JobStore) -> None:
    job = store.submit("alice", {"prompt": "a fox", "seed": 1}, kind="generate")
    assert (job.state, job.spec, job.tries, job.started) == ("queued", {"prompt": "a fox", "seed": 1}, 0, None)
    running = store.claim("server")
    assert running is not None and (running.id, running.state) == (job.id, "running")
    store.progress(job.id, {"step": 3})
    assert store.get(job.id).progress == {"step": 3}
    done = store.finish(job.id, {"images": ["1.png"]})
    assert (done.state, done.output, done.error) == ("done", {"images": ["1.png"]}, None)
    assert done.finished and done.started and job.created <= done.started <= done.finished
    assert store.claim("server") is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.state = "queued"  # type: ignore[misc]


def test_owners_take_turns_and_each_owners_jobs_keep_their_order(store: JobStore) -> None:
    names = {store.submit(owner, {}).id: f"{owner}{n}" for owner in ("alice", "bob", "carol") for n in range(3)}
    claimed(store)
    claimed(store)
    names[store.submit("dave", {}).id] = "dave0"  # new: never served, so next
    promised = [names[job_id] for job_id in store.positions()]
    served = [names[claimed(store)] for _ in range(8)]
    assert served == ["carol0", "dave0", "alice1", "bob1", "carol1", "alice2", "bob2", "carol2"]
    assert promised == served


def test_positions_count_from_one_and_end_with_the_wait(store: JobStore) -> None:
    first, second = store.submit("alice", {}), store.submit("alice", {})
    other = store.submit("bob", {})
    assert [store.position(job.id) for job in (first, other, second)] == [1, 2, 3]
    claimed(store)
    assert [store.position(job.id) for job in (first, other, second)] == [0, 1, 2]


def test_other_owners_job_looks_like_none(store: JobStore) -> None:
    job = store.submit("alice", {})
    with pytest.raises(NotFound, match="no such job"):
        store.get(job.id, "bob")
    with pytest.raises(NotFound, match="no such job"):
        store.cancel("bob", job.id)
    with pytest.raises(NotFound, match="no such job"):
        store.get("unknown")
    assert store.get(job.id, "alice").state == "queued"
    assert store.list("bob") == []
    assert len({store.submit("alice", {}).id for _ in range(20)}) == 20 and len(job.id) == 32


def test_list_gives_the_newest_first_of_the_states_asked_for(store: JobStore) -> None:
    jobs = [store.submit("alice", {"n": n}) for n in range(4)]
    store.finish(claimed(store), {})
    assert [job.spec["n"] for job in store.list("alice", limit=2)] == [3, 2]
    assert [job.id for job in store.list("alice", states=["done"])] == [jobs[0].id]
    assert len(store.list(None)) == 4
    with pytest.raises(UserError, match="no job state named 'lost'"):
        store.list("alice", states=["lost"])


def test_queued_job_is_cancelled_at_once_and_a_running_one_only_notes_the_wish(store: JobStore) -> None:
    running, queued = store.submit("alice", {}), store.submit("alice", {})
    claimed(store)
    assert store.cancel("alice", queued.id).state == "cancelled"
    assert store.cancel("alice", running.id).state == "running"
    assert store.stopped(running.id, {"images": []}).state == "cancelled"
    assert store.finish(running.id, {"images": ["late"]}).output == {"images": []}  # an ended job stays as it is


def test_1500_submits_meet_the_limits_quickly(store: JobStore) -> None:
    refused, times = 0, list[float]()
    for n in range(1500):
        begin = time.perf_counter()
        try:
            store.submit(f"user {n % 12}", {"n": n})
        except QueueFull:
            refused += 1
        times.append(time.perf_counter() - begin)
    assert refused == 500 and sorted(times)[1425] < 0.2  # 95 of 100
    with pytest.raises(QueueFull, match="1000 jobs wait already; try again in a few minutes"):
        store.submit("somebody else", {})
    for _ in range(12):
        claimed(store)
    for _ in range(12):
        store.submit("somebody else", {})
    with pytest.raises(QueueFull):
        store.submit("somebody else", {})


def test_one_user_cannot_fill_the_queue(store: JobStore) -> None:
    for _ in range(100):
        store.submit("alice", {})
    with pytest.raises(QueueFull, match="you have 100 jobs waiting already; wait"):
        store.submit("alice", {})
    store.submit("bob", {})


def test_expired_lease_is_queued_again_and_the_workers_second_death_fails(store: JobStore) -> None:
    job = store.submit("alice", {})
    store.claim("server", lease_s=-1)
    store.heartbeat(job.id, 30)
    assert store.requeue_stale() == []
    store.heartbeat(job.id, -1)
    (again,) = store.requeue_stale()
    assert (again.id, again.state, again.lost, store.position(job.id)) == (job.id, "queued", 1, 1)
    store.claim("server")
    assert (store.died(job.id).state, store.get(job.id).tries) == ("queued", 1)
    store.claim("server")
    store.progress(job.id, {"step": 1, "saved": [{"path": "1.png"}]})
    dead = store.died(job.id)
    assert (dead.state, dead.tries, dead.output) == ("failed", 2, {"images": [{"path": "1.png"}]})
    assert dead.error and dead.error["error"] == "WorkerDied"
    assert dead.error["detail"].startswith("the worker died twice on this job")


def test_nine_deaths_of_the_server_cost_a_job_nothing_and_the_tenth_is_told_as_what_it_is(store: JobStore) -> None:
    job = store.submit("alice", {})
    for count in range(1, 10):
        claimed(store)
        (again,) = store.requeue_stale(lambda worker: worker == "server")
        assert (again.state, again.lost, again.tries) == ("queued", count, 0)
    claimed(store)
    assert store.died(job.id).state == "queued"  # the worker's first death is still its first
    claimed(store)
    (end,) = store.requeue_stale(lambda worker: True)
    assert end.state == "failed" and end.error
    assert end.error["detail"].startswith("the server ended 10 times while this job ran; look into the log")


def test_a_script_is_taken_up_again_however_often_the_server_ends(store: JobStore) -> None:
    job = store.submit("alice", {}, "script")
    for _ in range(30):
        assert store.claim("server", script=True)
        (again,) = store.requeue_stale(lambda worker: True)
        assert (again.id, again.state) == (job.id, "queued")


def test_seventeen_scripts_of_one_owner_leave_anothers_its_turn(store: JobStore) -> None:
    for _ in range(17):
        store.submit("alice", {}, "script")
    other = [store.submit("bob", {}, "script") for _ in range(3)]
    served = []
    while job := store.claim("server", script=True):
        served.append(job)
    assert [job.owner for job in served] == ["alice", "bob", "alice", "bob"]
    store.finish(served[1].id, {})
    more = store.claim("server", script=True)
    assert more and more.id == other[2].id
    assert store.claim("server", script=True) is None
    store.finish(served[0].id, {})
    following = store.claim("server", script=True)
    assert following and following.owner == "alice"


def test_scripts_and_pictures_cost_each_other_no_turn(store: JobStore) -> None:
    store.submit("alice", {}, "script")
    assert store.claim("server", script=True)
    first = store.submit("alice", {})
    store.submit("bob", {})
    assert claimed(store) == first.id


def test_a_database_of_the_version_before_keeps_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        for script in MIGRATIONS[:2]:
            db.executescript(script)
        db.execute("PRAGMA user_version = 2")
        db.execute("INSERT INTO jobs (id, owner, kind, spec, tries, created) VALUES ('j', 'alice', 'x', '{}', 1, 5.0)")
        db.commit()
    store = JobStore(path)
    assert (store.get("j").tries, store.get("j").lost) == (1, 0)
    assert claimed(store) == "j"
    store.close()


def test_a_picture_under_a_name_that_anothers_had_before_belongs_to_its_maker_alone(store: JobStore) -> None:
    for owner in ("alice", "bob"):  # alice's file was deleted by hand, and its number was given again
        store.submit(owner, {})
        store.finish(claimed(store), {"images": [{"path": "/o/00001.png"}]})
    assert store.has_image("bob", "/o/00001.png") and not store.has_image("alice", "/o/00001.png")


def test_a_number_that_is_none_is_refused_before_it_is_queued(store: JobStore) -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"the request cannot be kept: .*; look for a number that is none"):
            store.submit("alice", {"params": {"cfg_scale": [bad]}})
    assert store.list("alice") == []
    with pytest.raises(NotFound, match="no such picture"):
        store.image("alice", 10**23)


@pytest.mark.parametrize("ask", ["get", "images", "has_image", "submit"])
def test_what_the_database_cannot_be_asked_is_one_sentence(store: JobStore, ask: str) -> None:
    """10^23 and half a character, which SQLite's driver answers with errors of Python's own."""
    asked: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("\ud800"),
        "images": lambda: store.images("alice", before=10**23),
        "has_image": lambda: store.has_image("alice", "\udcff.png"),
        "submit": lambda: store.submit("\ud800", {}),
    }
    with pytest.raises(UserError, match=r"half a character|larger than any"):
        asked[ask]()
    assert store.submit("alice", {}).state == "queued"


def test_a_full_disk_is_told_as_a_full_disk_and_the_next_job_is_taken(store: JobStore) -> None:
    store.submit("alice", {})
    pages = store._db._db.execute("PRAGMA page_count").fetchone()[0]
    store._db._db.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite answers then is SQLITE_FULL
    with pytest.raises(OutputError, match=r"there is no room left for the queue's database jobs\.db; free some"):
        store.submit("alice", {"prompt": "x" * 100_000})
    store._db._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert store.submit("alice", {"prompt": "x" * 100_000}).state == "queued"


def test_a_commit_that_fails_leaves_no_transaction_open(store: JobStore) -> None:
    db = store._db._db
    db.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    db.execute("CREATE TABLE children (parent REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(OutputError, match="FOREIGN KEY constraint failed"), store._db.transaction() as within:
        within.execute("INSERT INTO children VALUES (7)")  # judged at the commit
    assert store.submit("alice", {}).state == "queued"
    assert db.execute("SELECT COUNT(*) FROM children").fetchone()[0] == 0


def test_job_whose_owner_wished_it_stopped_does_not_come_back(store: JobStore) -> None:
    for end in (store.died, store.release):
        job = store.submit("alice", {})
        claimed(store)
        store.cancel("alice", job.id)
        assert end(job.id).state == "cancelled" and store.get(job.id).finished


def test_released_job_lost_no_life(store: JobStore) -> None:
    job = store.submit("alice", {})
    claimed(store)
    assert (store.release(job.id).state, store.get(job.id).tries) == ("queued", 0)


def test_threads_claim_each_job_once(store: JobStore) -> None:
    for n in range(60):
        store.submit(f"user {n % 7}", {})
    taken: list[str] = []

    def work() -> None:
        while (job := store.claim("server")) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 60


def test_jobs_survive_the_process(tmp_path: Path) -> None:
    first = JobStore(tmp_path / "jobs.db")
    job = first.submit("alice", {"prompt": "ein Fuchs – 狐"})
    first.close()
    second = JobStore(tmp_path / "jobs.db")
    assert second.get(job.id) == job
    second.close()


def test_database_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    JobStore(path).close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RepriseError, match="newer version"):
        JobStore(path)


def test_file_that_is_no_database_gives_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(OutputError, match=r"jobs\.db cannot be opened"):
        JobStore(path)


def test_jobs_that_ended_long_ago_are_forgotten_and_their_pictures_stay(store: JobStore) -> None:
    old, new, waits = (store.submit("alice", {}) for _ in range(3))
    for job in (old, new):
        store.claim("server")
        store.finish(job.id, {"images": [{"path": f"/o/{job.id}.png"}]})
    between = store.get(new.id).finished
    assert between is not None
    assert store.forget(between) == 1
    assert [job.id for job in store.list("alice")] == [waits.id, new.id]
    assert store.count_images("alice") == 2


def test_a_script_that_waits_has_a_place_in_the_line_of_scripts(store: JobStore) -> None:
    alices = [store.submit("alice", {}, "script").id for _ in range(2)]
    bobs = store.submit("bob", {}, "script").id
    third = store.submit("alice", {}).id
    assert store.positions() == {alices[0]: 1, bobs: 2, alices[1]: 3, third: 1}
    served = []
    while job := store.claim("server", script=True):
        assert store.position(job.id) == 0
        served.append(job.id)
    assert served == [alices[0], bobs, alices[1]]
