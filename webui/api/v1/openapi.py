"""The OpenAPI document, its schemas made of the declared options, and a page that shows it without any network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from html import escape
from typing import Any, cast

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse

from modules.jobs.protocol import Json
from modules.params.generation import ExtrasParams, GenerationParams
from modules.params.options import Option, nested_of, options_of
from webui.api.v1.answers import OPERATIONS, SCHEMAS, described, ref

PREFIX = "/api/v1"


class TAGS:
    """Under which heading a route stands."""

    jobs = "Jobs"
    files = "Files and choices"
    tools = "Tools"


EXAMPLES: Mapping[str, Json] = {
    "picture": {
        "summary": "A picture from text",
        "value": {"params": {"prompt": "a red fox in the snow", "steps": 20, "width": 512, "height": 512, "seed": 1}},
    },
    "from a picture": {
        "summary": "A picture from a picture",
        "value": {
            "params": {
                "prompt": "a fox at night",
                "init": {"image": "data:image/png;base64,...", "denoising_strength": 0.6},
            }
        },
    },
    "larger": {
        "summary": "A picture made larger",
        "value": {
            "kind": "extras",
            "params": {"upscaler": "Lanczos", "by": 2},
            "inputs": [{"image": "data:image/png;base64,...", "name": "fox.png"}],
        },
    },
}
REQUEST: Json = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}, "examples": EXAMPLES}},
    }
}
INPUT: Json = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Input"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "contentMediaType": "application/octet-stream"}},
                }
            },
        },
    }
}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema_of(cls: type) -> Json:
    """The JSON schema of a dataclass of declared options; each group within is another one, or null."""
    properties = {name: _property(option) for name, option in options_of(cast(Hashable, cls)).items()}
    for name, group in nested_of(cast(Hashable, cls)).items():
        one = {"$ref": f"#/components/schemas/{group.cls.__name__}"}
        properties[name] = {"anyOf": [one, {"type": "null"}], "default": None, "title": group.label}
    return {
        "type": "object",
        "title": cls.__name__,
        "description": (cls.__doc__ or "").strip(),
        "properties": properties,
    }


def _property(option: Option) -> Json:
    kind: Any = TYPES[option.type]
    found: Json = {
        "type": [kind, "null"] if option.optional else kind,
        "title": option.label,
        "default": option.default,
    }
    told = [option.help] if option.help else []
    if isinstance(option.choices, tuple):
        found["enum"] = list(option.choices)
    elif isinstance(option.choices, str):
        told.append(f"one of the list {option.choices} of GET /api/v1/choices")
    if option.kind in ("image", "mask"):
        told.append("a stored picture by its SHA-256, or a picture as a data URL")
    elif option.kind:
        told.append(f"one of the list {option.kind} of GET /api/v1/choices")
    found |= {"x-kind": option.kind} if option.kind else {}
    if told:
        found["description"] = "; ".join(told)
    found |= {"minimum": option.lo} if option.lo is not None else {}
    return found | ({"maximum": option.hi} if option.hi is not None else {})


def schemas() -> Json:
    """All that requests are made of."""
    found: Json = {}

    def add(cls: type) -> None:
        found[cls.__name__] = schema_of(cls)
        for group in nested_of(cast(Hashable, cls)).values():
            add(group.cls)

    add(GenerationParams)
    add(ExtrasParams)
    found["GenerationParams"]["properties"]["extensions"] = {
        "type": "object",
        "description": "modifiers of extensions that take part, each with its options",
        "additionalProperties": {"type": "object"},
    }
    one = {"type": "object", "properties": {"key": {"type": "string"}, "image": {"type": "string"}}}
    found["JobRequest"] = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["generate", "extras", "script"], "default": "generate"},
            "params": {
                "anyOf": [
                    {"$ref": "#/components/schemas/GenerationParams"},
                    {"$ref": "#/components/schemas/ExtrasParams"},
                ]
            },
            "inputs": {"type": "array", "items": one, "description": "of Extras: the pictures to work on"},
            "script": {"type": "string", "description": "of a script: its name"},
            "options": {"type": "object", "description": "of a script: its options"},
            "webhook": {
                "type": ["string", "null"],
                "description": "an address that gets the job, as GET tells it, by POST once it has ended; its host is "
                "one that an administrator listed",
            },
        },
    }
    found["Input"] = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {"type": "string", "description": "in base64, or a data URL"}},
        "examples": [{"image": "data:image/png;base64,..."}],
    }
    found["Error"] = {
        "type": "object",
        "description": "what every error says",
        "properties": {name: {"type": "string"} for name in ("error", "detail", "field", "hint")},
    }
    return found


def document(routes: APIRouter, version: str) -> Json:
    """OpenAPI 3.1 of the routes of a router."""
    made = get_openapi(
        title="Reprise",
        version=version,
        openapi_version="3.1.0",
        summary="Pictures from prompts, the same again.",
        routes=routes.routes,
    )
    components = made.setdefault("components", {}).setdefault("schemas", {})
    components |= {**schemas(), **SCHEMAS}
    fault = {"description": "It cannot be done", "content": {"application/json": {"schema": ref("Error")}}}
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            operation["responses"] = {**operation["responses"], "422": fault, "404": fault}
            about = OPERATIONS.get(f"{method.upper()} {path.removeprefix(PREFIX)}")
            methods[method] = described(operation, about) if about else operation
    made["components"]["schemas"] = {
        name: schema for name, schema in components.items() if name not in ("HTTPValidationError", "ValidationError")
    }
    return dict(made)


def add_docs(app_routes: APIRouter, routes: APIRouter, version: str) -> None:
    """``/docs``, and the document that it shows."""

    @app_routes.get("/api/v1/openapi.json", tags=[TAGS.tools])
    def openapi() -> Json:
        """This document."""
        return document(routes, version)

    @app_routes.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page(document(routes, version)))


STYLE = """:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;border-bottom:1px solid #8884;padding:.2rem .6rem .2rem 0}
section{margin:1.2rem 0}pre{overflow:auto;padding:.6rem;border:1px solid #8884;border-radius:6px}"""


def page(told: Mapping[str, Any]) -> str:
    """The document as HTML: routes first, then what requests are made of."""
    parts = [f"<h1>Reprise {escape(str(told['info']['version']))}: HTTP API</h1>"]
    parts.append('<p>The same as JSON: <a href="api/v1/openapi.json">OpenAPI 3.1</a>.</p>')
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            title = f"<h3><code>{escape(method.upper())} {escape(path)}</code></h3>"
            parts.append(f"<section>{title}<p>{escape(operation.get('description', ''))}</p></section>")
    for name, schema in told["components"]["schemas"].items():
        rows = "".join(_row(key, value) for key, value in schema.get("properties", {}).items())
        parts.append(f"<section><h2>{escape(name)}</h2><p>{escape(schema.get('description', ''))}</p>")
        parts.append(f"<table><tr><th>name<th>type<th>default<th>meaning</tr>{rows}</table></section>")
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Reprise API</title><style>{STYLE}</style>{body}'
    )


def _row(name: str, schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", schema.get("$ref", "").rpartition("/")[2] or "object")
    limits = [str(schema[key]) for key in ("minimum", "maximum") if key in schema]
    meaning = "; ".join(filter(None, (schema.get("title", ""), schema.get("description", ""), " to ".join(limits))))
    cells = (name, str(kind), repr(schema["default"]) if "default" in schema else "", meaning)
    return f"<tr>{''.join(f'<td>{escape(cell)}' for cell in cells)}</tr>"
