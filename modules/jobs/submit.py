"""The only way into the queue: checks a request, makes it canonical, fixes its seeds, and submits it.

Tabs, extensions' tabs, scripts, the HTTP API and the command line all come through here, so nothing else is submitted
than what was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.option_values import check_there
from modules.gallery.inputs import InputStore
from modules.jobs.protocol import ExtrasSpec, GenerateSpec, JobSpec, Json, ScriptSpec
from modules.jobs.store import Job
from modules.params.generation import GenerationParams, ModifierOptions
from modules.pipeline import postprocess as extras
from modules.pipeline.plan import check, fix_seeds


class Queue(Protocol):
    """The part of `JobQueue` that accepts jobs."""

    def submit(self, owner: str, spec: Json, kind: str = ..., job_id: str = ...) -> Job: ...


class Scripts(Protocol):
    """The part of `modules.jobs.runners.script.Scripts` that checks options."""

    def prepare(self, name: str, options: Mapping[str, Any], params: GenerationParams) -> int: ...


@dataclass(frozen=True)
class Submitter:
    """Prepares and submits job specs, checked against the tables of ``host``. ``inputs`` holds the images of Extras."""

    queue: Queue
    host: Host
    inputs: InputStore
    scripts: Scripts
    check_files: Callable[[GenerationParams], None] = lambda params: None
    """Raises for a request whose model files a worker could not use."""

    def __call__(self, owner: str, spec: JobSpec) -> Job:
        """The job in the queue. `UserError` for what cannot be done, `QueueFull` when too many wait."""
        return submit(self.queue, owner, self.prepared(spec))

    def prepared(self, spec: JobSpec) -> JobSpec:
        """Check ``spec`` and return it as it will be queued; raises `UserError` for what cannot be done."""
        if isinstance(spec, GenerateSpec):
            spec = generation(spec, self.host)
            self._check_files(spec.params)
            return spec
        if isinstance(spec, ScriptSpec):
            params, notes = canonical(spec.params, self.host)
            self._check_files(params)
            if spec.name in self.host.scripts:
                script = self.host.scripts.get(spec.name)
                check_there([script], {spec.name: spec.options}, self._picture, self.host.models)
            self.scripts.prepare(spec.name, spec.options, params)
            return replace(spec, params=params, origin=spec.origin.noted(*notes))
        if isinstance(spec, ExtrasSpec):
            extras.check(spec.params, self.host)
            if not spec.inputs:
                raise UserError("there is no picture to work on", hint="choose one first", field="inputs")
            for image in spec.inputs:
                self.inputs.path(image.key)
        return spec

    def _check_files(self, params: GenerationParams) -> None:
        """Whether the pictures and files that a request names are there, and the models can be loaded."""
        self.check_files(params)
        if init := params.init:
            for image in init.images:
                self.inputs.path(image)
            if init.mask:
                self.inputs.path(init.mask.image, field="init.mask.image")
        check_there(self.host.modifiers, params.extensions, self._picture, self.host.models)

    def _picture(self, sha256: str, field: str) -> None:
        self.inputs.path(sha256, field=field)


def submit(queue: Queue, owner: str, spec: JobSpec, job_id: str = "") -> Job:
    """Queue a prepared spec."""
    return queue.submit(owner, spec.to_json(), spec.kind, job_id)


def canonical(
    params: GenerationParams, host: Host, *, absent: bool = False
) -> tuple[GenerationParams, tuple[str, ...]]:
    """``params`` in canonical form: in range, names resolved, seeds fixed; and notes on what was changed.

    ``absent``: modifiers that the host lacks stay as they were asked for, and the engine says why they take no part.
    """
    unknown = {name: chosen for name, chosen in params.extensions.items() if absent and name not in host.modifiers}
    known = ModifierOptions({name: chosen for name, chosen in params.extensions.items() if name not in unknown})
    params, notes = check(params.changed(extensions=known), host)
    params = fix_seeds(params)
    return params.changed(extensions=ModifierOptions({**params.extensions, **unknown})), notes


def generation(spec: GenerateSpec, host: Host, *, absent: bool = False) -> GenerateSpec:
    """A generate spec in canonical form, with its notes; ``absent`` as in `canonical`."""
    params, notes = canonical(spec.params, host, absent=absent)
    return replace(spec, params=params, origin=spec.origin.noted(*notes))
