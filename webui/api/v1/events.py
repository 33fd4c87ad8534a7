"""Server-sent events of a job: joined at any time, resumed behind the last one that was read."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from modules.jobs.protocol import Json
from webui.security.characters import whole

HEARTBEAT_S = 15.0
"""So often a stream says something, lest a proxy takes it for dead."""
PATH = "/api/v1/jobs"
START = secrets.token_hex(4)
"""This start of the server."""


def event_id(seq: int) -> str:
    """The id of an event: its number, and which start of the server counted it."""
    return f"{seq}-{START}"


def last_id(header: str | None) -> int:
    """The number of the event behind which a stream goes on; 0: from the beginning, also where an earlier start of the
    server counted, which knew of other events. A number alone is of this start.

    >>> last_id(event_id(7)), last_id("7"), last_id("7-00000000"), last_id("no number")
    (7, 7, 0, 0)
    """
    text, _, start = (header or "").strip().partition("-")
    if start not in ("", START):
        return 0
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def told_image(job_id: str, image: Mapping[str, Any]) -> Json:
    """An image without its place on the disk: where it can be fetched, and its name there."""
    name = Path(str(image.get("path", ""))).name
    rest = {key: value for key, value in image.items() if key not in ("path", "type", "job", "seq")}
    return {"name": name, "url": f"{PATH}/{job_id}/images/{name}", **rest}


def told_output(job_id: str, output: Mapping[str, Any]) -> Json:
    """What came of a job: images, notes, seconds, a verdict."""
    kept = {key: output[key] for key in ("notes", "infotext", "seconds", "verdict") if key in output}
    return {"images": [told_image(job_id, image) for image in output.get("images") or ()], **kept}


def told_event(event: Mapping[str, Any], *, previews: bool = True) -> Json:
    """An event as clients get it."""
    job_id = str(event["job"])
    found = {key: value for key, value in event.items() if key not in ("output", "path")}
    if event["type"] == "image":
        found |= told_image(job_id, event)
    if isinstance(event.get("output"), dict):
        found["output"] = told_output(job_id, event["output"])
    if not previews:
        found.pop("preview", None)
    return found


async def stream(events: AsyncIterator[Json], *, previews: bool = True) -> AsyncIterator[bytes]:
    """The lines of an event stream (WHATWG HTML, 9.2): ``id``, ``event`` and ``data`` of each."""
    following = aiter(events)
    pending = asyncio.ensure_future(_next(following))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=HEARTBEAT_S)
            if not done:
                yield b": still here\n\n"
                continue
            event = pending.result()
            if event is None:
                return
            data = json.dumps(whole(told_event(event, previews=previews)))
            yield f"id: {event_id(event['seq'])}\nevent: {event['type']}\ndata: {data}\n\n".encode()
            pending = asyncio.ensure_future(_next(following))
    finally:
        pending.cancel()


async def _next(events: AsyncIterator[Json]) -> Json | None:
    return await anext(events, None)
