"""Parts of the page that extensions give: one that cannot be built leaves a sentence in its place, and nothing else."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr
from gradio.context import Context

from webui.fields import Fields
from webui.forms import Form
from webui.html.extensions import failed_part_html

logger = logging.getLogger(__name__)
T = TypeVar("T")


def contained(label: str, build: Callable[[], T], *forms: Form[Any] | Fields) -> T | None:
    """What ``build`` returns; None, and its components are gone from the page and from ``forms``, if it fails."""
    blocks, parent = Context.root_block, Context.block
    config = blocks.default_config
    before, functions, marks = set(config.blocks), set(config.fns), [form.mark() for form in forms]
    try:
        return build()
    except Exception as error:
        logger.warning("%s of an extension cannot be built", label, exc_info=True)
        Context.block = parent
        forget(config, parent, before, functions)
        for form, mark in zip(forms, marks, strict=True):
            form.rewind(mark)
        said = failed_part_html(label, str(error) or type(error).__name__, traceback.format_exc())
        fields = [form if isinstance(form, Fields) else form.fields for form in forms]
        panel = next((one for one in fields if one and one.is_open), None)
        if panel:
            panel.put(said)
        else:
            gr.HTML(said, padding=False)
        return None


def forget(config: Any, parent: Any, blocks: set[int], functions: set[int]) -> None:
    """Remove what was added to the page since it had these blocks and functions."""
    for kind, before in ((config.blocks, blocks), (config.fns, functions)):
        for number in set(kind) - before:
            del kind[number]
    config.fn_id = max(config.fns, default=-1) + 1
    if parent is not None:
        parent.children = [child for child in parent.children if child._id in blocks]
