"""Scripts as jobs: they submit jobs of their own, tell of them, stop with them, and go on after a restart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modules import builtin
from modules.errors import Cancelled, UserError
from modules.extension.host import Host
from modules.extension.script import Outcome, Round, ScriptContext, ScriptSpec, Sheet, Steps
from modules.gallery.outputs import Gallery
from modules.jobs.events import EventHub
from modules.jobs.executors.process import InlineExecutor
from modules.jobs.protocol import Origin
from modules.jobs.protocol import ScriptSpec as ScriptJob
from modules.jobs.queue import JobQueue
from modules.jobs.runners.script import AHEAD, Scripts
from modules.jobs.store import SCRIPTS_EACH, Job, JobStore
from modules.jobs.submit import submit as queue_up
from modules.jobs.worker import Emit, JobControl
from modules.metadata.image_text import read_metadata
from modules.params.generation import GenerationParams
from modules.params.options import option, values_of


@dataclass(frozen=True)
class Count:
    turns: int = option(2, "Turns", lo=1, hi=50)


def doubling(params: GenerationParams, options: Count, context: ScriptContext) -> Steps:
    """Each turn's steps are the seed that the last one gave."""
    outcomes: list[Outcome] = []
    for turn in range(options.turns):
        (outcome,) = yield Round([params.changed(seed=params.seed + turn)], of=options.turns)
        outcomes.append(outcome)
    return [Sheet([f"turn {n + 1}" for n in range(options.turns)], ("",), (outcomes,), facts={"Turns": "a: b"})]


def beside(params: GenerationParams, options: Count, context: ScriptContext) -> Steps:
    names = [f"steps {n + 1}" for n in range(options.turns)]
    outcomes = yield Round([params.changed(steps=n + 1) for n in range(options.turns)], names=names)
    return [Sheet(names, ("",), (outcomes,))]


def sulking(params: GenerationParams, options: Count, context: ScriptContext) -> Steps:
    raise UserError("there is nothing to do", field="turns")
    yield Round([params])


