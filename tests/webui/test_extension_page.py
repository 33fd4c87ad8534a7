"""Ways onto the page for extensions: places, cards, steps of Extras, routes that stream and submit, served folders."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from starlette.testclient import TestClient

from modules.errors import RepriseError, UserError
from modules.extension.host import Host, Owner
from modules.extension.loader import Loader
from modules.extension.manifest import Refused
from modules.extension.page import PLACES, ExtrasStepSpec
from modules.params.generation import ExtrasParams
from modules.pipeline.postprocess import check, process, with_steps
from tests.modules.extension.test_loader import ROOT, write
from tests.webui import controls
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.components.slots import SlotPage
from webui.forms import Form
from webui.server import create_app
from webui.services import Services

FIXTURES = ROOT / "tests" / "fixtures" / "extensions-2"
GUIDE = (ROOT / "extensions" / "README.md").read_text(encoding="utf-8")
EVERYWHERE = """
def register(host):
    def build(slot):
        import gradio as gr
        gr.Button("here")
    for place in {places!r}:
        host.slot(place, build)
"""
FAILING = """
def register(host):
    def build(slot):
        import gradio as gr
        gr.Button("left behind", elem_id="left_behind")
        raise RuntimeError("<i>half a place</i>")
    host.slot("txt2img.size", build)
    def wired(slot):
        slot.on("no event", print)
    host.slot("txt2img.result", wired)
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder, data = tmp_path_factory.mktemp("extensions"), tmp_path_factory.mktemp("data")
    write(folder, "everywhere", EVERYWHERE.format(places=PLACES), '"slot"')
    write(folder, "failing", FAILING, '"slot"')
    with services(data) as made:
        loader = Loader([folder, FIXTURES], data, ROOT, process="server")
        loader.load_all(made.host)
        assert {one.name: one.reason for one in loader.extensions.values() if one.state != "loaded"} == {}
        yield replace(made, extensions=loader)


@pytest.fixture(scope="module")
def client(given: Services) -> Iterator[TestClient]:
    with TestClient(create_app(given), base_url=ORIGIN, raise_server_exceptions=False) as made:
        yield made


@pytest.fixture(scope="module")
def config(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/config").json())


def ids_in(config: dict[str, Any]) -> set[str]:
    return {c["props"].get("elem_id") for c in config["components"]} | controls.ids_in(controls.html_of(config))


def test_every_place_is_on_the_page_and_in_the_guide(config: dict[str, Any]) -> None:
    for place in PLACES:
        assert f"{place.replace('.', '_')}_slot_everywhere" in ids_in(config), place
        tab, _, where = place.partition(".")
        assert f"`{place}`" in GUIDE or (tab in ("txt2img", "img2img", "inpaint") and f"`TAB.{where}`" in GUIDE), place


def test_every_element_that_the_guide_promises_is_there(config: dict[str, Any]) -> None:
    ids = ids_in(config)
    promised = re.findall(r"`#([a-zA-Z0-9_]+)`", GUIDE)
    assert len(promised) > 30
    for name in promised:
        assert all(name.replace("TAB", tab) in ids for tab in ("txt2img", "img2img", "inpaint")), name


def test_a_place_that_cannot_be_built_leaves_a_sentence(config: dict[str, Any]) -> None:
    assert "left_behind" not in ids_in(config)
    html = [str(c["props"].get("value")) for c in config["components"] if c["type"] == "html"]
    said = [text for text in html if "This part of an extension could not be built" in text]
    assert len(said) == 2
    assert "failing (txt2img.size)" in said[0] and "&lt;i&gt;half a place&lt;/i&gt;" in said[0]
    assert "failing (txt2img.result)" in said[1]


def test_a_place_reads_and_fills_the_form(given: Services) -> None:
    def wide(values: Mapping[str, Any], own: int) -> tuple[dict[str, Any], str]:
        return {"by": values["tile_size"] * own}, "done"

    with gr.Blocks() as blocks:
        form: Form[Any] = Form(with_steps(given.host), given.tables())
        form.add("by")
        form.add("tile_size")
        slot = SlotPage("extras.options", "mine", form)
        button = gr.Button()
        slot.on(button.click, wide, [button], [button])
        slot.on(button.click, lambda values: None)
        slot.on(button.click, lambda values: {"by": 1 / 0})
        slot.on(button.click, lambda values: {"hires_scale": 3, "by": 4})
        slot.on(button.click, lambda values: {"buy": 3, "by": 4})
        slot.on(button.click, lambda values: 3)
        slot.on(button.click, lambda values: {"by": 1}, [], [button])
        slot.wire()
    first, second, third, elsewhere, *wrong = (fn.fn for fn in blocks.fns.values())
    assert asyncio.run(first(3, 2.0, 64)) == ["done", 192, gr.skip()]
    assert asyncio.run(second(2.0, 64)) == [gr.skip(), gr.skip()]
    with pytest.raises(gr.Error, match="extension mine failed"):
        asyncio.run(third(2.0, 64))
    assert asyncio.run(elsewhere(2.0, 64)) == [4, gr.skip()]
    sentences = (
        "there is no field 'buy'",
        "its handler must return changes by the names of fields",
        "its handler must return a tuple of changes and 1 values",
    )
    for one, words in zip(wrong, sentences, strict=True):
        with pytest.raises(gr.Error, match=rf"extension mine failed \(\w+: {words}\)"):
            asyncio.run(one(2.0, 64))


def test_a_place_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused, match=r"the page has no place 'txt2img\.bottom'; there are header, txt2img\.prompt"):
        Host(Owner("mine", "1", permissions=frozenset({"slot"}))).slot("txt2img.bottom", print)


