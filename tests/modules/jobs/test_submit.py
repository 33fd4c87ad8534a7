"""What is submitted is what was checked."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modules import builtin
from modules.errors import NotFound, UnknownName, UserError
from modules.extension.host import Host
from modules.extension.modifier import Modifier, ModifierSpec
from modules.gallery.inputs import InputStore
from modules.jobs.protocol import ExtrasSpec, GenerateSpec, InputImage, JobSpec, Origin, ReplaySpec, ScriptSpec
from modules.jobs.store import Job, JobStore
from modules.jobs.submit import Submitter, canonical
from modules.params.generation import ExtrasParams, GenerationParams, ModifierOptions
from modules.params.options import option


class Judge:
    """Scripts of which one exists."""

    def __init__(self) -> None:
        self.judged: list[GenerationParams] = []

    def prepare(self, name: str, options: Any, params: GenerationParams) -> int:
        if name != "grid":
            raise UnknownName(f"no script named {name!r}", field="script")
        self.judged.append(params)
        return 1


@dataclass(frozen=True)
class Pose:
    """Options that name a file."""

    model: str = option("", "Model", kind="file:poses")


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs.db")


@pytest.fixture
def submitter(tmp_path: Path, store: JobStore) -> Submitter:
    host = Host()
    builtin.register(host)
    return Submitter(store, host, InputStore(tmp_path / "inputs"), Judge())


ROUGH = GenerationParams(prompt="a fox", sampler="euler A", width=100, seed=-1, subseed=-1, subseed_strength=0.5)


def specs(key: str) -> list[JobSpec]:
    origin = Origin("txt2img", notes=("a remark of the tab",))
    return [GenerateSpec(ROUGH, (), origin), ScriptSpec("grid", {}, ROUGH, origin)]


def params_of(job: Job) -> GenerationParams:
    return GenerationParams.from_json(job.spec["params"])


def test_what_is_queued_is_canonical_with_its_seeds_fixed_and_says_what_was_changed(submitter: Submitter) -> None:
    for spec in specs(""):
        job = submitter("ann", spec)
        params = params_of(job)
        assert (params.sampler, params.width, job.kind) == ("Euler a", 96, spec.kind)
        assert params.seed >= 0 and params.subseed >= 0
        assert job.spec["notes"] == ["a remark of the tab", "width 100 was rounded to 96, a multiple of 8"]
        assert canonical(params, submitter.host) == (params, ())


def test_a_script_is_judged_by_the_request_that_is_queued(submitter: Submitter) -> None:
    job = submitter("ann", specs("")[1])
    assert isinstance(submitter.scripts, Judge)
    assert submitter.scripts.judged == [params_of(job)]


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (GenerateSpec(ROUGH.changed(sampler="Eule")), UserError),
        (GenerateSpec(ROUGH.changed(extensions=ModifierOptions({"absent": {}}))), UnknownName),
        (ScriptSpec("grid", {}, ROUGH.changed(steps=1000)), UserError),
        (ScriptSpec("other", {}, ROUGH), UnknownName),
        (ExtrasSpec(ExtrasParams(), ()), UserError),
        (ExtrasSpec(ExtrasParams(), (InputImage("ab" * 32),)), NotFound),
        (ExtrasSpec(ExtrasParams(upscaler="none of ours"), (InputImage("ab" * 32),)), UserError),
    ],
)
def test_what_cannot_be_done_is_not_queued(
    submitter: Submitter, store: JobStore, spec: JobSpec, error: type[Exception]
) -> None:
    with pytest.raises(error):
        submitter("ann", spec)
    assert store.list() == []


def test_files_are_looked_for_before_anything_is_queued(submitter: Submitter, store: JobStore, tmp_path: Path) -> None:
    def check_files(params: GenerationParams) -> None:
        if params.checkpoint == "lost":
            raise UnknownName("no checkpoint named 'lost'", field="checkpoint")

    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "open.pth").touch()
    host = submitter.host
    host.models = tmp_path
    host.add_modifier(ModifierSpec("posing", "Posing", Pose, lambda _: Modifier()))
    careful = replace(submitter, check_files=check_files)
    for spec in (
        GenerateSpec(ROUGH.changed(checkpoint="lost")),
        ScriptSpec("grid", {}, ROUGH.changed(checkpoint="lost")),
    ):
        with pytest.raises(UnknownName, match="lost"):
            careful("ann", spec)
    lost = ModifierOptions({"posing": {"model": "opne.pth"}})
    with pytest.raises(UserError, match=r"there is no file 'opne.pth' in poses; did you mean 'open.pth'\?") as refused:
        careful("ann", GenerateSpec(ROUGH.changed(extensions=lost)))
    assert refused.value.field == "extensions.posing.model"
    assert store.list() == []
    careful("ann", GenerateSpec(ROUGH.changed(extensions=ModifierOptions({"posing": {"model": "open.pth"}}))))


def test_pictures_to_enlarge_and_replays_are_queued_as_they_are(submitter: Submitter) -> None:
    key = submitter.inputs.put(Image.new("RGB", (8, 8)))
    for spec in (ExtrasSpec(ExtrasParams(), (InputImage(key, "a.png", "text"),)), ReplaySpec(recipe="{}")):
        job = submitter("ann", spec)
        assert (job.kind, job.spec) == (spec.kind, spec.to_json())


def test_a_script_goes_on_without_an_extension_that_was_switched_off_since(submitter: Submitter) -> None:
    """The engine makes the images without it and says so; here it only stays in the request."""
    params, _ = canonical(
        ROUGH.changed(extensions=ModifierOptions({"absent": {"amount": 1}})), submitter.host, absent=True
    )
    assert params.extensions == ModifierOptions({"absent": {"amount": 1}})
    assert params.sampler == "Euler a"


def test_nothing_else_puts_jobs_into_the_queue() -> None:
    root = Path(__file__).parents[3]
    files = [
        root / "app.py",
        *(path for part in ("modules", "webui", "extensions") for path in (root / part).rglob("*.py")),
    ]
    submits = {
        path.relative_to(root).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "submit"
        and ast.unparse(node.func.value).endswith(("queue", "store", "jobs"))
    }
    assert submits == {"modules/jobs/submit.py", "modules/jobs/queue.py"}
