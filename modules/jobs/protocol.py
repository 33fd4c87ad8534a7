"""The data exchanged between page, queue and worker: job specs, events and outcomes.

Each is a frozen dataclass with ``to_json`` and ``from_json``. The queue, the pipe and the database carry the JSON and
look no further than a job's ``kind``; whoever makes or runs a job uses the classes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

from modules.errors import UserError
from modules.params.generation import ExtrasParams, GenerationParams

Kind = Literal["generate", "extras", "replay", "script"]
GENERATE: Kind = "generate"
EXTRAS: Kind = "extras"
REPLAY: Kind = "replay"
SCRIPT: Kind = "script"
KINDS: tuple[Kind, ...] = get_args(Kind)

Json: TypeAlias = dict[str, Any]
"""A JSON object: what the pipe, the database and the HTTP API carry."""


# ------------------------------------------------------------------------------------------------------------- specs


@dataclass(frozen=True)
class Origin:
    """Where a job was submitted. Nothing in it affects the images."""

    tab: str = ""
    """The tab that submitted it, an extension's too. It does not determine the job's kind."""
    page: str = ""
    """The visitor's page, as `webui.components.job_stream.page_of` names it."""
    notes: tuple[str, ...] = ()
    """What was changed in the request when it was checked."""
    script: str = ""
    """The id of the script job that submitted this one."""
    preview_every: int | None = None
    """Steps between previews, 0: none; None: as the owner of the server has it."""
    preview_type: str = ""
    """What previews are made with; "": as the owner of the server has it."""

    def noted(self, *notes: str) -> Origin:
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def to_json(self) -> Json:
        values = {"tab": self.tab, "page": self.page, "notes": list(self.notes), "script_job": self.script}
        values |= {"preview_type": self.preview_type}
        every = {} if self.preview_every is None else {"preview_every": self.preview_every}
        return {name: value for name, value in values.items() if value} | every

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Origin:
        """Read the origin of any kind of spec."""
        notes, every = spec.get("notes"), spec.get("preview_every")
        return cls(
            tab=_text(spec, "tab"),
            page=_text(spec, "page"),
            notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
            script=_text(spec, "script_job"),
            preview_every=every if isinstance(every, int) else None,
            preview_type=_text(spec, "preview_type"),
        )


