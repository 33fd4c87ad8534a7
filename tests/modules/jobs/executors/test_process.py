"""Jobs in a process of their own, and inline."""

from __future__ import annotations

import logging
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.errors import WorkerDied
from modules.jobs.executors.process import (
    LOG_BURST,
    LOG_RATE,
    CancelFlag,
    Executor,
    InlineExecutor,
    JobFailed,
    LocalExecutor,
    LogAllowance,
    Stopped,
)

FAKE = Path(__file__).parents[1] / "fake_worker.py"
RUNNER = runpy.run_path(str(FAKE))["runner"]


def until(true: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def ready(executor: LocalExecutor, n: int = 1) -> LocalExecutor:
    executor.start()
    until(lambda: executor.slots() == n)
    return executor


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    executor = ready(LocalExecutor([sys.executable, "-S", str(FAKE)]))
    yield executor
    executor.close()


def told(executor: Executor, spec: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """What a job gives or how it fails, and its events."""
    events: list[dict[str, Any]] = []
    try:
        return executor.run("job", spec, CancelFlag(), events.append), events
    except JobFailed as error:
        return error.as_json(), events


def test_local_and_inline_give_the_same_outputs_and_events(local: LocalExecutor) -> None:
    inline = InlineExecutor(RUNNER)
    for n in range(17):
        steps, images = 1 + n % 5, 1 + n % 3
        output, events = told(local, {"seed": n, "steps": steps, "images": images})
        assert (output, events) == told(inline, {"seed": n, "steps": steps, "images": images})
        assert output["images"][0] == f"{n}.png" and len(events) == (steps + 1) * images
    for spec in ({"fail": "no"}, {"crash": "oh"}, {"crash": ""}):
        assert told(local, spec) == told(inline, spec)


def test_cancel_stops_the_job_and_keeps_its_images(local: LocalExecutor, tmp_path: Path) -> None:
    def stopped_after_an_image(executor: Executor) -> dict[str, Any]:
        flag = CancelFlag()
        with pytest.raises(Stopped) as stopped:
            executor.run("job", {"hold": str(tmp_path / "never")}, flag, lambda e: flag.set() if "path" in e else None)
        return stopped.value.output

    assert stopped_after_an_image(InlineExecutor(RUNNER)) == {"images": [{"path": "0.png"}]}
    assert stopped_after_an_image(local) == {"images": [{"path": "0.png"}]}
    assert told(local, {})[0] == {"images": ["0.png"]}


def test_flag_set_before_the_job_begins_stops_it(local: LocalExecutor, tmp_path: Path) -> None:
    flag = CancelFlag()
    flag.set()
    with pytest.raises(Stopped):
        local.run("job", {"hold": str(tmp_path / "never")}, flag, lambda event: None)


def test_callbacks_of_a_flag_are_called_once() -> None:
    flag, calls = CancelFlag(), list[str]()
    flag.when_set(lambda: calls.append("before"))
    flag.set()
    flag.set()
    flag.when_set(lambda: calls.append("after"))
    assert flag.is_set() and calls == ["before", "after"]


def test_every_skip_reaches_the_job_that_runs(local: LocalExecutor) -> None:
    for executor in (InlineExecutor(RUNNER), local):
        flag = CancelFlag()

        def on_event(event: dict[str, Any], flag: CancelFlag = flag) -> None:
            if event["type"] == "step":
                flag.skip()

        assert executor.run("job", {"steps": 3, "skips": 3}, flag, on_event) == {"images": ["0.png"]}
        assert flag.skips() == 3
    assert told(local, {"steps": 1})[0] == {"images": ["0.png"]}


def test_an_interrupt_reaches_the_job_that_runs_whose_partial_image_is_kept(local: LocalExecutor) -> None:
    for executor in (InlineExecutor(RUNNER), local):
        flag = CancelFlag()

        def on_event(event: dict[str, Any], flag: CancelFlag = flag) -> None:
            if event["type"] == "image":
                flag.interrupt()

        with pytest.raises(Stopped) as stopped:
            executor.run("job", {"partial": "half.png"}, flag, on_event)
        assert stopped.value.output == {"images": [{"path": "0.png"}, {"path": "half.png"}]}
        assert flag.is_interrupted() and not flag.is_set()
    assert told(local, {"steps": 1})[0] == {"images": ["0.png"]}


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV"])
def test_dead_worker_costs_one_job_and_another_starts(death: str, caplog: pytest.LogCaptureFixture) -> None:
    executor = ready(LocalExecutor([sys.executable, "-S", str(FAKE)]))
    with pytest.raises(WorkerDied, match=f"the worker was ended by {death} before the job was done"):
        told(executor, {"die": death})
    until(lambda: executor.slots() == 1)
    assert told(executor, {})[0] == {"images": ["0.png"]}
    executor.close()
    assert f"worker was ended by {death}" in caplog.text


def test_worker_that_dies_idle_is_replaced(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    executor = ready(LocalExecutor([sys.executable, "-S", str(FAKE), str(pid)]))
    first = pid.read_text()
    os.kill(int(first), signal.SIGKILL)
    until(lambda: pid.read_text() not in ("", first) and executor.status().state == "ready")
    assert told(executor, {})[0] == {"images": ["0.png"]}
    executor.close()


def test_workers_words_go_to_the_log(local: LocalExecutor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        told(local, {})
        until(lambda: "worker: a library prints to stdout" in caplog.text)


def test_flood_of_words_is_read_but_not_written_down(local: LocalExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """20 MB are no more than a burst in the log, and what is missing is told."""
    with caplog.at_level(logging.INFO):
        assert told(local, {"flood": 360, "endless": 1_000_000})[0] == {"images": ["0.png"]}
        told(local, {})
    assert len(caplog.text) < 2 * LOG_BURST


def test_log_allowance_is_a_burst_and_then_so_much_a_second() -> None:
    now = [0.0]
    allowance = LogAllowance(lambda: now[0])
    admitted = sum(950 for _ in range(300_000) if allowance.admits(950))  # 285 MB at once, with what stands before
    assert admitted == LOG_BURST * 0.95
    assert allowance.settle() == 285_000_000 - admitted and allowance.settle() == 0
    now[0] = LOG_BURST / 4 / LOG_RATE - 1  # a word now and then would not hang together
    assert not allowance.admits(1)
    now[0] += 1
    assert allowance.admits(1) and allowance.settle() == 1
    for _ in range(86_400):
        now[0] += 1
        admitted += sum(950 for _ in range(3) if allowance.admits(950))
    assert admitted <= 2 * LOG_BURST + 86_400 * LOG_RATE


def test_what_a_process_could_not_say_is_counted_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    printer = "import sys; sys.stderr.write('a line of twenty ch\\n' * 100_000)"
    executor = LocalExecutor([sys.executable, "-S", "-c", printer])
    with caplog.at_level(logging.INFO):
        executor.start()
        until(lambda: "are not in this log" in caplog.text)
        executor.close()
    written = caplog.text.count("a line of twenty ch")
    assert 20 * written < LOG_BURST
    assert f"worker: {2_000_000 - 20 * written:,} bytes that it printed are not in this log" in caplog.text


def test_interrupt_within_a_job_costs_that_job_alone(local: LocalExecutor) -> None:
    for executor in (InlineExecutor(RUNNER), local):
        error, _ = told(executor, {"interrupt": True})
        assert error["detail"].startswith("something unexpected went wrong (KeyboardInterrupt)")
        assert told(executor, {})[0] == {"images": ["0.png"]}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/no/such/program"], "the worker does not start: "),
        ([sys.executable, "-S", "-c", "import nothing_of_that_name"], "ModuleNotFoundError: No module named"),
    ],
)
def test_command_that_does_not_work_is_explained_in_the_status(command: list[str], reason: str) -> None:
    executor = LocalExecutor(command)
    assert executor.status().state == "starting"
    executor.start()
    until(lambda: executor.status().state == "dead")
    assert reason in executor.status().detail and executor.slots() == 0
    executor.close()


def test_status_is_busy_during_a_job(local: LocalExecutor, tmp_path: Path) -> None:
    until(lambda: local.status().state == "ready")
    spec = {"hold": str(tmp_path / "go")}
    thread = threading.Thread(target=lambda: told(local, spec))
    thread.start()
    until(lambda: local.status().state == "busy")
    (tmp_path / "go").touch()
    thread.join()
    until(lambda: local.status().state == "ready")


def test_each_command_is_a_slot(tmp_path: Path) -> None:
    command = [sys.executable, "-S", str(FAKE)]
    executor = ready(LocalExecutor(command, command), 2)
    go, outputs = tmp_path / "go", list[Any]()
    threads = [
        threading.Thread(
            target=lambda n=n: outputs.append(told(executor, {"touch": str(tmp_path / n), "hold": str(go)}))
        )
        for n in "ab"
    ]
    for thread in threads:
        thread.start()
    until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())  # both at the same time
    go.touch()
    for thread in threads:
        thread.join()
    assert len(outputs) == 2
    executor.close()