def test_routes_submit_jobs_of_whoever_asks_and_see_them(client: TestClient) -> None:
    made = client.post("/api/ext/page_api/submit", json={"prompt": "a fox"}).json()
    assert (made["owner"], made["admin"]) == ("local", True)
    end, state = time.monotonic() + 60, {"state": ""}
    while state["state"] not in ("done", "failed") and time.monotonic() < end:
        time.sleep(0.05)
        state = client.get("/api/ext/page_api/state", params={"job": made["job"]}).json()
    assert (state["state"], len(state["images"]), state["error"]) == ("done", 1, "")
    assert client.get("/api/ext/page_api/state", params={"job": "0" * 32}).status_code == 404


def test_routes_stream_pieces_and_files(client: TestClient) -> None:
    assert client.get("/api/ext/page_api/pieces").text == "one two three"
    assert client.get("/api/ext/page_api/pieces", params={"fail": "1"}).text == "one two "
    whole = client.get("/api/ext/page_api/file")
    assert (whole.text, whole.headers["content-type"]) == ("kept by the extension", "text/plain; charset=utf-8")
    part = client.get("/api/ext/page_api/file", params={"name": "a b.txt"}, headers={"range": "bytes=0-3"})
    assert (part.status_code, part.text) == (206, "kept")
    assert "a%20b.txt" in part.headers["content-disposition"]


def test_a_folder_is_served_and_nothing_beside_it(client: TestClient, given: Services) -> None:
    found = client.get("/api/ext/page_api/pictures/dot.svg")
    assert (found.status_code, found.headers["content-type"]) == (200, "image/svg+xml")
    for path in ("pictures/.hidden", "pictures/../__init__.py", "pictures/%2e%2e/__init__.py", "pictures", "page.js/x"):
        assert client.get(f"/api/ext/page_api/{path}").status_code == 404, path
    assert (given.data_dir / "extensions" / "page_api" / "kept.txt").is_file()


def test_cards_are_listed_when_their_page_is_opened(config: dict[str, Any]) -> None:
    from webui.html.extensions import cards_html

    assert {"txt2img_cards_colours", "img2img_cards_colours", "inpaint_cards_colours"} <= ids_in(config)
    card = type("Card", (), {"name": "Red <b>", "insert": 'a "red" one', "description": "warm"})()
    html = cards_html([card])
    assert "Red &lt;b&gt;" in html and 'data-insert="a &quot;red&quot; one"' in html and "<b>" not in html


def test_a_step_of_extras_has_controls_and_does_its_work(config: dict[str, Any], given: Services) -> None:
    assert {"extras_step_cutout_on", "extras_step_cutout_keep", "extras_step_cutout_invert"} <= ids_in(config)
    ramp = Image.linear_gradient("L").convert("RGB")
    params = ExtrasParams.from_json({"steps": {"cutout": {"keep": 99}}})
    check(params, given.host)
    extra = process(ramp, params, given.host)
    alpha = extra.image.getchannel("A")
    assert [alpha.getpixel((0, y)) for y in (99, 100)] == [0, 255]  # the gradient's row y has the value y
    assert extra.infotext == "Cut out: 1.0, Cut out keep above: 99"
    assert process(ramp, ExtrasParams(), given.host).image is ramp
    assert ExtrasParams.from_json(params.to_json()) == params
    shape = with_steps(given.host)
    assert shape.read({"step.cutout": True, "step.cutout.keep": 99, "step.cutout.invert": False}).steps == (
        ExtrasParams.from_json({"steps": {"cutout": {"keep": 99, "invert": False}}}).steps
    )


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ({"shadow": {}}, "no step of Extras named 'shadow'"),
        ({"cutout": {"depth": 1}}, "Cut out has no option 'depth'; it has keep, invert"),
        ({"cutout": {"keep": 300}}, "Cut out: Keep above must be between 0 and 255"),
    ],
)
def test_a_step_that_is_asked_for_wrongly_is_refused_before_any_work(
    given: Services, steps: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        check(ExtrasParams.from_json({"steps": steps}), given.host)


def test_a_step_that_fails_names_its_extension(given: Services, tmp_path: Path) -> None:
    host = Host(Owner("clumsy", "1", permissions=frozenset({"extras_step"})))
    cutout = given.host.extras_steps.get("cutout")

    def divide(image: Image.Image, options: Any) -> Image.Image:
        return image.resize((image.width // 0, 1))

    host.add_extras_step(ExtrasStepSpec("clumsy", "Clumsy", cutout.options, divide))
    host.upscalers.add("None", given.host.upscalers.get("None"), ())
    with pytest.raises(RepriseError, match=r"extension clumsy failed in Clumsy \(ZeroDivisionError"):
        process(Image.new("RGB", (8, 8)), ExtrasParams.from_json({"steps": {"clumsy": {}}}), host)
