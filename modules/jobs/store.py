"""The job store: jobs, their progress and results, and saved images, in SQLite. Survives any process.

``queued -> running -> done | failed | cancelled``. A running job carries a lease that its server renews; a job whose
lease ran out, or whose server is known to be gone, is queued again.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modules.errors import NotFound, QueueFull, UserError, WorkerDied
from modules.jobs.protocol import GENERATE, SCRIPT, Json, upgraded
from modules.storage.database import Database

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
FINISHED = frozenset({DONE, FAILED, CANCELLED})
MAX_DEATHS = 2
MAX_LOST = 10
"""How many times a job survives the death of its server. One that kills every server must end eventually."""
SCRIPTS_EACH = 2
"""Scripts of one owner that run at once: one computes while the other draws. More would only block other owners."""

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        spec TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'queued',
        tries INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        worker TEXT,
        lease_until REAL,
        stop_asked INTEGER NOT NULL DEFAULT 0,
        progress TEXT,
        output TEXT,
        error TEXT
    );
    CREATE INDEX jobs_waiting ON jobs (owner, seq) WHERE state = 'queued';
    CREATE INDEX jobs_running ON jobs (lease_until) WHERE state = 'running';
    CREATE INDEX jobs_of_owner ON jobs (owner, seq);
    CREATE TABLE turns (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL);
    """,
    """
    CREATE TABLE pictures (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        path TEXT NOT NULL UNIQUE,
        created REAL NOT NULL
    );
    CREATE INDEX pictures_of_owner ON pictures (owner, number);
    INSERT OR IGNORE INTO pictures (job, owner, kind, path, created)
        SELECT jobs.id, jobs.owner, COALESCE(json_extract(jobs.spec, '$.kind'), jobs.kind),
            json_extract(jobs.output, image.fullkey || '.path'), COALESCE(jobs.finished, jobs.created)
        FROM jobs, json_each(jobs.output, '$.images') AS image
        WHERE jobs.output IS NOT NULL AND image.type = 'object'
            AND json_extract(jobs.output, image.fullkey || '.path') IS NOT NULL
        ORDER BY jobs.seq, image.key;
    """,
    """
    ALTER TABLE jobs ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE script_turns (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL);
    """,
)
"""Applied in order; ``PRAGMA user_version`` counts those a file has. Never edit one that was released: add the next."""

_HAS_WORD = """ AND (COALESCE(json_extract(spec, '$.params.prompt'), '') || char(10)
    || COALESCE(json_extract(spec, '$.params.negative_prompt'), '') || char(10)
    || COALESCE(json_extract(spec, '$.params.checkpoint'), '')) LIKE ? ESCAPE '!'"""
_NEXT_JOB = """
    SELECT jobs.id, jobs.owner FROM jobs LEFT JOIN turns ON turns.owner = jobs.owner
    WHERE state = 'queued' AND kind != 'script' ORDER BY COALESCE(turns.turn, 0), seq LIMIT 1
"""
_NEXT_SCRIPT = f"""
    SELECT jobs.id, jobs.owner FROM jobs LEFT JOIN script_turns AS turns ON turns.owner = jobs.owner
    WHERE state = 'queued' AND kind = 'script' AND jobs.owner NOT IN (
        SELECT owner FROM jobs WHERE state = 'running' AND kind = 'script'
        GROUP BY owner HAVING COUNT(*) >= {SCRIPTS_EACH}
    )
    ORDER BY COALESCE(turns.turn, 0), seq LIMIT 1
"""
_LINE = """
    SELECT jobs.id, jobs.owner FROM jobs LEFT JOIN turns ON turns.owner = jobs.owner
    WHERE state = 'queued' AND kind != 'script' ORDER BY COALESCE(turns.turn, 0), seq
"""
_SCRIPT_LINE = """
    SELECT jobs.id, jobs.owner FROM jobs LEFT JOIN script_turns AS turns ON turns.owner = jobs.owner
    WHERE state = 'queued' AND kind = 'script' ORDER BY COALESCE(turns.turn, 0), seq
"""
_TAKE_TURN = "INSERT OR REPLACE INTO turns SELECT ?, COALESCE(MAX(turn), 0) + 1 FROM turns"
_TAKE_SCRIPT_TURN = "INSERT OR REPLACE INTO script_turns SELECT ?, COALESCE(MAX(turn), 0) + 1 FROM script_turns"


