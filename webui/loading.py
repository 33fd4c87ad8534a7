"""What is done when a page is opened: handlers of all tabs, answered in one request.

Each request of its own would cost the page a twentieth of a second, and each answer another look through all of its
components.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.events import AT_ONCE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """A handler, ``(request, *values of inputs) -> values of outputs``, and what the browser does with its inputs
    first."""

    handler: Callable[..., Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    js: str = ""


def wire_loads(blocks: Any, loads: Sequence[Load]) -> None:
    """Let the page do all of ``loads`` when it is opened. One that fails leaves the others as they are."""
    inputs = [component for load in loads for component in load.inputs]
    places = {id(component): component for load in loads for component in load.outputs}

    async def on_load(request: gr.Request, *values: Any) -> list[Any]:
        rest, answers = list(values), []
        for load in loads:
            own, rest = rest[: len(load.inputs)], rest[len(load.inputs) :]
            answers.append(_answer(load, request, own))
        filled: dict[int, Any] = {}
        for load, answer in zip(loads, await asyncio.gather(*answers), strict=True):
            for component, value in zip(load.outputs, answer, strict=True):
                filled[id(component)] = merged(filled.get(id(component), gr.skip()), value)
        return [filled[place] for place in places]

    steps = ",".join(f"[{len(load.inputs)},{load.js or 'null'}]" for load in loads)
    js = (
        "(...args) => { let at = 0; const given = []; "
        f"for (const [count, step] of [{steps}]) {{ const own = args.slice(at, at + count); at += count; "
        "given.push(...(step ? step(...own) : own)) } return given }"
    )
    blocks.load(on_load, inputs, list(places.values()), js=js, **AT_ONCE)


async def _answer(load: Load, request: gr.Request, values: Sequence[Any]) -> Sequence[Any]:
    try:
        if inspect.iscoroutinefunction(load.handler):
            answer = await load.handler(request, *values)
        else:
            answer = await asyncio.to_thread(load.handler, request, *values)
    except Exception:
        logger.exception("a part of the page could not be filled")
        return [gr.skip()] * len(load.outputs)
    return answer if len(load.outputs) != 1 or isinstance(answer, list) else [answer]


def merged(one: Any, other: Any) -> Any:
    """What one handler and ``other`` give the same component.

    >>> merged('{"n": 1, "values": {"steps": 2}}', '{"n": 2, "values": {"seed": "3"}, "choices": {}}')
    '{"n": 2, "values": {"steps": 2, "seed": "3"}, "choices": {}}'
    """
    if one == gr.skip():
        return other
    if other == gr.skip():
        return one
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {**one, **other}
    if isinstance(one, str) and isinstance(other, str) and one[:5] == other[:5] == '{"n":':  # changes of fields
        first, second = json.loads(one), json.loads(other)
        both = {name: {**first.get(name, {}), **second[name]} for name in second if name != "n"}
        return json.dumps({"n": second["n"], **both})
    return other
