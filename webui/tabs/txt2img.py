"""The tab that makes images from text.

A click submits a job and follows it; the job lives in the queue. Its id is kept by the browser's tab, and a page that
is loaded again takes up the job where it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import NotFound, RepriseError
from modules.params import GenerationParams
from modules.pipeline.plan import check, fix_seeds
from webui.controls import Form
from webui.events import AT_ONCE, LONG, QUIET
from webui.page import Page
from webui.paste import wire_paste
from webui.replay import ReplayPanel
from webui.services import Services
from webui.tabs.prompts import PromptArea
from webui.views import Result, Run, gallery_items, preview_html, results_of, status_html

logger = logging.getLogger(__name__)

KIND = "txt2img"
FRAME_S = 0.08
"""Steps that follow each other faster are not all drawn."""
KEEP_JOB = "(id) => { try { sessionStorage.setItem('reprise.txt2img', id || '') } catch (e) {} }"
KEPT_JOB = "(...args) => { try { args[0] = sessionStorage.getItem('reprise.txt2img') || '' } catch (e) {} return args }"


def build(page: Page) -> None:
    """Lay out the tab and wire it."""
    form = Form(GenerationParams, page.services.tables())
    form.adopt("checkpoint", page.checkpoint)
    size = page.services.native_size("")
    with gr.Row(elem_id="txt2img_top"):
        with gr.Column(scale=6, min_width=280, elem_id="txt2img_prompts"):
            prompts = PromptArea(page, form, KIND)
        with gr.Column(scale=1, min_width=180, elem_id="txt2img_actions"):
            generate = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
            interrupt = gr.Button("Interrupt", elem_id="txt2img_interrupt", interactive=False)
            paste = gr.Button("↙ Settings from text", elem_id="txt2img_paste", elem_classes="rp-tool")
            gr.HTML(
                '<p class="rp-keys"><kbd>Ctrl</kbd> <kbd>Enter</kbd> generates, <kbd>Esc</kbd> interrupts, '
                "<kbd>Ctrl</kbd> <kbd>↑</kbd> <kbd>↓</kbd> weighs the word at the cursor</p>",
                padding=False,
            )
    prompts.inspector()
    with gr.Row(elem_id="txt2img_body"):
        with gr.Column(scale=5, min_width=300, elem_id="txt2img_parameters"):
            swap, any_seed, same_seed = _parameters(form, size)
        with gr.Column(scale=6, min_width=300, elem_id="txt2img_result"):
            view = _View(page.services, generate, interrupt)
    prompts.wire()
    _wire(page, form, prompts, view, swap, any_seed, same_seed)
    wire_paste(page, form, paste, view.infotext, view.status)


def _parameters(form: Form[GenerationParams], size: int) -> tuple[Any, Any, Any]:
    """The left side; gives the buttons for swapping the sides, a random seed and the last one."""
    with gr.Row():
        form.add("sampler", min_width=130, elem_id="txt2img_sampler")
        form.add("scheduler", min_width=130, elem_id="txt2img_scheduler")
    form.add("steps", elem_id="txt2img_steps")
    with gr.Row(elem_classes="rp-size"):
        with gr.Column(min_width=180):
            form.add("width", value=size, elem_id="txt2img_width")
            form.add("height", value=size, elem_id="txt2img_height")
        swap = gr.Button("⇅", elem_id="txt2img_swap", elem_classes="rp-tool", min_width=40, scale=0)
    with gr.Row():
        form.add("batch_count", min_width=130, elem_id="txt2img_batch_count", info=None)
        form.add("batch_size", min_width=130, elem_id="txt2img_batch_size", info=None)
    form.add("cfg_scale", elem_id="txt2img_cfg_scale", info=None)
    with gr.Row(elem_classes="rp-seed"):
        form.add("seed", elem_id="txt2img_seed", info=None, min_width=100)
        any_seed = gr.Button("Random", elem_id="txt2img_random_seed", elem_classes="rp-tool", min_width=72, scale=0)
        same_seed = gr.Button("Reuse", elem_id="txt2img_reuse_seed", elem_classes="rp-tool", min_width=72, scale=0)
    with gr.Accordion("Variation", open=False, elem_id="txt2img_variation"), gr.Row():
        form.add("subseed", min_width=130, elem_id="txt2img_subseed", info=None)
        form.add("subseed_strength", min_width=130, elem_id="txt2img_subseed_strength")
    with gr.Accordion("More", open=False, elem_id="txt2img_more"):
        for group in dict.fromkeys(option.group for option in form.options.values() if option.group):
            gr.Markdown(f"#### {group}")
            with gr.Row():
                for name, option in form.options.items():
                    if option.group == group:
                        form.add(name, min_width=200, elem_id=f"txt2img_{name}")
    return swap, any_seed, same_seed


class _View:
    """The right side, and how a `Run` is shown on it: values for ``outputs``."""

    def __init__(self, services: Services, generate: Any, interrupt: Any):
        self._services = services
        self.generate = generate
        self.interrupt = interrupt
        self.status = gr.HTML(status_html(Run()), elem_id="txt2img_status", padding=False)
        with gr.Column(elem_id="txt2img_stage", elem_classes="rp-stage"):
            self.gallery = gr.Gallery(
                elem_id="txt2img_gallery",
                show_label=False,
                object_fit="contain",
                columns=4,
                preview=True,
                selected_index=0,
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            self.preview = gr.HTML(preview_html(Run()), elem_id="txt2img_preview", padding=False)
        self.infotext = gr.Textbox(
            label="Generation text",
            lines=5,
            max_lines=5,
            interactive=False,
            elem_id="txt2img_infotext",
            buttons=["copy"],
        )
        self.replay = ReplayPanel("txt2img")
        # Hidden fields rather than gr.State, which makes every open page hold a second connection; a browser has six.
        self.job = gr.Textbox(visible="hidden", elem_id="txt2img_job")
        self.shown = gr.Textbox(visible="hidden", elem_id="txt2img_shown")
        self.chosen = gr.Number(visible="hidden", elem_id="txt2img_chosen", precision=0)
        self.resumed = gr.Textbox(visible="hidden", elem_id="txt2img_resumed")

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
        worker = self._services.queue.status()
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


async def follow(view: _View, owner: str, job_id: str, run: Run) -> AsyncIterator[list[Any]]:
    """A job's events as changes of the page, from the first to the last; a step in haste is left out."""
    shown, drawn_at = run, 0.0
    yield view.show(run, job_id=job_id)
    async for event in view._services.queue.follow(owner, job_id, after=0):
        run = run.after(event)
        now = time.monotonic()
        if event["type"] == "step" and now - drawn_at < FRAME_S:
            continue
        yield view.show(run, shown, job_id)
        shown, drawn_at = run, now
    if shown != run:
        yield view.show(run, shown, job_id)


