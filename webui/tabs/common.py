"""What every tab that makes images has: the result's side of the page, and how a click becomes a job and is followed.

A click submits a job and follows it; the job lives in the queue. Its id is kept by the browser's tab, and a page that
is loaded again takes up the job where it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from modules.errors import NotFound, RepriseError
from modules.params import GenerationParams
from modules.pipeline.plan import check, fix_seeds
from webui.controls import Form
from webui.events import AT_ONCE, LONG, QUIET
from webui.page import Page
from webui.replay import ReplayPanel
from webui.scripts import ScriptPanel
from webui.services import Services
from webui.views import Result, Run, gallery_items, preview_html, results_of, status_html

logger = logging.getLogger(__name__)

TARGETS = ("img2img", "inpaint")
"""Tabs that a finished picture can be sent to."""
FRAME_S = 0.08
"""Steps that follow each other faster are not all drawn."""
KEEP_JOB = "(id) => {{ try {{ sessionStorage.setItem('reprise.{tab}', id || '') }} catch (e) {{}} }}"
KEPT_JOB = (
    "(...args) => {{ try {{ args[0] = sessionStorage.getItem('reprise.{tab}') || '' }} catch (e) {{}} return args }}"
)


class View:
    """The right side, and how a `Run` is shown on it: values for ``outputs``."""

    def __init__(self, services: Services, tab: str, generate: Any, interrupt: Any):
        self.services = services
        self.tab = tab
        self.generate = generate
        self.interrupt = interrupt
        self.status = gr.HTML(status_html(Run()), elem_id=f"{tab}_status", padding=False)
        with gr.Column(elem_id=f"{tab}_stage", elem_classes="rp-stage"):
            self.gallery = gr.Gallery(
                elem_id=f"{tab}_gallery",
                show_label=False,
                object_fit="contain",
                columns=4,
                preview=True,
                selected_index=0,
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            self.preview = gr.HTML(preview_html(Run()), elem_id=f"{tab}_preview", padding=False)
        self.infotext = gr.Textbox(
            label="Generation text",
            lines=5,
            max_lines=5,
            interactive=False,
            elem_id=f"{tab}_infotext",
            buttons=["copy"],
        )
        self.send = {
            to: gr.Button(
                f"→ {to}", elem_id=f"{tab}_to_{to}", elem_classes="rp-tool", min_width=90, scale=0, render=False
            )
            for to in TARGETS
        }
        self.replay = ReplayPanel(tab, *self.send.values())
        # Hidden fields rather than gr.State, which makes every open page hold a second connection; a browser has six.
        self.job = gr.Textbox(visible="hidden", elem_id=f"{tab}_job")
        self.shown = gr.Textbox(visible="hidden", elem_id=f"{tab}_shown")
        self.chosen = gr.Number(visible="hidden", elem_id=f"{tab}_chosen", precision=0)
        self.resumed = gr.Textbox(visible="hidden", elem_id=f"{tab}_resumed")

    @property
    def outputs(self) -> list[Any]:
        return [
            self.status,
            self.preview,
            self.gallery,
            self.infotext,
            self.shown,
            self.chosen,
            self.job,
            self.generate,
            self.interrupt,
        ]

    def show(self, run: Run, before: Run | None = None, job_id: str = "") -> list[Any]:
        """``run`` of a job on the page; what is as it was ``before`` is left alone, so that nothing flickers."""
        worker = self.services.queue.status()
        shown: list[Any] = [status_html(run, worker.state, worker.detail), preview_html(run)]
        ended = before is not None and before.is_running and not run.is_running
        if run.results and (before is None or ended or before.results != run.results):
            chosen = len(run.results) - 1 if run.is_running else 0
            gallery = gr.update(value=gallery_items(run.results), selected_index=chosen)
            shown += [gallery, run.results[chosen].infotext, job_id, chosen]
        else:
            shown += [gr.skip()] * 4
        shown.append(job_id if job_id and before is None else gr.skip())
        if run.is_running and (before is None or not before.is_running):
            return [*shown, gr.update(interactive=False), gr.update(interactive=True)]
        return [*shown, gr.skip(), gr.skip()]

    def idle(self) -> list[Any]:
        """The buttons when nothing runs: given when an event's stream is closed, so that the next finds it so."""
        return [gr.update(interactive=True), gr.update(interactive=False)]


class Shows(Protocol):
    """A place on the page that shows a run: `View`, or a tab's own."""

    services: Services

    def show(self, run: Run, before: Run | None = None, job_id: str = "") -> list[Any]: ...


async def follow(view: Shows, owner: str, job_id: str, run: Run) -> AsyncIterator[list[Any]]:
    """A job's events as changes of the page, from the first to the last; a step in haste is left out."""
    shown, drawn_at = run, 0.0
    yield view.show(run, job_id=job_id)
    async for event in view.services.queue.follow(owner, job_id, after=0):
        run = run.after(event)
        now = time.monotonic()
        if event["type"] == "step" and now - drawn_at < FRAME_S:
            continue
        yield view.show(run, shown, job_id)
        shown, drawn_at = run, now
    if shown != run:
        yield view.show(run, shown, job_id)


