"""The styles editor without a browser."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from modules.prompt.styles import StyleBook
from webui.tabs.style_editor import StyleEditor


def test_a_file_that_cannot_be_read_is_told_when_the_editor_opens_and_when_it_saves(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text("A,a castle\n")
    with gr.Blocks():
        editor = StyleEditor(StyleBook(path))
    said = "The styles in styles.csv cannot be read: no column is called name"
    for answer in (editor._on_open("0", ["A"]), editor._on_save("", "new", "x", "", [])):
        assert any(said in str(part) for part in answer)
    assert path.read_text() == "A,a castle\n"