async def spoken(view: _View, updates: AsyncIterator[list[Any]]) -> AsyncIterator[list[Any]]:
    """``updates``, with what goes wrong said on the page in one sentence."""
    try:
        async for update in updates:
            yield update
    except RepriseError as error:
        yield view.show(Run().failed(str(error), error.field))
    except Exception:
        logger.exception("a request from the page failed")
        yield view.show(Run().failed("something unexpected went wrong; the server's log has the details"))


def _wire(
    page: Page,
    form: Form[GenerationParams],
    prompts: PromptArea,
    view: _View,
    swap: Any,
    any_seed: Any,
    same_seed: Any,
) -> None:
    queue = page.services.queue

    async def submitted(request: Any, values: Sequence[Any]) -> AsyncIterator[list[Any]]:
        *fields, styles = values
        params = prompts.styled(form.read(fields), styles)
        _, notes = check(params, page.services.host)
        spec = {"kind": KIND, "params": fix_seeds(params).to_json()}
        owner = page.owner(request)
        job = await asyncio.to_thread(queue.submit, owner, spec)
        async for update in follow(view, owner, job.id, Run("waiting", notes=notes)):
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

    async def picture(request: Any, job_id: Any, index: Any) -> Result | None:
        """The job's picture of that number, as far as it is this visitor's and there is one."""
        try:
            job = await asyncio.to_thread(queue.get, job_id=str(job_id or ""), owner=page.owner(request))
        except NotFound:
            return None
        results = results_of(job)
        return results[index] if isinstance(index, int) and 0 <= index < len(results) else None

    async def on_select(request: gr.Request, event: gr.SelectData, job_id: Any) -> tuple[Any, Any]:
        found = await picture(request, job_id, event.index)
        return (found.infotext, event.index) if found else (gr.skip(), gr.skip())

    async def on_reuse(request: gr.Request, job_id: Any, chosen: Any) -> Any:
        found = await picture(request, job_id, chosen)
        return found.seed if found and found.seed is not None else gr.skip()

    async def shown_path(request: Any, job_id: Any, chosen: Any) -> Path | None:
        found = await picture(request, job_id, chosen)
        return Path(found.path) if found else None

    buttons = [view.generate, view.interrupt]
    clicked = view.generate.click(on_generate, [*form.components, prompts.styles], view.outputs, **LONG)
    resumed = view.resumed.change(on_resumed, view.resumed, view.outputs, **LONG)
    for followed in (clicked, resumed):
        followed.then(view.idle, None, buttons, **AT_ONCE)
    page.blocks.load(on_load, view.job, [*form.components, view.resumed], js=KEPT_JOB, **AT_ONCE)
    view.interrupt.click(on_interrupt, view.job, view.status, **AT_ONCE)
    view.job.change(None, view.job, js=KEEP_JOB, **QUIET)
    view.gallery.select(on_select, view.shown, [view.infotext, view.chosen], **AT_ONCE)
    view.replay.wire(page, shown_path, [view.shown, view.chosen])
    sides = [form["width"], form["height"]]
    swap.click(None, sides, sides, js="(width, height) => [height, width]", **QUIET)
    any_seed.click(None, None, form["seed"], js="() => -1", **QUIET)
    same_seed.click(on_reuse, [view.shown, view.chosen], form["seed"], **AT_ONCE)