class Painter:
    """One picture a job, of its seed's colour; "slow" takes its time, odd steps of "odd" fail."""

    def __init__(self, gallery: Gallery):
        self.gallery = gallery
        self.calls: list[tuple[int, int]] = []

    def __call__(self, job_id: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
        params = GenerationParams.from_json(spec["params"])
        self.calls.append((params.seed, params.steps))
        emit({"type": "step", "step": 1, "steps": 2, "image": 1, "images": 1})
        if "slow" in params.prompt:
            time.sleep(0.05)
        while "endless" in params.prompt and params.steps > 1 and not control.interrupted():
            time.sleep(0.002)
        if "odd" in params.prompt and params.steps % 2:
            raise UserError("odd steps are not for me")
        image = Image.new("RGB", (16, 16), (params.seed % 256, params.steps % 256, 0))
        text = f"{params.prompt}\nSteps: {params.steps}, Seed: {params.seed}"
        saved = self.gallery.save(image, seed=params.seed, infotext=text, job=job_id)
        made = {"path": str(saved.path), "infotext": text, "seed": params.seed, "width": 16, "height": 16}
        emit({"type": "image", **made})
        if control.interrupted():
            raise Cancelled
        return {"images": [made], "notes": []}


def interrupting(params: GenerationParams, options: Count, context: ScriptContext) -> Steps:
    raise KeyboardInterrupt
    yield Round([params])


def a_host() -> Host:
    host = Host()
    builtin.register(host)
    for run in (doubling, beside, sulking, interrupting):
        host.add_script(ScriptSpec(run.__name__, run.__name__.capitalize(), Count, run))
    return host


@contextlib.contextmanager
def a_queue(folder: Path, painter: Painter | None = None, **more: Any) -> Iterator[JobQueue]:
    gallery = Gallery(folder / "outputs")
    context = ScriptContext(axes=dict, choices=lambda name: (), keep=lambda path: path.name)
    store = JobStore(folder / "jobs.db")
    executor = InlineExecutor(painter or Painter(gallery))
    queue = JobQueue(store, executor, EventHub(), scripts=Scripts(a_host(), gallery, context, **more))
    queue.start()
    try:
        yield queue
    finally:
        queue.close()
        store.close()


def until(true: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def run(queue: JobQueue, name: str, turns: int, prompt: str = "") -> Job:
    job = submit(queue, name, turns, prompt)
    until(lambda: queue.get(job.id).is_finished)
    return queue.get(job.id)


def submit(queue: JobQueue, name: str, turns: int, prompt: str = "", owner: str = "ann") -> Job:
    params = GenerationParams(prompt=prompt, seed=7, subseed=0)
    return queue_up(queue, owner, ScriptJob(name, values_of(Count(turns)), params, Origin("txt2img")))


def test_a_script_makes_its_jobs_and_a_sheet_of_what_they_made(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        job = run(queue, "beside", 3)
    assert job.state == "done" and job.output
    sheet, *cells = job.output["images"]
    assert [Image.open(cell["path"]).getpixel((0, 0)) for cell in cells] == [(7, 1, 0), (7, 2, 0), (7, 3, 0)]
    drawn = Image.open(sheet["path"])
    colours = {drawn.getpixel((x, drawn.height - 1 - y)) for x in range(drawn.width) for y in range(16)}
    assert {(7, 1, 0), (7, 2, 0), (7, 3, 0)} <= colours
    (matrix,) = job.output["sheets"]
    assert [[cell["path"] for cell in row] for row in matrix["cells"]] == [[cell["path"] for cell in cells]]
    assert matrix["columns"] == ["steps 1", "steps 2", "steps 3"]


def test_the_jobs_of_a_script_are_previewed_as_its_own_request_says(tmp_path: Path) -> None:
    origin = Origin("txt2img", "page", ("a note",), preview_every=0, preview_type="Full")
    with a_queue(tmp_path) as queue:
        params = GenerationParams(seed=7, subseed=0)
        job = queue_up(queue, "ann", ScriptJob("beside", values_of(Count(2)), params, origin))
        until(lambda: queue.get(job.id).is_finished)
        made = [Origin.from_json(one.spec) for one in queue.list("ann") if one.id != job.id]
    assert made == [Origin("txt2img", script=job.id, preview_every=0, preview_type="Full")] * 2


def test_a_turn_sees_what_the_turn_before_made(tmp_path: Path) -> None:
    painter = Painter(Gallery(tmp_path / "outputs"))
    with a_queue(tmp_path, painter) as queue:
        job = run(queue, "doubling", 3)
    assert [seed for seed, _ in painter.calls] == [7, 8, 9]
    assert job.output and 'Script: Doubling, Turns: "a: b"' in job.output["images"][0]["infotext"]
    assert "Script: Doubling" in (read_metadata(Path(job.output["images"][0]["path"]))["infotext"] or "")


def test_few_jobs_of_a_script_wait_at_once_and_others_come_in_between(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        job = submit(queue, "beside", 12, "slow")
        until(lambda: queue.list("ann", states=["queued"]))
        assert len(queue.list("ann", states=["queued", "running"])) <= AHEAD + 1
        other = queue.submit("bob", {"params": GenerationParams(seed=1, subseed=0).to_json()})
        until(lambda: queue.get(other.id).is_finished)
        assert not queue.get(job.id).is_finished


def test_a_cell_that_fails_is_told_and_the_others_are_made(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        job = run(queue, "beside", 4, "odd")
    assert job.state == "done" and job.output
    assert [note.partition(":")[0] for note in job.output["notes"]] == ["steps 1 failed", "steps 3 failed"]
    assert [cell["error"] != "" for cell in job.output["sheets"][0]["cells"][0]] == [True, False, True, False]


def test_stopping_a_script_stops_its_jobs_and_keeps_what_was_made(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        job = submit(queue, "beside", 40, "slow")
        until(lambda: (queue.get(job.id).progress or {}).get("saved"))
        queue.cancel("ann", job.id)
        until(lambda: queue.get(job.id).is_finished)
        ended = queue.get(job.id)
        until(lambda: not queue.list("ann", states=["queued", "running"]))
    assert ended.state == "cancelled" and ended.output
    assert 0 < len(ended.output["images"]) < 40


def test_interrupting_a_script_keeps_the_image_that_its_job_had_at_hand(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        job = submit(queue, "beside", 40, "endless")
        until(lambda: (queue.get(job.id).progress or {}).get("saved"))
        until(lambda: [one for one in queue.list("ann", states=["running"]) if one.kind == "generate"])
        queue.cancel("ann", job.id, keep=True)
        until(lambda: queue.get(job.id).is_finished)
        ended = queue.get(job.id)
        assert not queue.list("ann", states=["queued", "running"])
    assert ended.state == "cancelled" and ended.output
    assert [Path(image["path"]).is_file() for image in ended.output["images"]] == [True, True]


def test_a_script_goes_on_after_a_restart_and_makes_nothing_twice(tmp_path: Path) -> None:
    painter = Painter(Gallery(tmp_path / "outputs"))
    with a_queue(tmp_path, painter) as queue:
        job = submit(queue, "beside", 12, "slow")
        until(lambda: len(painter.calls) > 3)
    assert 3 < len(painter.calls) < 12
    with a_queue(tmp_path, painter) as queue:
        until(lambda: queue.get(job.id).is_finished)
        ended = queue.get(job.id)
    assert ended.state == "done" and ended.output
    assert len(ended.output["images"]) == 13
    steps = [steps for _, steps in painter.calls]
    assert sorted(set(steps)) == list(range(1, 13)) and len(steps) <= 13  # the one in hand may have begun anew


def test_the_jobs_steps_are_told_as_the_scripts_own(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        job = run(queue, "beside", 2)
        told = [event for event in queue.hub._channels[job.id].log if event["type"] == "step"]
    assert {event["images"] for event in told} == {2}


def test_requests_of_a_script_are_held_against_the_limits(tmp_path: Path) -> None:
    def most(params: GenerationParams) -> None:
        if params.steps > 2:
            raise UserError("this server takes at most 2 steps")

    with a_queue(tmp_path, check_limits=most) as queue:
        doubled = run(queue, "doubling", 3)  # the second round asks for more than the first
        assert doubled.output and any("at most 2 steps" in note for note in doubled.output["notes"])
        scripts = queue._scripts
        assert isinstance(scripts, Scripts)
        assert scripts.prepare("beside", {"turns": 2}, GenerationParams(seed=1, subseed=0)) == 2
        with pytest.raises(UserError, match="at most 2 steps"):
            scripts.prepare("beside", {"turns": 3}, GenerationParams(seed=1, subseed=0))


def test_options_that_make_no_sense_are_refused_before_anything_is_queued(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    scripts = Scripts(a_host(), gallery, ScriptContext(dict, lambda name: (), lambda path: ""))
    params = GenerationParams(seed=1, subseed=0)
    with pytest.raises(UserError, match="nothing to do"):
        scripts.prepare("sulking", {}, params)
    with pytest.raises(UserError, match="Turns must be between 1 and 50"):
        scripts.prepare("beside", {"turns": 0}, params)
    with pytest.raises(UserError, match="did you mean 'beside'"):
        scripts.prepare("besides", {}, params)
    assert scripts.prepare("beside", {"turns": 5}, params) == 5
    assert scripts.prepare("doubling", {"turns": 5}, params) == 5


def test_seventeen_long_scripts_of_one_owner_do_not_hold_anothers(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        long = [submit(queue, "beside", 50, "slow") for _ in range(17)]
        until(lambda: len(queue.list("ann", states=["queued", "running"])) > 17)
        short = submit(queue, "beside", 2, owner="bob")
        until(lambda: queue.get(short.id).is_finished)
        assert queue.get(short.id).state == "done"
        assert not any(queue.get(job.id).is_finished for job in long)
        assert sum(queue.get(job.id).state == "running" for job in long) == SCRIPTS_EACH
        for job in long:
            queue.cancel("ann", job.id)
        until(lambda: not queue.list("ann", states=["queued", "running"]))


def test_a_script_that_raises_an_interrupt_fails_alone(tmp_path: Path) -> None:
    with a_queue(tmp_path) as queue:
        job = run(queue, "interrupting", 2)
        assert job.error and job.error["detail"].startswith("something unexpected went wrong (KeyboardInterrupt)")
        assert run(queue, "beside", 2).state == "done"


def test_a_request_of_a_script_that_cannot_be_done_is_told_and_the_others_are_made(tmp_path: Path) -> None:
    """What a script makes of its options is checked like everybody's: steps end at 150."""

    def far(params: GenerationParams, options: Count, context: ScriptContext) -> Steps:
        outcomes = yield Round([params.changed(steps=n) for n in (1, 151, 2)], names=("one", "too many", "two"))
        return [Sheet([outcome.error for outcome in outcomes], ("",), (outcomes,))]

    with a_queue(tmp_path) as queue:
        assert isinstance(queue._scripts, Scripts)
        queue._scripts.host.add_script(ScriptSpec("far", "Far", Count, far))
        job = run(queue, "far", 1)
        children = [one for one in queue.list("ann") if one.kind == "generate"]
    assert (job.state, len(children)) == ("done", 2)
    assert job.output and len(job.output["images"]) == 3
    assert [note.partition(":")[0] for note in job.output["notes"]] == ["too many failed"]
