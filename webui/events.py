"""Shared keyword arguments of Gradio events, with the reason for each."""

from __future__ import annotations

from typing import Any

QUIET: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
"""For events of the page alone: no spinners over the components, no entry in Gradio's API. To every component that
may show progress, hidden or not, Gradio's page tells each change of each event, and looks for it through all components
of the page: with the outputs of our events that took half the time of loading and most of a step's."""
RAW: dict[str, Any] = {**QUIET, "preprocess": False}
AT_ONCE: dict[str, Any] = {**RAW, "queue": False}
"""For short answers. Gradio's client closes its event stream when nothing is pending and loses an event that begins at
that very moment; what does not use the stream can neither be lost nor close it for others."""
LONG: dict[str, Any] = {**RAW, "concurrency_limit": None, "trigger_mode": "once"}
"""For generators that follow a job."""
