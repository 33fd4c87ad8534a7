"""What was made, as the history lists it."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest
from PIL import Image

from modules.errors import NotFound
from modules.jobs.history import THUMBNAIL, History
from modules.jobs.store import MIGRATIONS, JobStore


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(JobStore(tmp_path / "jobs.db"), tmp_path / "outputs", tmp_path / "thumbnails")


def saved(history: History, *names: str, owner: str = "alice", size: tuple[int, int] = (64, 48)) -> str:
    """A job that has saved pictures of these names, the first ones while it ran; its id."""
    history.outputs.mkdir(exist_ok=True)
    job = history.store.submit(owner, {"kind": "txt2img", "params": {}})
    history.store.claim("server")
    images = []
    for name in names:
        Image.new("RGB", size, "teal").save(history.outputs / name)
        images.append({"path": str(history.outputs / name)})
        history.store.progress(job.id, {"saved": images})
    history.store.finish(job.id, {"images": images})
    return job.id


def test_every_picture_is_listed_once_newest_first_and_to_its_owner_alone(history: History) -> None:
    first = saved(history, "1.png", "2.png")
    saved(history, "3.png", owner="bob")
    saved(history, "4.png")
    found = history.page("alice")
    assert [Path(one.path).name for one in found] == ["4.png", "2.png", "1.png"]
    assert [one.job for one in found[1:]] == [first, first]
    assert {one.kind for one in found} == {"txt2img"}
    assert (history.count("alice"), history.count("bob"), history.count("carol")) == (3, 1, 0)
    (bobs,) = history.page("bob")
    for ask in (history.find, history.file, history.thumbnail, history.delete):
        with pytest.raises(NotFound):
            ask("alice", bobs.number)
    assert Path(bobs.path).is_file()


def test_a_job_that_was_stopped_or_failed_keeps_what_it_had_saved(history: History) -> None:
    for end in (history.store.stopped, lambda job, output: history.store.fail(job, {"detail": "oh"}, output)):
        job = history.store.submit("alice", {"kind": "img2img"})
        history.store.claim("server")
        end(job.id, {"images": [{"path": str(history.outputs / f"{job.id}.png")}]})
    assert [one.kind for one in history.page("alice")] == ["img2img", "img2img"]


def test_pages_go_back_and_forth_through_ten_thousand_pictures(history: History) -> None:
    job = history.store.submit("alice", {"kind": "txt2img"})
    history.store.claim("server")
    history.store.finish(job.id, {"images": [{"path": f"/outputs/{n}.png"} for n in range(10_000)]})
    saved(history, "another.png", owner="bob")
    seen, page = [], history.page("alice", limit=600)
    while page:
        seen += [Path(one.path).stem for one in page]
        page = history.page("alice", before=page[-1].number, limit=600)
    assert seen == [str(n) for n in reversed(range(10_000))]
    newest = history.page("alice", limit=60)
    older = history.page("alice", before=newest[-1].number, limit=60)
    assert history.page("alice", after=older[0].number, limit=60) == newest
    with history.store._db.reading() as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM pictures WHERE owner = 'alice' AND (number < 9 OR 9 = 0)"
            " ORDER BY number DESC LIMIT 60"
        ).fetchall()
    assert all("SCAN" not in row["detail"] and "TEMP B-TREE" not in row["detail"] for row in plan)


def test_a_small_copy_is_made_once_and_anew_for_another_file(history: History) -> None:
    saved(history, "1.png", size=(1200, 600))
    (one,) = history.page("alice")
    small = history.thumbnail("alice", one.number)
    with Image.open(small) as image:
        assert (image.format, image.size) == ("WEBP", (THUMBNAIL, THUMBNAIL // 2))
    stamp = small.stat().st_mtime_ns
    assert history.thumbnail("alice", one.number) == small
    assert small.stat().st_mtime_ns == stamp
    time.sleep(0.01)
    Image.new("RGB", (100, 400)).save(one.path)
    with Image.open(history.thumbnail("alice", one.number)) as image:
        assert image.size == (64, 256)


def test_deleting_removes_file_entry_and_small_copy(history: History) -> None:
    saved(history, "1.png", "2.png")
    newest, _ = history.page("alice")
    small = history.thumbnail("alice", newest.number)
    history.delete("alice", newest.number)
    assert [Path(one.path).name for one in history.page("alice")] == ["1.png"]
    assert not Path(newest.path).exists()
    assert not small.exists()
    (other,) = history.page("alice")
    Path(other.path).unlink()  # somebody tidied up by hand
    with pytest.raises(NotFound):
        history.thumbnail("alice", other.number)
    history.delete("alice", other.number)
    assert history.count("alice") == 0


def test_a_picture_outside_of_the_outputs_is_not_shown(history: History, tmp_path: Path) -> None:
    job = history.store.submit("alice", {"kind": "txt2img"})
    history.store.claim("server")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    history.store.finish(job.id, {"images": [{"path": str(secret)}]})
    (one,) = history.page("alice")
    with pytest.raises(NotFound):
        history.file("alice", one.number)
    with pytest.raises(NotFound):
        history.delete("alice", one.number)
    assert secret.exists()


def test_a_database_of_before_tells_of_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    old.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1;")
    rows = [
        ({"kind": "inpaint"}, {"images": [{"path": "/o/1.png"}, {"path": "/o/2.png"}]}),
        ({}, {"images": ["of another form"]}),
        ({}, None),
        ({"kind": "txt2img"}, {"images": [{"path": "/o/3.png"}]}),
    ]
    for n, (spec, output) in enumerate(rows):
        old.execute(
            "INSERT INTO jobs (id, owner, kind, spec, state, created, finished, output) VALUES (?,?,?,?,?,?,?,?)",
            (f"{n}", "alice", "generate", json.dumps(spec), "done", n, n, json.dumps(output) if output else None),
        )
    old.commit()
    old.close()
    found = JobStore(path).images("alice")
    assert [(one.path, one.kind) for one in found] == [
        ("/o/3.png", "txt2img"),
        ("/o/2.png", "inpaint"),
        ("/o/1.png", "inpaint"),
    ]
