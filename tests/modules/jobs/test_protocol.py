"""Job specs, events and outcomes come back from JSON as they went, and those of version 0.1 are still read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from modules.errors import UserError
from modules.jobs.protocol import (
    ExtrasSpec,
    GenerateSpec,
    ImageEvent,
    InputImage,
    JobOutcome,
    JobSpec,
    NoteEvent,
    Origin,
    ReplaySpec,
    SavedImage,
    ScriptSpec,
    Step,
    spec_from_json,
    upgraded,
)
from modules.jobs.store import JobStore
from modules.params.generation import ExtrasParams, GenerationParams, Init

RECORDED = Path(__file__).parents[2] / "fixtures" / "data-0.1" / "reprise.sql"
ORIGIN = Origin("txt2img", "txt2img:0123", ("width 100 was rounded to 96",))
PARAMS = GenerationParams(prompt="a fox", seed=3, subseed=0, init=Init(image="ab"))
SPECS: tuple[JobSpec, ...] = (
    GenerateSpec(PARAMS, (InputImage("k", "a.png"),), ORIGIN),
    GenerateSpec(PARAMS, origin=Origin("img2img", script="the script's job", preview_every=0, preview_type="Full")),
    ExtrasSpec(ExtrasParams(by=2.0), (InputImage("k", "a.png", "a fox\nSteps: 1"),), ORIGIN),
    ReplaySpec(path="/data/inputs/x"),
    ReplaySpec(recipe="{}", origin=ORIGIN),
    ScriptSpec("xyz_grid", {"x_values": "1, 2"}, PARAMS, ORIGIN),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_a_spec_comes_back_from_its_json(spec: JobSpec) -> None:
    data = json.loads(json.dumps(spec.to_json()))
    assert spec_from_json(data) == spec
    assert data["kind"] == spec.kind
    assert Origin.from_json(data) == spec.origin


@pytest.mark.parametrize(
    ("thing", "read"),
    [
        (Step(2, 20, 1, 4, 1.5, b"\xff\xd8 a JPEG"), Step.from_json),
        (Step(2, 20, 1, 4), Step.from_json),
        (ImageEvent(SavedImage("/o/1.png", "a fox", 64, 72, 5)), ImageEvent.from_json),
        (NoteEvent("width 100 was rounded to 96"), NoteEvent.from_json),
        (JobOutcome((SavedImage("/o/1.png"),), ("a note",), "a fox", 1.25), JobOutcome.from_json),
        (JobOutcome(verdict={"kind": "identical"}, seconds=0.5), JobOutcome.from_json),
        (JobOutcome(sheets=({"title": "t", "cells": []},)), JobOutcome.from_json),
    ],
)
def test_what_a_worker_tells_comes_back_from_its_json(thing: Any, read: Callable[[Mapping[str, Any]], Any]) -> None:
    assert read(json.loads(json.dumps(thing.to_json()))) == thing


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "txt2img", "params": {}},
        {"kind": "generate"},
        {"kind": "generate", "params": []},
        {"kind": "generate", "params": {}, "pictures": "x"},
        {"kind": "extras", "params": {}, "inputs": [1]},
        {"kind": "replay"},
        {"kind": "script", "params": {}},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_in_a_sentence(data: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        spec_from_json(data)


def test_every_job_of_version_0_1_is_read() -> None:
    """The kind of a spec was the tab's name then; the row's own was right."""
    pattern = re.compile(r"""INSERT INTO "jobs" VALUES\(\d+,'(\w+)','\w*','(\w+)','((?:[^']|'')*)'""")
    read: dict[str, tuple[str, JobSpec]] = {}
    for name, kind, text in pattern.findall(RECORDED.read_text(encoding="utf-8")):
        read[name] = kind, spec_from_json(upgraded(kind, json.loads(text.replace("''", "'"))))
    assert len(read) > 15
    assert all(spec.kind == kind for kind, spec in read.values())
    tabs = {spec.origin.tab for kind, spec in read.values() if kind == "generate"}
    assert tabs >= {"txt2img", "img2img", "inpaint"}
    many = [spec for _, spec in read.values() if isinstance(spec, GenerateSpec) and spec.inputs]
    assert many and all(spec.params.init for spec in many)
    scripts = [name for name, (kind, _) in read.items() if kind == "script"]
    assert {spec.origin.script for _, spec in read.values()} - {""} <= {*scripts}
    assert any(spec.origin.script for _, spec in read.values())


@pytest.mark.parametrize("tab", ["replay", "extras", "script", "generate"])
def test_no_tab_takes_a_job_of_another_kind(tmp_path: Path, tab: str) -> None:
    """Neither a job of today nor one of version 0.1, whose spec had the tab's name as its kind."""
    store = JobStore(tmp_path / "jobs.db")
    new = store.submit("ann", GenerateSpec(PARAMS, origin=Origin(tab)).to_json())
    old = store.submit("ann", {"kind": tab, "params": PARAMS.to_json()})
    for job in (new, old):
        assert (job.kind, job.spec["kind"]) == ("generate", "generate")
        assert isinstance(spec_from_json(job.spec), GenerateSpec)
        assert store.claim("server")
        store.finish(job.id, {"images": [{"path": f"/o/{job.id}.png"}]})
    assert {image.kind for image in store.images("ann")} == {tab}
    store.close()
