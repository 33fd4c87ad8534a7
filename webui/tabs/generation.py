"""Shared parts of all tabs that generate images: the results side, and how a click becomes a job and is followed.

A click submits a job. One handler follows the jobs of a page, one after the other; they live in the queue. Their ids
are kept by the browser's tab, and a page that is loaded again takes them up where they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import NotFound, RepriseError
from modules.jobs.protocol import GenerateSpec, InputImage, Origin
from modules.params.generation import GenerationParams
from webui.components.canvas import Canvas
from webui.components.job_stream import ACTIVE, MOST_SHOWN, JobStream, Shown, awake, ids_of, page_of, shown_of
from webui.components.replay import ReplayPanel
from webui.components.scripts import ScriptPanel
from webui.components.send import SendButtons
from webui.context import Page
from webui.events import AT_ONCE, LONG, QUIET
from webui.fields import Fields
from webui.forms import Form
from webui.html.status import JobProgress, Result, gallery_items, line_html, preview_html, results_of, status_html
from webui.i18n import t
from webui.loading import Load
from webui.services import JobView, Services

logger = logging.getLogger(__name__)

FRAME_S = 0.25
"""The shortest time between two page updates; steps in between are dropped. One update costs the browser about 0.1 s of
its only thread, and a click has to get through between them."""
LINE_S = 1.0
"""How often the waiting jobs are refreshed while one runs."""
JUST_S = 60.0
"""How long ago a job was queued that a page may have missed, for it ended in the moment in which following ended."""
KEEP = "(ids) => {{ try {{ sessionStorage.setItem('reprise.{tab}', ids || '') }} catch (e) {{}} }}"
KEPT = "(...args) => {{ args[0] = window.reprise?.kept('{tab}') || ''; return args }}"
ENDED = "(job, infotext) => {{ window.reprise?.tell('result', {{ tab: '{tab}', job, infotext }}) }}"
CHOSEN = "(job, index, infotext) => {{ window.reprise?.tell('image', {{ tab: '{tab}', job, index, infotext }}) }}"
"""Tell extensions' scripts what happened (`assets/extension_api.js`)."""
OUT_OF_LINE = "() => document.documentElement.dataset.unqueue || ''"


@dataclass(frozen=True)
class Actions:
    """The buttons beside the prompts."""

    generate: Any
    interrupt: Any
    skip: Any


def actions(tab: str, label: str = "Generate", *, skips: bool = True) -> Actions:
    """Create the buttons. Generate stays enabled while a job runs: it queues another."""
    generate = gr.Button(t(label), variant="primary", elem_id=f"{tab}_generate")
    with gr.Row(elem_classes="rp-stops"):
        interrupt = gr.Button(t("Interrupt"), elem_id=f"{tab}_interrupt", interactive=False, min_width=80)
        skip = gr.Button(t("Skip"), elem_id=f"{tab}_skip", interactive=False, min_width=60, visible=skips)
    return Actions(generate, interrupt, skip)