@dataclass(frozen=True)
class Job:
    """A snapshot of a job's row. Times are seconds since the epoch."""

    id: str
    owner: str
    kind: str
    """One of `modules.jobs.protocol.KINDS`."""
    spec: Json
    """What was asked, for `modules.jobs.protocol.spec_from_json`."""
    state: str
    tries: int
    """How many times the worker that ran it died."""
    lost: int
    """How many times the server died or vanished while it ran: not the job's fault."""
    created: float
    started: float | None
    finished: float | None
    progress: Json | None
    """The last step (``step, steps, image, images, eta_s``), and ``saved``: the images made so far."""
    output: Json | None
    error: Json | None
    """``{error, detail, field, hint}`` of a failed job."""

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED


Jobs = list[Job]


@dataclass(frozen=True)
class HistoryImage:
    """An image that a job has saved."""

    number: int
    """Counts up in the order in which they were saved."""
    job: str
    kind: str
    """The tab that asked for it, or the job's kind: txt2img, img2img, inpaint, extras, replay, script."""
    path: str
    created: float
    """Seconds since the epoch."""


HistoryImages = list[HistoryImage]


class JobStore:
    """The jobs in one database file. Thread-safe; every call is one transaction."""

    def __init__(self, path: Path, *, limit: int = 1000, limit_per_owner: int = 100):
        self.path = path
        self.limit = limit
        self.limit_per_owner = limit_per_owner
        self._db = Database(path, MIGRATIONS, "the queue's database")

    # -- for the owner of a job

    def submit(self, owner: str, spec: Json, kind: str = GENERATE, job_id: str = "") -> Job:
        """Queue a job. Raises `QueueFull` if ``limit`` jobs wait in all, or ``limit_per_owner`` of this owner.

        With a ``job_id`` that the owner has already, that job is given and nothing is queued.
        """
        text = _checked_json(spec)
        with self._db.transaction() as db:
            if job_id and db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone():
                return _job(db, job_id, owner)
            job_id = job_id or secrets.token_hex(16)
            waiting, own = db.execute(
                "SELECT COUNT(*), COUNT(CASE WHEN owner = ? THEN 1 END) FROM jobs WHERE state = 'queued'", (owner,)
            ).fetchone()
            if own >= self.limit_per_owner:
                raise QueueFull(f"you have {own} jobs waiting already", hint="wait for some of them or cancel them")
            if waiting >= self.limit:
                raise QueueFull(f"{waiting} jobs wait already", hint="try again in a few minutes")
            db.execute(
                "INSERT INTO jobs (id, owner, kind, spec, created) VALUES (?, ?, ?, ?, ?)",
                (job_id, owner, kind, text, time.time()),
            )
            return _job(db, job_id)

    def cancel(self, owner: str | None, job_id: str) -> Job:
        """Cancel a queued job at once; for a running one set the flag that its worker polls. ``owner=None`` may
        cancel anybody's.
        """
        with self._db.transaction() as db:
            _job(db, job_id, owner)
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'",
                (time.time(), job_id),
            )
            db.execute("UPDATE jobs SET stop_asked = 1 WHERE id = ? AND state = 'running'", (job_id,))
            return _job(db, job_id)

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """Look up a job; `NotFound` alike for an unknown id and for another owner's, so that ids cannot be probed."""
        with self._db.transaction() as db:
            return _job(db, job_id, owner)

    def list(self, owner: str | None = None, limit: int = 50, states: Iterable[str] | None = None) -> Jobs:
        """Jobs, newest first; ``owner=None`` lists everybody's."""
        wanted = tuple(STATES if states is None else states)
        for state in wanted:
            if state not in STATES:
                raise UserError(f"no job state named {state!r}", hint=f"there are {', '.join(STATES)}", field="states")
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT * FROM jobs WHERE state IN ({marks}) AND (? IS NULL OR owner = ?) ORDER BY seq DESC LIMIT ?"
        with self._db.transaction() as db:
            return [_from_row(row) for row in db.execute(query, (*wanted, owner, owner, max(0, limit)))]

    def position(self, job_id: str) -> int:
        """The job's position in its queue: 1 is next, 0 means that it is not waiting. Scripts have a queue of their
        own.
        """
        return self.positions().get(job_id, 0)

    def positions(self) -> dict[str, int]:
        """The positions of all waiting jobs, in the order in which `claim` will take them.

        Of scripts that is the order as far as turns go: one whose owner has as many at work as may be waits longer.
        """
        with self._db.transaction() as db:
            lines = [db.execute(query).fetchall() for query in (_LINE, _SCRIPT_LINE)]
        return _places(lines[0]) | _places(lines[1])

    # -- what was made

    def images(
        self, owner: str, *, before: int = 0, after: int = 0, limit: int = 60, words: Sequence[str] = ()
    ) -> HistoryImages:
        """Images, newest first: older than number ``before``, or the next newer than ``after``; 0: the newest.

        ``words``: each is in a prompt or in the checkpoint's name of the image's job, A to Z in any case. Images of
        jobs that were forgotten are not found by words.
        """
        where, order = ("number > ?", "ASC") if after else ("number < ? OR ? = 0", "DESC")
        bounds = (after,) if after else (before, before)
        named = f" AND job IN (SELECT id FROM jobs WHERE owner = ?{_HAS_WORD * len(words)})" if words else ""
        sought = (owner, *map(_pattern, words)) if words else ()
        query = f"SELECT * FROM pictures WHERE owner = ? AND ({where}){named} ORDER BY number {order} LIMIT ?"
        with self._db.transaction() as db:
            found = [_history_image(row) for row in db.execute(query, (owner, *bounds, *sought, max(0, limit)))]
        return found[::-1] if after else found

    def count_images(self, owner: str) -> int:
        with self._db.transaction() as db:
            return int(db.execute("SELECT COUNT(*) FROM pictures WHERE owner = ?", (owner,)).fetchone()[0])

    def has_image(self, owner: str, path: str) -> bool:
        with self._db.reading() as db:
            query = "SELECT 1 FROM pictures WHERE owner = ? AND path = ? LIMIT 1"
            return db.execute(query, (owner, path)).fetchone() is not None

    def image(self, owner: str, number: int) -> HistoryImage:
        """Look up an image; `NotFound` alike for an unknown number and for another owner's."""
        row = None
        if 0 < number < 2**63:  # SQLite's integers
            with self._db.transaction() as db:
                row = db.execute("SELECT * FROM pictures WHERE number = ? AND owner = ?", (number, owner)).fetchone()
        if row is None:
            raise NotFound("there is no such picture", hint="it may have been deleted", field="number")
        return _history_image(row)

    def forget_image(self, owner: str, number: int) -> None:
        with self._db.transaction() as db:
            db.execute("DELETE FROM pictures WHERE number = ? AND owner = ?", (number, owner))

    # -- for the server that runs jobs

    def claim(self, worker: str, lease_s: float = 30.0, *, script: bool = False) -> Job | None:
        """Take the next job: the oldest of the owner who was served longest ago. None if nothing waits.

        ``script``: of those that need no worker, or of the others. Each kind has turns of its own, and of scripts an
        owner has at most ``SCRIPTS_EACH`` at work.
        """
        now = time.time()
        with self._db.transaction() as db:
            row = db.execute(_NEXT_SCRIPT if script else _NEXT_JOB).fetchone()
            if row is None:
                return None
            db.execute(_TAKE_SCRIPT_TURN if script else _TAKE_TURN, (row["owner"],))
            db.execute(
                "UPDATE jobs SET state = 'running', worker = ?, started = ?, lease_until = ?, progress = NULL"
                " WHERE id = ?",
                (worker, now, now + lease_s, row["id"]),
            )
            return _job(db, row["id"])

    def heartbeat(self, job_id: str, lease_s: float = 30.0) -> None:
        """Renew the lease of a running job."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE jobs SET lease_until = ? WHERE id = ? AND state = 'running'", (time.time() + lease_s, job_id)
            )

    def progress(self, job_id: str, progress: Json) -> None:
        with self._db.transaction() as db:
            db.execute(
                "UPDATE jobs SET progress = ? WHERE id = ? AND state = 'running'", (json.dumps(progress), job_id)
            )
            _note_images(db, job_id, progress.get("saved"))

    def finish(self, job_id: str, output: Json) -> Job:
        return self._end(job_id, DONE, output, None)

    def fail(self, job_id: str, error: Json, output: Json | None = None) -> Job:
        """Record a failure. ``output``: what was made before it."""
        return self._end(job_id, FAILED, output, error)

    def stopped(self, job_id: str, output: Json | None = None) -> Job:
        """Record that a job was cancelled while it ran. ``output``: what was made before."""
        return self._end(job_id, CANCELLED, output, None)

    def release(self, job_id: str) -> Job:
        """Requeue a running job because the server stops; this does not count as a failed attempt."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE jobs SET state = CASE stop_asked WHEN 1 THEN 'cancelled' ELSE 'queued' END, worker = NULL,"
                " lease_until = NULL, started = NULL, finished = CASE stop_asked WHEN 1 THEN ? END"
                " WHERE id = ? AND state = 'running'",
                (time.time(), job_id),
            )
            return _job(db, job_id)

    def died(self, job_id: str) -> Job:
        """Requeue a job whose worker died; the second time, fail it."""
        with self._db.transaction() as db:
            return _again(db, job_id, tries=1)

    def requeue_stale(self, is_gone: Callable[[str], bool] = lambda worker: False) -> Jobs:
        """Requeue running jobs whose lease ran out or whose server ``is_gone``; fail one that this happened to many
        times.
        """
        now = time.time()
        with self._db.transaction() as db:
            rows = db.execute("SELECT id, worker, lease_until FROM jobs WHERE state = 'running'").fetchall()
            stale = [row["id"] for row in rows if row["lease_until"] < now or is_gone(row["worker"])]
            return [_again(db, job_id, lost=1) for job_id in stale]

    def forget(self, before: float) -> int:
        """Delete jobs that ended before that time, in seconds since the epoch; returns their number. Images are
        kept.
        """
        with self._db.transaction() as db:
            return db.execute(
                "DELETE FROM jobs WHERE finished < ? AND state IN ('done', 'failed', 'cancelled')", (before,)
            ).rowcount

    def adopt(self, owner: str, new_owner: str) -> int:
        """Transfer everything of ``owner`` to ``new_owner``; returns the number of jobs."""
        with self._db.transaction() as db:
            db.execute("UPDATE pictures SET owner = ? WHERE owner = ?", (new_owner, owner))
            return db.execute("UPDATE jobs SET owner = ? WHERE owner = ?", (new_owner, owner)).rowcount

    def close(self) -> None:
        self._db.close()

    def _end(self, job_id: str, state: str, output: Json | None, error: Json | None) -> Job:
        with self._db.transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, finished = ?, lease_until = NULL, output = ?, error = ?"
                " WHERE id = ? AND state = 'running'",
                (state, time.time(), _dump(output), _dump(error), job_id),
            )
            _note_images(db, job_id, (output or {}).get("images"))
            return _job(db, job_id)