@dataclass(frozen=True)
class InputImage:
    """An image in the `InputStore` under ``key``, with the name of its file and its infotext."""

    key: str
    name: str = ""
    infotext: str = ""

    def to_json(self) -> Json:
        return {"key": self.key, "name": self.name} | ({"infotext": self.infotext} if self.infotext else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputImage:
        return cls(_text(data, "key"), _text(data, "name"), _text(data, "infotext"))


@dataclass(frozen=True)
class GenerateSpec:
    """Generate images for ``params``; with ``inputs``, once for each of these as the init image."""

    kind: ClassVar[Kind] = GENERATE
    params: GenerationParams
    inputs: tuple[InputImage, ...] = ()
    origin: Origin = Origin()

    def to_json(self) -> Json:
        inputs = {"pictures": [one.to_json() for one in self.inputs]} if self.inputs else {}
        return {"kind": self.kind, **self.origin.to_json(), "params": self.params.to_json(), **inputs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        params = GenerationParams.from_json(_object(data, "params"))
        return cls(params, _inputs(data, "pictures"), Origin.from_json(data))


@dataclass(frozen=True)
class ExtrasSpec:
    """Postprocess (Extras) each of ``inputs``."""

    kind: ClassVar[Kind] = EXTRAS
    params: ExtrasParams
    inputs: tuple[InputImage, ...]
    origin: Origin = Origin()

    def to_json(self) -> Json:
        inputs = [one.to_json() for one in self.inputs]
        return {"kind": self.kind, **self.origin.to_json(), "params": self.params.to_json(), "inputs": inputs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        params = ExtrasParams.from_json(_object(data, "params"))
        return cls(params, _inputs(data, "inputs"), Origin.from_json(data))


@dataclass(frozen=True)
class ReplaySpec:
    """Replay a recorded image: the file at ``path``, or the one that ``recipe`` describes."""

    kind: ClassVar[Kind] = REPLAY
    path: str = ""
    recipe: str = ""
    origin: Origin = Origin()

    def to_json(self) -> Json:
        source = {"path": self.path} if self.path else {"recipe": self.recipe}
        return {"kind": self.kind, **self.origin.to_json(), **source}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        if not (_text(data, "path") or _text(data, "recipe")):
            raise UserError("the job names no picture to make again", hint="submit it anew", field="path")
        return cls(_text(data, "path"), _text(data, "recipe"), Origin.from_json(data))


@dataclass(frozen=True)
class ScriptSpec:
    """Run the script ``name`` over ``params``. Its jobs are submitted as if by ``origin.tab``."""

    kind: ClassVar[Kind] = SCRIPT
    name: str
    options: Mapping[str, Any]
    params: GenerationParams
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def to_json(self) -> Json:
        params, options = self.params.to_json(), dict(self.options)
        return {"kind": self.kind, **self.origin.to_json(), "script": self.name, "options": options, "params": params}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        params = GenerationParams.from_json(_object(data, "params"))
        return cls(_text(data, "script"), _object(data, "options"), params, Origin.from_json(data))


JobSpec: TypeAlias = GenerateSpec | ExtrasSpec | ReplaySpec | ScriptSpec
_SPECS: Mapping[str, type[JobSpec]] = MappingProxyType(
    {GENERATE: GenerateSpec, EXTRAS: ExtrasSpec, REPLAY: ReplaySpec, SCRIPT: ScriptSpec}
)


def spec_from_json(data: Mapping[str, Any]) -> JobSpec:
    """The inverse of ``to_json``; raises `UserError` for an invalid spec."""
    kind = str(data.get("kind"))
    if kind not in _SPECS:
        raise UserError(f"there is no kind of job named {kind[:40]!r}", hint=f"there are {', '.join(KINDS)}")
    return _SPECS[kind].from_json(data)


def upgraded(kind: str, spec: Json) -> Json:
    """Convert a spec stored by an older version to today's form. ``kind`` is that of its database row.

    Version 0.1 wrote the tab's name as the kind of a spec, which an extension's tab could take from replays, and the
    script's job under the name that a script has in its own spec.

    >>> upgraded("generate", {"kind": "replay", "params": {}})
    {'tab': 'replay', 'kind': 'generate', 'params': {}}
    """
    if kind not in KINDS or spec.get("kind") in (None, kind):
        return spec
    values = {"tab": spec["kind"], **spec, "kind": kind}
    if kind == GENERATE and "script" in values:
        values["script_job"] = values.pop("script")
    return values


# -------------------------------------------------------------------------------------------- events and outcomes


@dataclass(frozen=True)
class SavedImage:
    """A saved image, as named in events and outcomes."""

    path: str
    infotext: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None

    def to_json(self) -> Json:
        values = {"path": self.path, "infotext": self.infotext, "width": self.width, "height": self.height}
        return values if self.seed is None else values | {"seed": self.seed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        seed = data.get("seed")
        return cls(
            str(data["path"]),
            _text(data, "infotext"),
            int(data.get("width") or 0),
            int(data.get("height") or 0),
            seed if isinstance(seed, int) else None,
        )


@dataclass(frozen=True)
class Step:
    """Progress: a step of image ``image`` of ``images``, both counted from 1; ``preview`` is a JPEG."""

    type: ClassVar[str] = "step"
    step: int
    steps: int
    image: int
    images: int
    eta_s: float | None = None
    preview: bytes = b""

    def to_json(self) -> Json:
        values: Json = {name: getattr(self, name) for name in ("type", "step", "steps", "image", "images")}
        values |= {} if self.eta_s is None else {"eta_s": round(self.eta_s, 1)}
        return values | ({"preview": base64.b64encode(self.preview).decode("ascii")} if self.preview else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        step, steps, image, images = (int(data[name]) for name in ("step", "steps", "image", "images"))
        preview = data.get("preview") or b""
        preview = base64.b64decode(preview) if isinstance(preview, str) else preview
        return cls(step, steps, image, images, data.get("eta_s"), preview)


@dataclass(frozen=True)
class ImageEvent:
    """Event: an image was saved."""

    type: ClassVar[str] = "image"
    image: SavedImage

    def to_json(self) -> Json:
        return {"type": self.type, **self.image.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(SavedImage.from_json(data))


@dataclass(frozen=True)
class NoteEvent:
    """Event: a note for the user on how the request was carried out."""

    type: ClassVar[str] = "note"
    text: str

    def to_json(self) -> Json:
        return {"type": self.type, "text": self.text}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(str(data["text"]))


@dataclass(frozen=True)
class JobOutcome:
    """What a job has made. ``verdict`` is a replay's, ``sheets`` are a script's tables of images."""

    images: tuple[SavedImage, ...] = ()
    notes: tuple[str, ...] = ()
    infotext: str = ""
    """A generation's: that of the first image."""
    seconds: float | None = None
    verdict: Mapping[str, Any] | None = None
    sheets: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> Json:
        values: Json = {"images": [image.to_json() for image in self.images], "notes": list(self.notes)}
        values |= {"infotext": self.infotext} if self.infotext else {}
        values |= {} if self.seconds is None else {"seconds": round(self.seconds, 3)}
        values |= {} if self.verdict is None else {"verdict": dict(self.verdict)}
        return values | ({"sheets": [dict(sheet) for sheet in self.sheets]} if self.sheets else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            tuple(SavedImage.from_json(image) for image in data.get("images") or ()),
            tuple(map(str, data.get("notes") or ())),
            _text(data, "infotext"),
            data.get("seconds"),
            data.get("verdict"),
            tuple(data.get("sheets") or ()),
        )


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise UserError(f"the job has no {name}", hint="submit it anew", field=name)
    return value


def _inputs(data: Mapping[str, Any], name: str) -> tuple[InputImage, ...]:
    entries = data.get(name) or ()
    if not (isinstance(entries, (list, tuple)) and all(isinstance(entry, dict) for entry in entries)):
        raise UserError(f"{name} must be a list of objects", hint="submit the job anew", field=name)
    return tuple(InputImage.from_json(entry) for entry in entries)
