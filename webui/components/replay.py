"""The Replay button, its job, and the display of the verdict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.jobs.protocol import Origin, ReplaySpec
from modules.metadata import verdict as verdicts
from modules.metadata.image_text import read_metadata
from modules.metadata.verdict import Verdict
from webui.context import Page
from webui.events import AT_ONCE, LONG, QUIET
from webui.html.status import JobProgress, replay_html, verdict_html

logger = logging.getLogger(__name__)

Find = Callable[..., Awaitable[Path | None]]
"""``(request, *values) -> path`` of the picture to make again: one of the outputs folder or an uploaded one."""


class ReplayPanel:
    """The Replay button, its Stop button and the verdict; element ids begin with ``prefix``.

    ``beside``: what was made with ``render=False`` and stands in the same row.
    """

    def __init__(self, prefix: str, *beside: Any):
        self._prefix = prefix
        with gr.Row(elem_classes="rp-replay"):
            for button in beside:
                button.render()
            self.replay = gr.Button("Replay", elem_id=f"{prefix}_replay", elem_classes="rp-tool", scale=0)
            self.stop = gr.Button(
                "Stop", elem_id=f"{prefix}_replay_stop", elem_classes="rp-tool", scale=0, visible=False
            )
        self.verdict = gr.HTML("", elem_id=f"{prefix}_verdict", padding=False)
        self.job = gr.Textbox(visible="hidden", elem_id=f"{prefix}_replay_job")

    def wire(self, page: Page, find: Find, inputs: Sequence[Any]) -> None:
        """Let the button replay the image that ``find`` returns for ``inputs``."""
        queue = page.services.queue

        async def on_replay(request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
            try:
                path = await find(request, *values)
                async for update in replayed(page, page.owner(request), path):
                    yield update
            except RepriseError as error:
                yield self._ended(replay_html(JobProgress().failed(str(error))))
            except Exception:
                logger.exception("a replay from the page failed")
                sentence = "something unexpected went wrong; the server's log has the details"
                yield self._ended(replay_html(JobProgress().failed(sentence)))

        async def replayed(page: Page, owner: str, path: Path | None) -> AsyncIterator[list[Any]]:
            if path is None:
                raise UserError("there is no picture to make again", hint="choose one first")
            texts = await asyncio.to_thread(read_metadata, path)
            recorded = verdicts.judge(texts["recipe"], texts["infotext"] or texts["stealth_infotext"])
            if isinstance(recorded, Verdict):
                yield self._ended(verdict_html(recorded.to_json()))
                return
            kept = await asyncio.to_thread(keep, page, path)
            spec = ReplaySpec(path=str(kept), origin=Origin(tab=self._prefix))
            job = await asyncio.to_thread(page.services.submit, owner, spec)
            run = JobProgress("waiting")
            yield [replay_html(run), job.id, gr.update(interactive=False), gr.update(visible=True)]
            async for event in queue.follow(owner, job.id, after=0):
                run = run.after(event)
                if event["type"] == "done":
                    yield self._ended(verdict_html(event["output"]["verdict"], run.results))
                    return
                worker = queue.status()
                shown = replay_html(run, worker.state, worker.detail)
                yield [shown, gr.skip(), gr.skip(), gr.skip()] if run.is_running else self._ended(shown)

        def on_stop(request: gr.Request, job_id: Any) -> Any:
            try:
                queue.cancel(page.owner(request), str(job_id or ""))
            except RepriseError as error:
                return replay_html(JobProgress().failed(str(error)))
            return gr.skip()

        outputs = [self.verdict, self.job, self.replay, self.stop]
        self.replay.click(on_replay, list(inputs), outputs, **LONG)
        self.stop.click(on_stop, self.job, self.verdict, **AT_ONCE)
        for component in inputs:  # a verdict is on one picture
            component.change(None, None, self.verdict, js="() => ''", **QUIET)

    def _ended(self, html: str) -> list[Any]:
        return [html, gr.skip(), gr.update(interactive=True), gr.update(visible=False)]


def keep(page: Page, path: Path) -> Path:
    """A path of the image that lasts as long as a job may wait: uploads are copied, our own outputs stay where they
    are.
    """
    if path.resolve().is_relative_to(page.services.outputs_dir.resolve()):
        return path
    return page.services.inputs.keep(path.read_bytes())