class View:
    """The results side of a tab, and how a `JobProgress` is displayed there: values for ``outputs``."""

    def __init__(
        self,
        services: Services,
        tab: str,
        buttons: Actions,
        *,
        label: str = "Generate",
        text: str = "Generation text",
        lines: int = 2,
        replays: bool = True,
    ):
        """``label``: of the button at rest. ``text``: what the box below the pictures is called."""
        self.services = services
        self.tab = tab
        self.label = label
        self.generate, self.interrupt, self.skip = buttons.generate, buttons.interrupt, buttons.skip
        self.status = gr.HTML(status_html(JobProgress()), elem_id=f"{tab}_status", padding=False)
        with gr.Column(elem_id=f"{tab}_stage", elem_classes="rp-stage"):
            self.gallery = gr.Gallery(
                elem_id=f"{tab}_gallery",
                elem_classes="rp-gallery",
                show_label=False,
                object_fit="contain",
                columns=4,
                preview=True,
                selected_index=0,
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            self.preview = gr.HTML(
                preview_html(JobProgress()), elem_id=f"{tab}_preview", elem_classes="rp-over", padding=False
            )
            self.line = gr.HTML(line_html(()), elem_id=f"{tab}_line", elem_classes="rp-line-home", padding=False)
        self.infotext = gr.Textbox(
            label=t(text),
            lines=lines,
            max_lines=lines,
            interactive=False,
            elem_id=f"{tab}_infotext",
            buttons=["copy"],
        )
        self.send = SendButtons(tab)
        self.replay = ReplayPanel(tab, self.send) if replays else None
        if not replays:
            with gr.Row(elem_classes="rp-replay"):
                self.send.render()
        # Hidden fields rather than gr.State, which makes every open page hold a second connection; a browser has six.
        self.job_ids = gr.Textbox(visible="hidden", elem_id=f"{tab}_job_ids")
        self.job = gr.Textbox(visible="hidden", elem_id=f"{tab}_job")
        self.shown = gr.Textbox(visible="hidden", elem_id=f"{tab}_shown")
        self.chosen = gr.Number(visible="hidden", elem_id=f"{tab}_chosen", precision=0)
        self.wake = gr.Textbox(visible="hidden", elem_id=f"{tab}_wake")
        self.unqueue = gr.Button("Take out", visible="hidden", elem_id=f"{tab}_unqueue")

    @property
    def buttons(self) -> list[Any]:
        return [self.generate, self.interrupt, self.skip]

    @property
    def outputs(self) -> list[Any]:
        """The components that following a job updates."""
        shown = [self.status, self.preview, self.gallery, self.infotext, self.shown, self.chosen, self.job, self.line]
        return [*shown, *self.buttons]

    def show(
        self,
        run: JobProgress,
        before: JobProgress | None = None,
        job_id: str = "",
        earlier: Sequence[Shown] = (),
        line: str | None = None,
    ) -> list[Any]:
        """Updates for ``run``; what equals ``before`` is left alone, so that nothing flickers.

        ``earlier``: pictures of jobs before it. ``line``: the jobs that wait, where they changed.
        """
        worker = self.services.queue.status()
        made = [one.result for one in earlier]
        shown: list[Any] = [status_html(run, worker.state, worker.detail), preview_html(run, made)]
        ended = before is not None and before.is_running and not run.is_running
        if run.results and (before is None or ended or before.results != run.results):
            chosen = len(run.results) - 1 if run.is_running else 0
            items = gallery_items([*made, *run.results][-MOST_SHOWN:])
            index = max(len(items) - len(run.results) + chosen, 0)
            gallery = gr.update(value=items, selected_index=index)
            shown += [gallery, run.results[chosen].infotext, job_id, chosen]
        else:
            shown += [gr.skip()] * 4
        shown.append(job_id if job_id and before is None else gr.skip())
        shown.append(gr.skip() if line is None else line)
        if run.is_running and (before is None or not before.is_running):
            return [*shown, gr.update(value=t("Queue another")), *[gr.update(interactive=True)] * 2]
        return [*shown, *[gr.skip()] * 3]

    def idle(self) -> list[Any]:
        """The buttons' idle state, sent when an event's stream ends."""
        return [gr.update(value=t(self.label)), *[gr.update(interactive=False)] * 2]


async def follow(view: View, stream: JobStream, ids: list[str], page: str) -> AsyncIterator[list[Any]]:
    """The jobs of ``ids`` as changes of the page, one after the other, and those that are queued behind them."""
    earlier: tuple[Shown, ...] = ()
    done = 0
    while done < len(ids):
        job = await asyncio.to_thread(stream.get, ids[done])
        done += 1
        if job is None or (job.state not in ACTIVE and done < len(ids)):  # only the last one is shown as it ended
            earlier += shown_of(job) if job else ()
            continue
        async for update in _one(view, stream, job, earlier, ids, page):
            yield update
        job = await asyncio.to_thread(stream.get, job.id)
        earlier += shown_of(job) if job else ()
        ids[:] = await asyncio.to_thread(stream.joined, ids, page)


async def _one(
    view: View, stream: JobStream, job: JobView, earlier: Sequence[Shown], ids: list[str], page: str
) -> AsyncIterator[list[Any]]:
    """Follow one job from its first event to the last, dropping steps when they come too fast. ``ids`` grows with
    newly queued jobs.
    """
    run = JobProgress("waiting", notes=Origin.from_json(job.spec).notes)
    shown, drawn_at, looked_at, said = run, 0.0, 0.0, ""

    async def line() -> str | None:
        """The jobs behind this one, where there is news of them."""
        nonlocal looked_at, said
        if time.monotonic() - looked_at < LINE_S:
            return None
        looked_at = time.monotonic()
        ids[:] = await asyncio.to_thread(stream.joined, ids, page)
        told = line_html(await asyncio.to_thread(stream.waiting, [i for i in ids if i != job.id]))
        before, said = said, told
        return told if told != before else None

    yield view.show(run, None, job.id, earlier, await line())
    async for event in stream.queue.follow(stream.owner, job.id, after=0):
        run = run.after(event)
        now = time.monotonic()
        if event["type"] == "step" and now - drawn_at < FRAME_S:
            continue
        if event["type"] in ("queued", "started", "done"):
            looked_at = 0.0
        yield view.show(run, shown, job.id, earlier, await line())
        shown, drawn_at = run, now
    if shown != run:
        yield view.show(run, shown, job.id, earlier, await line())


async def spoken(view: View, updates: AsyncIterator[list[Any]]) -> AsyncIterator[list[Any]]:
    """``updates``, with errors shown on the page in one sentence."""
    try:
        async for update in updates:
            yield update
    except RepriseError as error:
        yield view.show(JobProgress().failed(str(error), error.field))
    except Exception:
        logger.exception("a request from the page failed")
        yield view.show(JobProgress().failed("something unexpected went wrong; the server's log has the details"))


async def result_at(page: Page, request: Any, job_id: Any, index: Any) -> Result | None:
    """The job's image of that index, if it exists and belongs to this visitor."""
    try:
        job = await asyncio.to_thread(page.services.queue.get, job_id=str(job_id or ""), owner=page.owner(request))
    except NotFound:
        return None
    results = results_of(job)
    return results[index] if isinstance(index, int) and 0 <= index < len(results) else None


def left_out(jobs: Sequence[JobView], shown: Any) -> bool:
    """Whether one of ``jobs``, which are in the order in which they were queued, came just after the one ``shown``
    last, or still runs."""
    ids = [job.id for job in jobs]
    after = jobs[ids.index(shown) + 1 :] if shown in ids else []
    new = any(time.time() - job.created < JUST_S for job in after)
    return new or any(job.state in ACTIVE and job.id != shown for job in jobs)


def wire_jobs(
    page: Page,
    view: View,
    submit: Callable[..., Awaitable[JobView]],
    inputs: Sequence[Any],
    form: Form[GenerationParams] | None = None,
    canvas: Canvas | None = None,
) -> Any:
    """Wire the buttons, and resume following jobs when the page is reloaded.

    ``submit(request, page, values)`` queues a job for the values of ``inputs``; ``page`` goes into its spec. ``form``
    is filled from the last job's request; what is on the ``canvas`` is handed over first. Gives the event whose end is
    the end of all jobs.
    """
    queue, tab = page.services.queue, view.tab
    filled_by = form.outputs if form else []

    async def on_submit(request: gr.Request, ids: Any, *values: Any) -> list[Any]:
        stream = JobStream(queue, page.owner(request))
        before = ids_of(ids)
        before = before if await asyncio.to_thread(stream.is_active, before) else []
        try:
            job = await submit(request, page_of(request, tab), values)
        except RepriseError as error:
            return _refused(str(error), error.field, bool(before))
        except Exception:
            logger.exception("a request from the page failed")
            return _refused("something unexpected went wrong; the server's log has the details", "", bool(before))
        now = [*before, job.id]
        status = gr.skip() if before else status_html(JobProgress("waiting"))
        line = line_html(await asyncio.to_thread(stream.waiting, now[1:])) if before else gr.skip()
        return [status, line, " ".join(now), awake(now)]

    def _refused(sentence: str, field: str, busy: bool) -> list[Any]:
        """In the status line or, where a job has that, over the pictures."""
        failed = status_html(JobProgress().failed(sentence, field))
        if busy:
            return [gr.skip(), failed, gr.skip(), gr.skip()]
        return [failed, gr.skip(), gr.skip(), gr.skip()]

    async def on_wake(request: gr.Request, woken: Any) -> AsyncIterator[list[Any]]:
        stream = JobStream(queue, page.owner(request))
        async for update in spoken(view, follow(view, stream, ids_of(woken), page_of(request, tab))):
            yield update

    async def on_rest(request: gr.Request, ids: Any, job_id: Any) -> list[Any]:
        """When following has ended: what was queued in that very moment is followed too, and shown if it has ended."""
        jobs = await asyncio.to_thread(JobStream(queue, page.owner(request)).jobs, ids_of(ids))
        if left_out(jobs, job_id):
            return [*[gr.skip()] * 3, gr.skip(), awake(ids_of(ids))]
        return [*view.idle(), line_html(()), gr.skip()]

    async def on_load(request: gr.Request, ids: Any) -> list[Any]:
        jobs = await asyncio.to_thread(JobStream(queue, page.owner(request)).jobs, ids_of(ids))
        found = [job.id for job in jobs]
        if not found:  # forgotten, or of another server: the page is simply new
            begin = page.services.begin("")
            return [*(form.begin(begin) if form else []), "", gr.skip()]
        # A seed of -1 was drawn when the job was submitted; the form asks for a new one again.
        filled = form.show(jobs[-1].spec["params"], leave=("seed", "subseed")) if form else []
        return [*filled, " ".join(found), awake(found)]

    def on_interrupt(request: gr.Request, job_id: Any) -> Any:
        try:
            keep = page.services.settings.current().keep_interrupted
            queue.cancel(page.owner(request), str(job_id or ""), keep=keep)
        except RepriseError as error:
            return status_html(JobProgress().failed(str(error)))
        return gr.skip()  # the job's own events tell when it has stopped; a word from here might come after them

    def on_skip(request: gr.Request, job_id: Any) -> Any:
        try:
            queue.skip(page.owner(request), str(job_id or ""))
        except RepriseError as error:
            return status_html(JobProgress().failed(str(error)))
        return gr.skip()

    async def on_unqueue(request: gr.Request, job_id: Any, ids: Any, current: Any) -> Any:
        owner = page.owner(request)
        try:
            await asyncio.to_thread(queue.cancel, owner, str(job_id or ""))
        except RepriseError as error:
            return status_html(JobProgress().failed(str(error)))
        waiting = [i for i in ids_of(ids) if i != current]
        return line_html(await asyncio.to_thread(JobStream(queue, owner).waiting, waiting))

    async def on_select(request: gr.Request, event: gr.SelectData, ids: Any) -> list[Any]:
        images = await JobStream(queue, page.owner(request)).images(ids_of(ids))
        if not (isinstance(event.index, int) and 0 <= event.index < len(images)):
            return [gr.skip()] * 3
        found = images[event.index]
        return [found.result.infotext, found.job, found.index]

    submitted = [view.status, view.line, view.job_ids, view.wake]
    asked = [view.job_ids, *inputs]
    view.generate.click(on_submit, asked, submitted, js=canvas.settled(asked) if canvas else None, **AT_ONCE)
    followed = view.wake.change(on_wake, view.wake, view.outputs, **LONG)
    followed.then(on_rest, [view.job_ids, view.job], [*view.buttons, view.line, view.wake], **AT_ONCE)
    followed.then(None, [view.job, view.infotext], js=ENDED.format(tab=tab), **QUIET)
    page.loads.append(Load(on_load, [view.job_ids], [*filled_by, view.job_ids, view.wake], KEPT.format(tab=tab)))
    view.job_ids.change(None, view.job_ids, js=KEEP.format(tab=tab), **QUIET)
    view.interrupt.click(on_interrupt, view.job, view.status, **AT_ONCE)
    view.skip.click(on_skip, view.job, view.status, **AT_ONCE)
    taken = gr.Textbox(visible="hidden", elem_id=f"{tab}_unqueued")
    view.unqueue.click(
        on_unqueue,
        [taken, view.job_ids, view.job],
        view.line,
        js=f"(...args) => [({OUT_OF_LINE})(), ...args.slice(1)]",
        **AT_ONCE,
    )
    seen = [view.infotext, view.shown, view.chosen]
    chosen = view.gallery.select(on_select, view.job_ids, seen, **AT_ONCE)
    chosen.then(None, [view.shown, view.chosen, view.infotext], js=CHOSEN.format(tab=tab), **QUIET)
    return followed


def wire_run(
    page: Page,
    form: Form[GenerationParams],
    view: View,
    asked: Callable[[Any, Sequence[Any]], tuple[GenerationParams, tuple[str, ...]]],
    others: Sequence[Any] = (),
    *,
    script: ScriptPanel,
    inputs: Callable[[Sequence[Any]], tuple[InputImage, ...]] = lambda values: (),
    canvas: Canvas | None = None,
) -> None:
    """Wire Generate. ``asked`` makes a request and notes from the form and the other values, of which one may be the
    field of a ``canvas``.

    ``inputs`` gives the images over each of which the request is made; a script's job has none of them.
    """
    services = page.services
    own = len(form.inputs) + len(others)

    async def submit(request: Any, name: str, values: Sequence[Any]) -> JobView:
        chosen = await asyncio.to_thread(script.chosen, values[own:])
        params, remarks = await asyncio.to_thread(asked, request, values[:own])
        origin = Origin(tab=view.tab, page=name, notes=remarks)
        if chosen:
            return await asyncio.to_thread(services.submit, page.owner(request), script.job(chosen, params, origin))
        spec = GenerateSpec(params, inputs(values[:own]), origin)
        return await asyncio.to_thread(services.submit, page.owner(request), spec)

    async def shown_path(request: Any, job_id: Any, chosen: Any) -> Path | None:
        found = await result_at(page, request, job_id, chosen)
        return Path(found.path) if found else None

    followed = wire_jobs(page, view, submit, [*form.inputs, *others, *script.inputs], form, canvas)
    followed.then(script.shown, view.shown, script.table, **AT_ONCE)
    if view.replay:
        view.replay.wire(page, shown_path, [view.shown, view.chosen])


def wire_seed(page: Page, fields: Fields, view: View) -> None:
    """Answer the button for the seed of the image in view."""

    async def on_reuse(request: gr.Request, wish: Any, values: Any, job_id: Any, chosen: Any) -> dict[str, str]:
        found = await result_at(page, request, job_id, chosen)
        return {"seed": str(found.seed)} if found and found.seed is not None else {}

    fields.answer("reuse", on_reuse, [view.shown, view.chosen])
