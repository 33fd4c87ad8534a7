"""A hook that ends the worker, or does not come back, is known afterwards, and its job is done without it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modules.jobs.watchdog import SLOW_EXIT, HookWatch, read_failures
from modules.jobs.worker import JobControl
from modules.pipeline.hooks import HookFailed

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, sys, time
from pathlib import Path
from modules.jobs.watchdog import HookWatch
from modules.jobs.worker import JobControl

watch = HookWatch(Path(sys.argv[1]), limit_s=0.3)

def job(job_id, spec, emit, control):
    if spec.get("calls"):
        watch.enter("patient", "network")
        watch.enter("", "")
        time.sleep(0.8)
        watch.leave()
        watch.leave()
        return {}
    watch.enter("deadly", "finish")
    if spec["how"] == "exit":
        os._exit(9)
    if spec["how"] == "signal":
        os.kill(os.getpid(), 11)
    while True:
        time.sleep(0.01)

print(watch.watched(job)("job1", {"how": sys.argv[2], "calls": sys.argv[2] == "calls"}, print, JobControl()))
"""


def run(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), how]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("how", "code"), [("exit", 9), ("signal", -11), ("hang", SLOW_EXIT)])
def test_extension_that_ended_the_worker_is_left_out_of_that_job_alone(tmp_path: Path, how: str, code: int) -> None:
    assert run(tmp_path, how).returncode == code
    watch = HookWatch(tmp_path)
    failure = read_failures(tmp_path / "failures.json")["deadly"]
    assert (failure["hook"], failure["jobs"]) == ("finish", ["job1"])
    assert ("longer than 0.3 s" in failure["reason"]) == (how == "hang")
    told = watch.watched(lambda job_id, spec, emit, control: dict(watch.crashed()))
    assert list(told("job1", {}, lambda event: None, JobControl())) == ["deadly"]
    assert told("job2", {}, lambda event: None, JobControl()) == {}
    assert watch.crashed() == {}


def test_time_that_the_engine_takes_within_a_hook_is_not_the_extensions(tmp_path: Path) -> None:
    done = run(tmp_path, "calls")
    assert (done.returncode, done.stdout.strip()) == (0, "{}"), done.stderr
    assert read_failures(tmp_path / "failures.json") == {}


def test_failures_in_a_hook_are_kept_with_their_traceback(tmp_path: Path) -> None:
    watch = HookWatch(tmp_path)
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as error:
        watch.failed(HookFailed("mine", "revise", error))
    kept = read_failures(tmp_path / "failures.json")["mine"]
    assert kept["reason"] == "ZeroDivisionError: by nothing"
    assert "test_watchdog.py" in kept["traceback"]
    assert kept["jobs"] == []


def test_who_is_at_work_when_the_server_goes_is_not_blamed(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from modules.jobs.watchdog import HookWatch
from modules.jobs.worker import serve

def build(report):
    watch = HookWatch(Path(sys.argv[1]))
    def job(job_id, spec, emit, control):
        watch.enter("innocent", "finish")
        emit({"type": "note", "text": "within"})
        time.sleep(60)
    return watch.watched(job)

sys.exit(serve(build))
"""
    worker = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin and worker.stdout
    worker.stdin.write(b'{"type": "run", "job": "job1", "spec": {}}\n')
    worker.stdin.flush()
    while b"within" not in worker.stdout.readline():
        assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(60) == 1
    worker.stdout.close()
    HookWatch(tmp_path)
    assert read_failures(tmp_path / "failures.json") == {}


def test_failures_that_cannot_be_read_now_are_kept_and_joined_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = HookWatch(tmp_path)
    watch._record("first", "finish", "it fell", "", "job0")
    read, path = Path.read_bytes, tmp_path / "failures.json"

    def fail(path: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "read_bytes", fail)
    watch._record("second", "patch", "it fell", "", "job1")
    told = watch.watched(lambda job_id, spec, emit, control: dict(watch.crashed()))
    assert list(told("job1", {}, print, JobControl())) == ["second"]
    monkeypatch.setattr(Path, "read_bytes", read)
    assert list(read_failures(path)) == ["first"]
    watch._record("first", "finish", "it fell again", "", "job2")
    kept = read_failures(path)
    assert {name: one["jobs"] for name, one in kept.items()} == {"first": ["job0", "job2"], "second": ["job1"]}


def test_a_list_of_failures_that_is_broken_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "failures.json").write_text('{"old": ')
    watch = HookWatch(tmp_path)
    watch._record("new", "finish", "it fell", "", "job1")
    assert (tmp_path / "failures.json.bad").read_text() == '{"old": '
    assert list(read_failures(tmp_path / "failures.json")) == ["new"]


def test_a_failures_words_have_an_end(tmp_path: Path) -> None:
    watch = HookWatch(tmp_path)
    try:
        raise ValueError("x" * 1_000_000)
    except ValueError as error:
        watch.failed(HookFailed("mine", "finish", error))
    assert (tmp_path / "failures.json").stat().st_size < 25_000


def test_three_workers_start_at_once_and_no_one_is_blamed_for_another(tmp_path: Path) -> None:
    """The second and third start while the first is within a hook; when it dies there, its own successor says so."""
    first = HookWatch(tmp_path, "worker1")
    first.enter("busy", "finish")
    others = [HookWatch(tmp_path, name) for name in ("worker2", "worker3")]
    assert read_failures(tmp_path / "failures.json") == {}
    for other in others:
        other.enter("quick", "finish")
        other.leave()
    HookWatch(tmp_path, "worker2")
    assert read_failures(tmp_path / "failures.json") == {}
    HookWatch(tmp_path, "worker1")
    assert list(read_failures(tmp_path / "failures.json")) == ["busy"]
    first.leave()  # who stays in a hook for long ends this process


def test_failures_of_several_workers_at_once_are_all_kept(tmp_path: Path) -> None:
    watches = [HookWatch(tmp_path, f"worker{n}") for n in range(3)]

    def fail(number: int) -> None:
        for turn in range(10):
            watches[number].failed(HookFailed(f"extension{number}{turn}", "finish", ValueError("no")))

    threads = [threading.Thread(target=fail, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_failures(tmp_path / "failures.json")) == 30


def test_extension_that_keeps_memory_of_each_picture_is_named_after_the_third(tmp_path: Path) -> None:
    """The program's own growth is not laid at its door, and neither is what it lets go of again."""
    watch, kept, engines = HookWatch(tmp_path), list[bytes](), list[bytes]()
    said = []
    for _ in range(4):
        watch.enter("patient", "finish")
        watch.enter("", "")
        engines.append(b"\1" * 50_000_000)
        watch.leave()
        watch.leave()
        watch.enter("leaks", "finish")
        kept.append(b"\1" * 50_000_000)
        watch.leave()
        said.append(watch.made())
    assert [bool(sentence) for sentence in said] == [False, False, True, False]
    assert said[2].startswith("extension leaks: it keeps about 4")
    assert read_failures(tmp_path / "failures.json").keys() == {"leaks"}
    kept.clear()
    engines.clear()
    for _ in range(4):  # a large picture that comes and goes
        watch.enter("large", "finish")
        picture = b"\1" * 50_000_000
        watch.leave()
        del picture
        assert watch.made() == ""