async def spoken(view: Shows, updates: AsyncIterator[list[Any]]) -> AsyncIterator[list[Any]]:
    """``updates``, with what goes wrong said on the page in one sentence."""
    try:
        async for update in updates:
            yield update
    except RepriseError as error:
        yield view.show(Run().failed(str(error), error.field))
    except Exception:
        logger.exception("a request from the page failed")
        yield view.show(Run().failed("something unexpected went wrong; the server's log has the details"))


async def picture(page: Page, request: Any, job_id: Any, index: Any) -> Result | None:
    """The job's picture of that number, as far as it is this visitor's and there is one."""
    try:
        job = await asyncio.to_thread(page.services.queue.get, job_id=str(job_id or ""), owner=page.owner(request))
    except NotFound:
        return None
    results = results_of(job)
    return results[index] if isinstance(index, int) and 0 <= index < len(results) else None


def wire_run(
    page: Page,
    form: Form[GenerationParams],
    view: View,
    asked: Callable[[Sequence[Any]], tuple[GenerationParams, tuple[str, ...]]],
    others: Sequence[Any] = (),
    *,
    script: ScriptPanel,
) -> None:
    """Generate, interrupt, take up again. ``asked`` makes a request, and remarks, of the form and the other values."""
    queue, tab = page.services.queue, view.tab
    own = len(form.components) + len(others)

    async def submitted(request: Any, values: Sequence[Any]) -> AsyncIterator[list[Any]]:
        chosen = script.chosen(values[own:])
        params, remarks = await asyncio.to_thread(asked, values[:own])
        _, notes = check(params, page.services.host)
        params = fix_seeds(params)
        spec, kind = {"kind": tab, "params": params.to_json()}, "generate"
        if chosen:
            spec, kind = await asyncio.to_thread(script.job, chosen, params)
        owner = page.owner(request)
        job = await asyncio.to_thread(queue.submit, owner, spec, kind)
        async for update in follow(view, owner, job.id, Run("waiting", notes=(*remarks, *notes))):
            yield update

    async def on_generate(request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
        async for update in spoken(view, submitted(request, values)):
            yield update

    async def on_load(request: gr.Request, job_id: Any) -> list[Any]:
        try:
            job = await asyncio.to_thread(queue.get, job_id=str(job_id or ""), owner=page.owner(request))
        except NotFound:  # forgotten, or of another server: the page is simply new
            return [gr.skip()] * (len(form.names) + 1)
        # A seed of -1 was drawn when the job was submitted; the form asks for a new one again.
        return [*form.show(job.spec["params"], leave=("seed", "subseed")), job.id]

    async def on_resumed(request: gr.Request, job_id: Any) -> AsyncIterator[list[Any]]:
        async for update in spoken(view, follow(view, page.owner(request), str(job_id or ""), Run("waiting"))):
            yield update

    def on_interrupt(request: gr.Request, job_id: Any) -> Any:
        try:
            queue.cancel(page.owner(request), str(job_id or ""))
        except RepriseError as error:
            return status_html(Run().failed(str(error)))
        return gr.skip()  # the job's own events tell when it has stopped; a word from here might come after them

    async def on_select(request: gr.Request, event: gr.SelectData, job_id: Any) -> tuple[Any, Any]:
        found = await picture(page, request, job_id, event.index)
        return (found.infotext, event.index) if found else (gr.skip(), gr.skip())

    async def shown_path(request: Any, job_id: Any, chosen: Any) -> Path | None:
        found = await picture(page, request, job_id, chosen)
        return Path(found.path) if found else None

    buttons = [view.generate, view.interrupt]
    inputs = [*form.components, *others, *script.components]
    clicked = view.generate.click(on_generate, inputs, view.outputs, **LONG)
    resumed = view.resumed.change(on_resumed, view.resumed, view.outputs, **LONG)
    for followed in (clicked, resumed):
        followed.then(view.idle, None, buttons, **AT_ONCE)
        followed.then(script.shown, view.shown, script.table, **AT_ONCE)
    page.blocks.load(on_load, view.job, [*form.components, view.resumed], js=KEPT_JOB.format(tab=tab), **AT_ONCE)
    view.interrupt.click(on_interrupt, view.job, view.status, **AT_ONCE)
    view.job.change(None, view.job, js=KEEP_JOB.format(tab=tab), **QUIET)
    view.gallery.select(on_select, view.shown, [view.infotext, view.chosen], **AT_ONCE)
    view.replay.wire(page, shown_path, [view.shown, view.chosen])


def wire_size_and_seed(page: Page, form: Form[GenerationParams], view: View, buttons: Sequence[Any]) -> None:
    """``buttons``: swap the sides, a random seed, the seed of the picture in view."""
    swap, any_seed, same_seed = buttons

    async def on_reuse(request: gr.Request, job_id: Any, chosen: Any) -> Any:
        found = await picture(page, request, job_id, chosen)
        return found.seed if found and found.seed is not None else gr.skip()

    sides = [form["width"], form["height"]]
    swap.click(None, sides, sides, js="(width, height) => [height, width]", **QUIET)
    any_seed.click(None, None, form["seed"], js="() => -1", **QUIET)
    same_seed.click(on_reuse, [view.shown, view.chosen], form["seed"], **AT_ONCE)
