"""What the search over the parameters knows."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from modules.params.generation import GenerationParams
from modules.params.options import Shape
from tests.webui.fake_server import services
from webui.page import build_page

ELSEWHERE = {"checkpoint", "vae", "clip_skip", "image", "mask_image"}
"""In the bar, among the quick settings, and on the canvas."""


def test_every_option_of_a_request_is_found_in_some_tab_with_its_folds(tmp_path: Path) -> None:
    with services(tmp_path) as made:
        blocks = build_page(made)
    texts = [getattr(block, "value", "") for block in blocks.blocks.values() if block.get_block_name() == "html"]
    found = [match[1] for text in texts if (match := re.search('data-index="(.*?)">', text))]
    indexes = [json.loads(html.unescape(text)) for text in found]
    assert len(indexes) == 3
    words = " | ".join(f"{entry[2]} " for index in indexes for entry in index)
    own = {name for name in Shape(GenerationParams).options if not name.startswith("ext")}
    assert {name for name in own if name.replace("_", " ") not in words} <= ELSEWHERE
    (ensd,) = [entry for entry in indexes[0] if "ENSD" in entry[1]]
    assert ensd[0] == "txt2img_ensd" and ensd[3] == ["txt2img_section_noise"]
