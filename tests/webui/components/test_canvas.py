"""What a canvas says to a handler: uploads alone, and what becomes of them."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from modules.errors import RepriseError
from tests.webui.test_files import ask, functions
from tests.webui.test_i18n import Texts, english
from webui.components.canvas import COLOURS, MASK, VIEW, Painting, canvas_html, chosen
from webui.context import Page
from webui.security.ownership import Files, uploaded
from webui.services import Services


def upload(client: TestClient, image: Image.Image, folder: Path) -> str:
    image.save(folder / "a.png")
    sent = client.post("/gradio_api/upload", files={"files": ("a.png", (folder / "a.png").read_bytes())})
    path = sent.json()[0]
    assert isinstance(path, str)
    return path


def value(picture: str, strokes: str | None = None, mode: str = MASK) -> str:
    return json.dumps({"picture": {"path": picture}, "strokes": strokes and {"path": strokes}, "mode": mode})


def picture(size: tuple[int, int] = (24, 16)) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def strokes() -> Image.Image:
    made = Image.new("RGBA", (24, 16))
    made.paste((0, 128, 255, 255), (4, 4, 12, 10))
    return made


def test_a_mask_of_any_depth_arrives_as_it_was_sent(client: TestClient, tmp_path: Path) -> None:
    start = upload(client, picture(), tmp_path)
    grey = Image.linear_gradient("L").resize((24, 16))
    for mask in (grey, grey.point(lambda v: 255 if v > 90 else 0), grey.point(lambda v: 255 if v > 90 else 0, "1")):
        painting = Painting.read(value(start, upload(client, mask, tmp_path)), uploaded)
        begun, found = painting.inpainted(4)
        assert found.tobytes() == mask.convert("L").tobytes()
        assert begun.tobytes() == painting.start().tobytes() == picture().tobytes()


def test_coloured_strokes_are_start_and_mask(client: TestClient, tmp_path: Path) -> None:
    start, lines = upload(client, picture(), tmp_path), upload(client, strokes(), tmp_path)
    painting = Painting.read(value(start, lines, COLOURS), uploaded)
    begun, mask = painting.inpainted(0)
    assert mask.getbbox() == (4, 4, 12, 10)
    assert begun.getpixel((5, 5)) == (0, 128, 255)
    assert begun.tobytes() == painting.start().tobytes()
    plain = Painting.read(value(start, lines, VIEW), uploaded)
    assert plain.start().tobytes() == picture().tobytes()


def test_what_is_missing_is_said_in_a_sentence(client: TestClient, tmp_path: Path) -> None:
    start = upload(client, picture(), tmp_path)
    small = upload(client, Image.new("L", (8, 8), 255), tmp_path)
    for said, sentence in (
        ("", "no start picture"),
        (None, "no start picture"),
        ("[1]", "no start picture"),
        ('{"picture": 3}', "no start picture"),
        ('{"picture": {"path": 3}}', "no start picture"),
        ("[" * 100_000, "no start picture"),
        (json.dumps({"problem": "it did not fit"}), "it did not fit"),
        (value(start), "nothing is masked"),
        (value(start, small), "not as large as the picture"),
    ):
        with pytest.raises(RepriseError, match=sentence):
            Painting.read(said, uploaded).inpainted(4)


def strangers(given: Services, tmp_path: Path) -> list[str]:
    """Pictures that no page uploaded, and ways to name them."""
    outside = tmp_path / "outside.png"
    picture().save(outside)
    made = given.outputs_dir / "made.png"
    picture().save(made)
    temp = given.data_dir / "tmp" / "gradio"
    link = temp / "link.png"
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    key = given.inputs.put(picture())
    paths = (outside, made, link, given.inputs.path(key), temp, f"{temp}/../../../{outside}", f"{temp}x", "~", "\0")
    return [str(path) for path in paths]


def test_a_canvas_names_uploads_alone(client: TestClient, given: Services, tmp_path: Path) -> None:
    """Gradio checks no path in a text: `ownership.uploaded` must."""
    start = upload(client, picture(), tmp_path)
    for path in strangers(given, tmp_path):
        with pytest.raises(RepriseError, match="no start picture"):
            Painting.read(value(path), uploaded)
        assert chosen(value(path), uploaded) is None
        assert Painting.read(value(start, path), uploaded).strokes is None


def test_what_another_uploaded_is_not_theirs_to_name(client: TestClient, given: Services, tmp_path: Path) -> None:
    mine, theirs = (upload(client, picture(size), tmp_path) for size in ((8, 8), (9, 9)))
    files = Files(given.data_dir / "tmp" / "gradio", given.outputs_dir, lambda name, path: False)
    files.give([{"path": mine}], "ann")
    assert files.are_readable("ann", ["{a|b}", value(mine, mine)])
    assert not files.are_readable("ann", ["", value(mine, theirs)])
    assert not files.are_readable("bob", [value(mine)])
    for before in (" ", "\t", "\n", "\r\n "):
        assert not files.are_readable("bob", [f"{before}{value(mine)}", f"{before}[{value(mine)}]"])


class Visitor:
    """What a handler is given of who asks."""

    def __init__(self, username: str):
        self.username = username


@pytest.mark.parametrize("before", ["", " ", "\n", "\ufeff", "\u00a0"])
def test_where_a_path_is_used_it_is_asked_whose_it_is_however_it_came(
    client: TestClient, given: Services, tmp_path: Path, before: str
) -> None:
    mine = upload(client, picture(), tmp_path)
    files = Files(given.data_dir / "tmp" / "gradio", given.outputs_dir, lambda name, path: False)
    files.give([{"path": mine}], "ann")
    page = Page(given, None, {}, None, None, None, files=files)
    said = before + value(mine, mine)
    assert chosen(said, page.uploads(Visitor("bob"))) is None
    with pytest.raises(RepriseError, match="no start picture"):
        Painting.read(said, page.uploads(Visitor("bob")))
    if before.isascii():
        assert Painting.read(said, page.uploads(Visitor("ann"))).path == Path(mine).resolve()


def test_no_event_of_a_canvas_reads_a_file_that_was_not_uploaded(
    client: TestClient, given: Services, tmp_path: Path
) -> None:
    parts = {part["id"]: part["props"].get("elem_id") for part in client.get("/config").json()["components"]}
    tried = 0
    for path in strangers(given, tmp_path):
        before = sorted(given.inputs.folder.rglob("*"))
        for function in functions(client):
            names = [parts[number] for number in function["inputs"]]
            for position, name in enumerate(names):
                if name not in ("img2img_canvas", "inpaint_canvas"):
                    continue
                data: list[Any] = [None] * len(names)
                data[position] = value(path, path)
                answer = ask(client, int(function["id"]), data)
                assert "outside" not in answer
                tried += 1
        assert sorted(given.inputs.folder.rglob("*")) == before
    assert tried >= 4 * len(strangers(given, tmp_path))


def test_every_word_of_a_canvas_has_a_translation_and_its_icons_have_names() -> None:
    html = canvas_html("inpaint", (MASK, COLOURS, VIEW))
    assert english(Texts(html).found) == set()
    words = json.loads(unescape(html.partition('data-words="')[2].partition('"')[0]))
    assert english([re.sub(r"\{\w+\}", "7", text) for text in words.values()]) == set()
    icons = re.findall(r'<button[^>]*class="rp-canvas-icon"[^>]*>', html)
    assert len(icons) == 10
    assert all('aria-label="' in icon for icon in icons)