def _places(waiting: list[sqlite3.Row]) -> dict[str, int]:
    """Positions in a queue whose owners take turns, from rows in the order of their owners' next turn."""
    line: list[tuple[int, int, str]] = []  # (round, the owner's place in a round, id)
    place: dict[str, int] = {}
    taken: dict[str, int] = {}
    for row in waiting:
        owner = row["owner"]
        place.setdefault(owner, len(place))
        line.append((taken.get(owner, 0), place[owner], row["id"]))
        taken[owner] = taken.get(owner, 0) + 1
    return {job_id: n for n, (_, _, job_id) in enumerate(sorted(line), start=1)}


def _job(db: sqlite3.Connection, job_id: str, owner: str | None = None) -> Job:
    row = db.execute("SELECT * FROM jobs WHERE id = ? AND (? IS NULL OR owner = ?)", (job_id, owner, owner)).fetchone()
    if row is None:
        raise NotFound("no such job", hint="the list of jobs shows those you have", field="job_id")
    return _from_row(row)


def _note_images(db: sqlite3.Connection, job_id: str, images: Any) -> None:
    """Record a job's images that are not recorded yet. An older entry with the same path was of a file since
    replaced.
    """
    paths = [image["path"] for image in images or () if isinstance(image, dict) and image.get("path")]
    db.executemany(
        "DELETE FROM pictures WHERE path = ? AND owner != (SELECT owner FROM jobs WHERE id = ?)",
        [(path, job_id) for path in paths],
    )
    db.executemany(
        "INSERT OR IGNORE INTO pictures (job, owner, kind, path, created)"
        " SELECT id, owner, CASE kind WHEN 'generate' THEN"
        " COALESCE(json_extract(spec, '$.tab'), json_extract(spec, '$.kind'), kind) ELSE kind END, ?, ?"
        " FROM jobs WHERE id = ?"
        " AND NOT EXISTS (SELECT 1 FROM pictures WHERE path = ?)",
        [(path, time.time(), job_id, path) for path in paths],
    )


