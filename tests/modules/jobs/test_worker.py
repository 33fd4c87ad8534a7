"""The worker's side of the pipe."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.errors import CheckpointError
from modules.jobs.worker import Emit, JobControl, Report, Runner, by_kind, run_job, serve

FAKE = Path(__file__).with_name("fake_worker.py")


def talk(*commands: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything a worker process says to ``commands`` and the end of input."""
    lines = "".join(json.dumps(command) + "\n" for command in commands)
    result = subprocess.run([sys.executable, "-S", FAKE], input=lines, capture_output=True, text=True, timeout=20)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_worker_says_what_it_does_in_json_lines_whatever_libraries_print() -> None:
    process = subprocess.Popen(
        [sys.executable, "-S", FAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    for spec in ({"steps": 1, "seed": 7}, {"fail": "no such sampler"}, {"crash": "oh"}):
        process.stdin.write(json.dumps({"type": "run", "job": "a", "spec": spec}) + "\n")
    process.stdin.flush()
    said: list[dict[str, Any]] = []
    while len([message for message in said if message.get("state") == "ready"]) < 4:
        said.append(json.loads(process.stdout.readline()))
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 0 and "a library prints to stdout" in stderr and "ZeroDivisionError: oh" in stderr
    assert [message.get("state", message["type"]) for message in said] == [
        *("loading", "ready"),
        *("busy", "event", "event", "done", "ready"),
        *("busy", "failed", "ready"),
        *("busy", "failed", "ready"),
    ]
    events = [message["event"] for message in said if message["type"] == "event"]
    assert events[0]["preview"] == "/9g=" and events[1] == {"type": "image", "path": "7.png"}
    errors = [message["error"] for message in said if message["type"] == "failed"]
    assert errors[0] == {
        "error": "UserError",
        "detail": "no such sampler; use another",
        "field": "sampler",
        "hint": "use another",
    }
    assert errors[1]["detail"] == "something unexpected went wrong (ZeroDivisionError: oh); the log has more"


def test_worker_ends_when_its_input_ends_in_the_middle_of_a_job(tmp_path: Path) -> None:
    messages = talk({"type": "run", "job": "a", "spec": {"hold": str(tmp_path / "never"), "steps": 1}})
    assert messages[-1]["type"] in ("status", "cancelled")


def test_quit_comes_before_jobs_that_wait(tmp_path: Path) -> None:
    hold = {"hold": str(tmp_path / "never")}
    messages = talk(*({"type": "run", "job": n, "spec": hold} for n in "abc"), {"type": "quit"})
    assert len([message for message in messages if message.get("state") == "busy"]) <= 1


def test_model_that_cannot_be_loaded_is_said_before_the_end() -> None:
    def build(report: Report) -> Runner:
        raise CheckpointError("model.safetensors is truncated", hint="copy it again")

    out = io.BytesIO()
    assert serve(build, io.BytesIO(b'{"type": "quit"}\n'), out) == 1
    last = json.loads(out.getvalue().splitlines()[-1])
    assert last == {"type": "status", "state": "dead", "detail": "model.safetensors is truncated; copy it again"}


def test_output_that_is_not_json_fails_the_job_alone() -> None:
    def runner(job_id: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
        return {"image": object()}

    message = run_job(runner, "a", {}, lambda event: None, JobControl())
    assert message["type"] == "failed" and "TypeError" in message["error"]["detail"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has the thresholds")
def test_large_blocks_are_reused_instead_of_mapped_anew() -> None:
    code = (
        "import resource, sys; from modules.jobs.worker import JobControl, keep_freed_memory\n"
        "if sys.argv[1] == 'keep': assert keep_freed_memory()\n"
        "bytearray(40 << 20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3): bytearray(40 << 20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = {
        how: int(subprocess.run([sys.executable, "-S", "-c", code, how], capture_output=True, check=True).stdout)
        for how in ("plain", "keep")
    }
    assert faults["keep"] < faults["plain"] / 10


def test_a_job_goes_to_the_runner_of_its_kind() -> None:
    runner = by_kind({"replay": lambda *_: {"by": "replay"}}, lambda *_: {"by": "all others"})
    for spec, expected in (({"kind": "replay"}, "replay"), ({"kind": "txt2img"}, "all others"), ({}, "all others")):
        assert runner("job", spec, lambda _: None, JobControl()) == {"by": expected}


def test_what_is_not_a_number_is_nothing_when_it_leaves_the_worker() -> None:
    """Browsers and SQLite read no NaN, which Python writes."""

    def runner(job_id: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
        emit({"type": "step", "eta_s": float("inf")})
        return {"images": [{"path": "1.png", "seconds": float("nan")}]}

    events: list[dict[str, Any]] = []
    last = run_job(runner, "job", {}, events.append, JobControl())
    assert events == [{"type": "step", "eta_s": None}]
    assert last["output"] == {"images": [{"path": "1.png", "seconds": None}]}


def test_a_job_for_which_memory_runs_out_is_told_so_in_one_sentence() -> None:
    def runner(job: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
        raise RuntimeError("CUDA out of memory. Tried to allocate 96.00 GiB. GPU 0 has a total capacity of 79.19 GiB")

    last = run_job(runner, "a", {}, lambda event: None, JobControl())
    assert last["error"]["error"] == "OutOfMemory"
    assert last["error"]["detail"] == "the card has too little memory for this; make the picture or the batch smaller"


def test_a_job_that_fails_unexpectedly_names_no_folder(tmp_path: Path) -> None:
    def runner(job: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
        return {"read": (tmp_path / "absent.png").read_bytes()}

    told = run_job(runner, "a", {}, lambda event: None, JobControl())["error"]["detail"]
    assert "FileNotFoundError: No such file or directory: 'absent.png'" in told and str(tmp_path) not in told


def test_a_job_whose_settings_could_not_be_read_says_so_at_once_and_at_its_end() -> None:
    from modules.jobs.runners.generate import noted

    def runner(job_id: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
        emit({"type": "step", "step": 1, "steps": 1, "image": 1, "images": 1})
        return {"images": [], "notes": ["another"]}

    events: list[dict[str, Any]] = []
    output = noted(runner, "settings.json cannot be read")("job", {}, events.append, JobControl())
    assert events[0] == {"type": "note", "text": "settings.json cannot be read"}
    assert output["notes"] == ["settings.json cannot be read", "another"]
