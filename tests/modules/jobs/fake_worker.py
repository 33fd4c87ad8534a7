"""A worker without a model: the spec says what it does. Also a server with a queue, to be killed.

``python fake_worker.py [pid file]``, ``python fake_worker.py server DATABASE PID_FILE``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from modules.errors import Cancelled, UserError
from modules.jobs.worker import Emit, JobControl, Report, Runner, serve


def runner(job_id: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
    print("a library prints to stdout")
    sys.stdout.flush()
    if "fail" in spec:
        raise UserError(spec["fail"], hint="use another", field="sampler")
    if "interrupt" in spec:
        raise KeyboardInterrupt
    for _ in range(spec.get("flood", 0)):
        os.write(2, b"an extension prints this line again and again and again\n" * 1000)
    if "endless" in spec:
        os.write(2, b"x" * spec["endless"])
    if "crash" in spec:
        raise ZeroDivisionError(spec["crash"])
    names = []
    for image in range(spec.get("images", 1)):
        for step in range(1, spec.get("steps", 2) + 1):
            if control.cancelled():
                raise Cancelled
            emit({"type": "step", "step": step, "steps": spec.get("steps", 2), "image": image, "preview": b"\xff\xd8"})
        names.append(f"{spec.get('seed', 0) + image}.png")
        emit({"type": "image", "path": names[-1]})
    if "touch" in spec:
        Path(spec["touch"]).touch()
    if "die" in spec:
        os.kill(os.getpid(), getattr(signal, spec["die"]))
    while "hold" in spec and not Path(spec["hold"]).exists():
        if control.cancelled():
            raise Cancelled
        time.sleep(0.002)
    while "partial" in spec and not control.interrupted():
        time.sleep(0.002)
    if "partial" in spec:
        emit({"type": "image", "path": spec["partial"]})
        raise Cancelled
    while control.skips() < spec.get("skips", 0):
        time.sleep(0.002)
    return {"images": names}


def build(report: Report) -> Runner:
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(str(os.getpid()))
    return runner


def server(database: str, pid_file: str) -> None:
    from modules.jobs.events import EventHub
    from modules.jobs.executors.process import LocalExecutor
    from modules.jobs.queue import JobQueue
    from modules.jobs.store import JobStore

    command = [sys.executable, "-S", __file__, pid_file]
    queue = JobQueue(JobStore(Path(database)), LocalExecutor(command), EventHub())
    queue.start()
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1:2] == ["server"]:
        server(*sys.argv[2:])
    else:
        sys.exit(serve(build))
