"""What each route of our API is called, takes and answers, for the OpenAPI document and the clients made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from modules.jobs.protocol import KINDS, Json

TEXT: Json = {"type": "string"}
INTEGER: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
YES: Json = {"type": "boolean"}
OPEN: Json = {"type": "object", "additionalProperties": True}
NUMBERS_BY_NAME: Json = {"type": "object", "additionalProperties": INTEGER}
STATES = ("queued", "running", "done", "failed", "cancelled")


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def many(of: Json) -> Json:
    return {"type": "array", "items": of}


def maybe(of: Json) -> Json:
    """Perhaps null."""
    return (
        {**of, "type": [of["type"], "null"]} if isinstance(of.get("type"), str) else {"anyOf": [of, {"type": "null"}]}
    )


def fields(told: Mapping[str, Json], optional: Mapping[str, Json] | None = None, about: str = "") -> Json:
    """An object with these fields, ``told`` always and ``optional`` ones perhaps."""
    found: Json = {"type": "object", "properties": {**told, **(optional or {})}, "required": list(told)}
    return found | ({"description": about} if about else {})


_CARD = {
    **dict.fromkeys(("key", "kind", "name", "folder", "file"), TEXT),
    "bytes": INTEGER,
    "modified": NUMBER,
    "family": TEXT,
    "hash": maybe(TEXT),
    "weight": maybe(NUMBER),
    **dict.fromkeys(("insert", "negative", "option"), TEXT),
    "trigger_words": many(TEXT),
    "description": TEXT,
    "preview": maybe(TEXT),
    "problem": TEXT,
    "meant": maybe(TEXT),
}
_PICTURE_CHOICE = {
    "image": {**TEXT, "description": "in base64"},
    "job": TEXT,
    "index": INTEGER,
    "picture": INTEGER,
}
SCHEMAS: Mapping[str, Json] = MappingProxyType(
    {
        "Image": fields(
            {"name": TEXT, "url": TEXT, "infotext": TEXT, "width": INTEGER, "height": INTEGER},
            {"seed": maybe(INTEGER)},
            "a finished picture; its file is at url",
        ),
        "Progress": fields(
            {"step": INTEGER, "steps": INTEGER, "image": INTEGER, "images": INTEGER},
            {"eta_s": maybe(NUMBER)},
            "of the step that was told last; image counts from 1",
        ),
        "Difference": fields({"largest": INTEGER, "mean": NUMBER, "share": NUMBER}),
        "Verdict": fields(
            {
                "kind": {"type": "string", "enum": ["identical", "differs", "cannot"]},
                "reasons": many(TEXT),
                "difference": maybe(ref("Difference")),
                "remark": TEXT,
                "text": TEXT,
            },
            about="what came of making a picture again; text says it in a sentence",
        ),
        "Output": fields(
            {"images": many(ref("Image"))},
            {"notes": many(TEXT), "infotext": TEXT, "seconds": NUMBER, "verdict": maybe(ref("Verdict"))},
            "what a job has made so far",
        ),
        "Job": fields(
            {
                "id": TEXT,
                "kind": {"type": "string", "enum": list(KINDS)},
                "state": {"type": "string", "enum": list(STATES)},
                "position": {**INTEGER, "description": "place in the line: 1 is next, 0 does not wait"},
                "created": {**NUMBER, "description": "seconds since 1970"},
                "progress": maybe(ref("Progress")),
                "output": ref("Output"),
                "error": maybe(ref("Error")),
                "url": TEXT,
                "events": TEXT,
            },
            about="a job, how far it is and what came of it",
        ),
        "Jobs": fields({"jobs": many(ref("Job"))}),
        "JobAsked": fields(
            {"kind": {"type": "string", "enum": list(KINDS)}},
            {"params": OPEN, "pictures": many(OPEN), "inputs": many(OPEN), "script": TEXT, "options": OPEN},
            "a request as it was queued; sent again, it makes the same",
        ),
        "StoredInput": fields({"key": {**TEXT, "description": "the picture's SHA-256, its name in requests"}}),
        "Place": fields(
            {"id": TEXT, "owner": TEXT, "kind": TEXT, "state": TEXT, "position": INTEGER}, about="a job in the line"
        ),
        "Line": fields({"jobs": many(ref("Place"))}),
        "Stopped": fields({"id": TEXT}),
        "ReplayRequest": fields(
            {},
            {"image": {**TEXT, "description": "the file, in base64"}, "recipe": {"anyOf": [TEXT, OPEN]}},
            "one of the two",
        ),
        "ReplayBegun": fields({"job": maybe(TEXT), "verdict": maybe(ref("Verdict"))}),
        "ReplayState": fields(
            {"job": TEXT, "state": TEXT, "verdict": maybe(ref("Verdict")), "error": maybe(ref("Error"))}
        ),
        "Checkpoint": fields(
            {
                **dict.fromkeys(("name", "file", "family", "prediction"), TEXT),
                "zero_terminal_snr": maybe(YES),
                "native_size": INTEGER,
                "kind": TEXT,
                "preset": OPEN,
                "trigger_words": many(TEXT),
                **dict.fromkeys(("description", "notes"), TEXT),
                "bytes": INTEGER,
                "sha256": maybe(TEXT),
                "remarks": many(TEXT),
                "problem": TEXT,
            }
        ),
        "Models": fields({"checkpoints": many(ref("Checkpoint")), "vaes": many(TEXT)}),
        "Choices": {
            "type": "object",
            "additionalProperties": many(TEXT),
            "description": "by the name of a list in the schemas",
        },
        "Modifier": fields(
            {"name": TEXT, "label": TEXT, "help": TEXT, "options": {"type": "object", "additionalProperties": OPEN}},
            about="options: the JSON schema of each, by its name",
        ),
        "Modifiers": fields({"modifiers": many(ref("Modifier"))}),
        "Picture": fields(
            {"number": INTEGER, "job": TEXT, "kind": TEXT, "created": NUMBER, "url": TEXT, "small": TEXT}
        ),
        "History": fields({"count": INTEGER, "pictures": many(ref("Picture"))}),
        "Network": fields(
            _CARD, about="a card: insert is what a click on it writes into the prompt, or into the option of that name"
        ),
        "Networks": fields({"count": INTEGER, "unread": INTEGER, "networks": many(ref("Network"))}),
        "NetworkDetails": fields(
            {
                **_CARD,
                "user": OPEN,
                "facts": {"type": "object", "additionalProperties": {"anyOf": [TEXT, NUMBER]}},
                "tags": NUMBERS_BY_NAME,
                "metadata": OPEN,
                "embeddings": many(TEXT),
            }
        ),
        "NetworkEdit": fields(
            {},
            {
                **dict.fromkeys(("description", "notes", "family", "activation_text", "negative_text", "vae"), TEXT),
                "preferred_weight": NUMBER,
            },
            "what is to be changed",
        ),
        "PreviewChoice": fields(
            {}, _PICTURE_CHOICE, "one of the three: image; job with index; picture, a number of the history"
        ),
        "CheckpointPreview": fields(
            {},
            {**_PICTURE_CHOICE, "checkpoint": TEXT},
            "one of image; job with index; picture, a number of the history; for its own checkpoint or the one named",
        ),
        "PreviewKept": fields({"checkpoint": TEXT, "made_with": maybe(TEXT)}),
        "Segment": fields({"from": INTEGER, "to": INTEGER, "text": INTEGER}, about="text: its place in texts"),
        "PassOfPart": fields({"name": TEXT, "steps": INTEGER, "segments": many(ref("Segment"))}),
        "Part": fields({"text": TEXT, "weight": NUMBER, "column": INTEGER, "passes": many(ref("PassOfPart"))}),
        "Warning": fields({"column": maybe(INTEGER), "message": TEXT}),
        "ExplainedPrompt": fields(
            {
                "parts": many(ref("Part")),
                "texts": many(OPEN),
                "networks": many(OPEN),
                "warnings": many(ref("Warning")),
                "count": INTEGER,
                "limit": INTEGER,
            },
            about="which text holds at which step, its tokens and their weights, networks and what is odd",
        ),
        "Explanation": fields(
            {"prompt": ref("ExplainedPrompt"), "negative_prompt": ref("ExplainedPrompt"), "notes": many(TEXT)}
        ),
    }
)
"""The names that answers have in the document."""


@dataclass(frozen=True)
class Operation:
    """A route: what clients call it, the schema of what it answers, and that of its body."""

    name: str
    answer: str = ""
    body: str = ""
    media: tuple[str, ...] = ()
    """The types of what it answers where that is no JSON."""


_PICTURE = ("image/png", "image/jpeg", "image/webp")
OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "POST /explain": Operation("explain_prompt", "Explanation", "GenerationParams"),
        "POST /replay": Operation("replay_image", "ReplayBegun", "ReplayRequest"),
        "GET /replay/{job_id}": Operation("get_replay", "ReplayState"),
        "GET /pictures/{number}": Operation("get_picture", media=_PICTURE),
        "GET /pictures/{number}/small": Operation("get_small_picture", media=_PICTURE),
        "GET /queue": Operation("list_queue", "Line"),
        "POST /queue/{job_id}/cancel": Operation("cancel_queued_job", "Stopped"),
        "POST /inputs": Operation("store_input", "StoredInput"),
        "POST /jobs": Operation("submit_job", "Job"),
        "GET /jobs": Operation("list_jobs", "Jobs"),
        "GET /jobs/{job_id}": Operation("get_job", "Job"),
        "GET /jobs/{job_id}/request": Operation("get_job_request", "JobAsked"),
        "GET /jobs/{job_id}/events": Operation("follow_job", media=("text/event-stream",)),
        "GET /jobs/{job_id}/images/{name}": Operation("get_job_image", media=_PICTURE),
        "POST /jobs/{job_id}/cancel": Operation("cancel_job", "Job"),
        "POST /jobs/{job_id}/skip": Operation("skip_image", "Job"),
        "POST /jobs/{job_id}/finish": Operation("finish_job", "Job"),
        "GET /models": Operation("list_models", "Models"),
        "POST /models/preview": Operation("save_checkpoint_preview", "PreviewKept", "CheckpointPreview"),
        "GET /choices": Operation("list_choices", "Choices"),
        "GET /modifiers": Operation("list_modifiers", "Modifiers"),
        "GET /history": Operation("list_history", "History"),
        "GET /networks": Operation("list_networks", "Networks"),
        "GET /networks/{kind}/{key}": Operation("get_network", "NetworkDetails"),
        "POST /networks/{kind}/{key}": Operation("edit_network", "Network", "NetworkEdit"),
        "GET /networks/{kind}/{key}/preview": Operation("get_network_preview", media=("image/webp",)),
        "POST /networks/{kind}/{key}/preview": Operation("save_network_preview", "Network", "PreviewChoice"),
    }
)
"""By method and path below /api/v1."""


def described(operation: Json, about: Operation) -> Json:
    """An operation of FastAPI's document with its name, its body and what it answers."""
    if about.answer:
        content: Json = {"application/json": {"schema": ref(about.answer)}}
    else:
        whole: Json = (
            {"type": "string"} if about.media[0].startswith("text/") else {"type": "string", "format": "binary"}
        )
        content = {media: {"schema": whole} for media in about.media}
    answers = {
        status: {**answer, "content": content} if status.startswith("2") else answer
        for status, answer in operation["responses"].items()
    }
    found = {**operation, "operationId": about.name, "responses": answers}
    if about.body:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref(about.body)}}}
    return found