def _history_image(row: sqlite3.Row) -> HistoryImage:
    return HistoryImage(**{name: row[name] for name in ("number", "job", "kind", "path", "created")})


def _again(db: sqlite3.Connection, job_id: str, *, tries: int = 0, lost: int = 0) -> Job:
    """Requeue a job whose worker (``tries``) or server (``lost``) ended, or end it with what it had saved."""
    job = _job(db, job_id)
    (stop_asked,) = db.execute("SELECT stop_asked FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if job.kind != SCRIPT:  # it runs in the server itself and harms no process: taken up at every start
        job = replace(job, tries=job.tries + tries, lost=job.lost + lost)
    error = _too_often(job)
    state = CANCELLED if stop_asked else FAILED if error else QUEUED
    images = (job.progress or {}).get("saved")
    db.execute(
        "UPDATE jobs SET state = ?, tries = ?, lost = ?, finished = ?, error = ?, output = ?, worker = NULL,"
        " lease_until = NULL WHERE id = ? AND state = 'running'",
        (
            state,
            job.tries,
            job.lost,
            None if state == QUEUED else time.time(),
            _dump(error.as_json()) if error and state == FAILED else None,
            _dump({"images": images}) if images and state != QUEUED else None,
            job_id,
        ),
    )
    return _job(db, job_id)


def _too_often(job: Job) -> WorkerDied | None:
    if job.tries >= MAX_DEATHS:
        return WorkerDied(
            "the worker died twice on this job",
            hint="a smaller image or another model may fit into memory; the server's log has the worker's last words",
        )
    if job.lost >= MAX_LOST:
        return WorkerDied(
            f"the server ended {MAX_LOST} times while this job ran",
            hint="look into the log of the machine; start the job again once it keeps running",
        )
    return None


def _from_row(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        owner=row["owner"],
        kind=row["kind"],
        spec=upgraded(row["kind"], json.loads(row["spec"])),
        state=row["state"],
        tries=row["tries"],
        lost=row["lost"],
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        progress=_load(row["progress"]),
        output=_load(row["output"]),
        error=_load(row["error"]),
    )


def _checked_json(spec: Json) -> str:
    """Encode JSON without NaN, which Python would write and neither SQLite nor browsers read."""
    try:
        return json.dumps(spec, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request cannot be kept: {error}", hint="look for a number that is none") from error


def _dump(data: Json | None) -> str | None:
    return None if data is None else json.dumps(data)


def _load(text: str | None) -> Json | None:
    return None if text is None else json.loads(text)


def _pattern(word: str) -> str:
    """Of SQL's ``LIKE``, for a word anywhere.

    >>> _pattern("50%_!")
    '%50!%!_!!%'
    """
    return "%" + re.sub("([%_!])", r"!\1", word) + "%"
