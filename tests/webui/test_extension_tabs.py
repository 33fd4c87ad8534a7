"""Extensions on the page: their tabs, controls, routes and files; and the tab that lists them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from starlette.testclient import TestClient

import webui.html.controls
from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.loader import Loader
from modules.extension.modifier import Modifier, ModifierSpec, with_modifiers
from modules.extension.script import ScriptSpec
from modules.jobs.protocol import GenerateSpec
from modules.metadata.recipe import File, Recipe, UsedExtension
from modules.params.generation import GenerationParams, ModifierOptions
from modules.params.options import option
from tests.modules.extension.test_loader import write
from tests.modules.extension.test_option_values import SPEC as PASTES
from tests.webui import controls
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.api.v1.jobs import read_spec
from webui.forms import Form
from webui.html.extensions import list_html
from webui.html.status import recipe_html
from webui.page import build_page
from webui.server import create_app
from webui.services import Services

ROOT = Path(__file__).parents[2]
GOOD = """
from dataclasses import dataclass
from modules import Modifier, ModifierSpec, RouteSpec, TabSpec, UserError, option

@dataclass(frozen=True)
class Options:
    amount: float = option(0.5, "Amount", lo=0.0, hi=1.0, step=0.1)

def hello(values, owner):
    if values.get("name") == "nobody":
        raise UserError("there is nobody", field="name")
    return {"hello": values["name"], "owner": owner}

def build(page):
    form = page.form(Options)
    form.add("amount")
    page.generate(form, lambda options: page.params(prompt=f"amount {options.amount}", steps=2), label="Go")

def register(host):
    host.add_modifier(ModifierSpec("good", "Good one", Options, lambda options: Modifier()))
    host.add_route(RouteSpec("hello", hello))
    host.add_route(RouteSpec("hello", hello, "POST"))
    host.add_tab(TabSpec("good", "Good tab", build))
    host.add_asset("good.js")
    host.add_asset("good.css")
"""
BAD = """
import gradio as gr
from modules import TabSpec

def build(page):
    with gr.Row():
        button = gr.Button("a button of the broken tab", elem_id="of_the_broken")
        button.click(lambda: None)
    raise KeyError("<i>half a tab</i>")

def register(host):
    host.add_tab(TabSpec("bad", "Bad tab", build))
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("extensions")
    place = write(folder, "good", GOOD, '"modifier", "route", "tab", "asset"')
    (place / "good.js").write_text("window.good = 'from an extension'")
    (place / "good.css").write_text(".good-one { color: red }")
    write(folder, "bad", BAD, '"tab"')
    write(folder, "ugly", "raise RuntimeError('<script>alert(1)</script>')")
    data = tmp_path_factory.mktemp("data")
    with services(data) as made:
        loader = Loader(folder, data, ROOT, process="server")
        loader.load_all(made.host)
        yield replace(made, extensions=loader)


@pytest.fixture(scope="module")
def client(given: Services) -> Iterator[TestClient]:
    with TestClient(create_app(given), base_url=ORIGIN, raise_server_exceptions=False) as made:
        yield made


def no_steps(*_: Any) -> Any:
    """A script that asks for nothing."""
    return iter(())


def config_of(client: TestClient) -> dict[str, Any]:
    found = client.get("/config").json()
    assert isinstance(found, dict)
    return found


def test_a_tab_that_cannot_be_built_leaves_a_sentence_and_nothing_else(client: TestClient) -> None:
    config = config_of(client)
    ids = {c["props"].get("elem_id") for c in config["components"]}
    assert "tab_bad" in ids
    assert "of_the_broken" not in ids
    html = [str(c["props"].get("value")) for c in config["components"] if c["type"] == "html"]
    (said,) = [text for text in html if "This tab could not be built" in text]
    assert "&lt;i&gt;half a tab&lt;/i&gt;" in said
    known = {c["id"] for c in config["components"]}
    for dependency in config["dependencies"]:
        # What happens when the page is loaded has the page itself for its target, which is no component.
        targets = {target for target, event in dependency["targets"] if event != "load" and target is not None}
        assert {*dependency["inputs"], *dependency["outputs"], *targets} <= known


def test_part_of_an_extension_that_cannot_be_built_leaves_the_page_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fold of a modifier and the panel of a script; another script, which is then alone, shows its options."""

    @dataclass(frozen=True)
    class Odd:
        odd: int = option(1, "An odd one")

    @dataclass(frozen=True)
    class Even:
        even: int = option(2, "An even one")

    def control(option: Any, *arguments: Any, **facts: Any) -> str:
        if option.label == "An odd one":
            raise RuntimeError("it has no control")
        return real(option, *arguments, **facts)

    real = webui.html.controls.control_html
    monkeypatch.setattr("webui.fields.control_html", control)
    with services(tmp_path) as given:
        given.host.add_modifier(ModifierSpec("odd", "Odd modifier", Odd, lambda _: Modifier()))
        given.host.add_modifier(ModifierSpec("even", "Even modifier", Even, lambda _: Modifier()))
        given.host.add_script(ScriptSpec("odd", "Odd script", Odd, no_steps))
        given.host.add_script(ScriptSpec("even", "Even script", Even, no_steps))
        with TestClient(create_app(given), base_url=ORIGIN) as client:
            config = config_of(client)
    html = controls.html_of(config)
    found = controls.ids_in(html)
    assert not [name for name in found if "odd" in name]
    assert {"txt2img_ext_even_even", "txt2img_even_even", "txt2img_script_even"} <= found
    assert sum(text.count("This part of an extension could not be built") for text in html) == 6
    for tab in ("txt2img", "img2img", "inpaint"):
        (state,) = [c for c in config["components"] if c["props"].get("elem_id") == f"{tab}_fields"]
        assert not [name for name in json.loads(state["props"]["value"]) if "odd" in name]
    known = {c["id"] for c in config["components"]}
    for dependency in config["dependencies"]:
        assert {*dependency["inputs"], *dependency["outputs"]} <= known
    choices = [label for label, _ in controls.controls_in(html)["txt2img_script"].choices]
    assert choices == ["None", "Even script"]


def test_one_script_alone_shows_its_options(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Options:
        times: int = option(2, "Times")

    with services(tmp_path) as given:
        given.host.add_script(ScriptSpec("alone", "Alone", Options, no_steps))
        blocks = build_page(given, {}, None, lambda page, spec: spec.build(page))
    html = controls.html_of(blocks.get_config_file())
    assert controls.controls_in(html)["txt2img_script"].choices == [("None", ""), ("Alone", "alone")]
    shown = "<style>html:not([data-script-txt2img='alone']) #txt2img_script_alone { display: none; }</style>"
    assert any(shown in text for text in html)


def test_every_tab_that_makes_pictures_has_the_controls_of_a_modifier(client: TestClient) -> None:
    config = config_of(client)
    found = {c["props"].get("elem_id"): c for c in config["components"]}
    own = controls.controls_in(controls.html_of(config))
    for tab in ("txt2img", "img2img", "inpaint"):
        assert own[f"{tab}_ext_good_on"].attributes["role"] == "switch"
        slider = own[f"{tab}_ext_good_amount"].attributes
        assert (slider["type"], slider["min"], slider["max"]) == ("number", "0", "1")
    assert found["good_generate"]["props"]["value"] == "Go"
    assert found["good_gallery"]["type"] == "gallery"


def test_routes_answer_json_and_their_faults_are_sentences(client: TestClient) -> None:
    assert client.get("/api/ext/good/hello", params={"name": "fox"}).json() == {"hello": "fox", "owner": "local"}
    assert client.post("/api/ext/good/hello", json={"name": "hen"}).json()["hello"] == "hen"
    nobody = client.get("/api/ext/good/hello", params={"name": "nobody"})
    assert (nobody.status_code, nobody.json()["field"]) == (422, "name")
    broken = client.get("/api/ext/good/hello")
    assert (broken.status_code, broken.json()["detail"]) == (500, "extension good failed (KeyError: 'name')")
    assert client.get("/api/ext/good/other").status_code == 404
    assert client.post("/api/ext/good/hello", json=[1]).status_code == 422
    assert client.get("/api/ext/good/hello", headers={"Host": "evil.example"}).status_code in (403, 421)


def test_scripts_and_style_sheets_are_on_the_page(client: TestClient) -> None:
    page = client.get("/").text
    assert "from an extension" in page
    assert ".good-one" in page


def test_list_shows_each_extension_and_what_it_says_as_text(given: Services) -> None:
    assert given.extensions
    failures = {"good": {"hook": "finish", "reason": "<b>bad</b>", "traceback": "<tb>", "jobs": []}}
    html = list_html(given.extensions.extensions.values(), failures, given.host.modifiers_in_order(), safe_mode=True)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>" not in html
    assert 'data-state="loaded" data-name="good"' in html
    assert 'data-state="broken" data-name="ugly"' in html
    assert "modifier good, route good/hello GET" in html
    assert "good, finish: &lt;b&gt;bad&lt;/b&gt;" in html
    assert "&lt;tb&gt;" in html
    assert 'role="alert">Safe mode' in html
    assert "Good one" in html


def test_a_request_for_what_is_switched_off_is_told_so(given: Services, tmp_path: Path) -> None:
    loader = Loader(ROOT / "tests" / "broken", tmp_path, ROOT, process="command")
    loader.load_all(Host())
    made = replace(given, extensions=loader)
    for name, reason in (
        ("raises", "raises takes no part now: RuntimeError"),
        ("nobody", "no modifier named 'nobody'"),
    ):
        params = GenerationParams(extensions=ModifierOptions({name: {}}))
        with pytest.raises(UserError, match=reason):
            made.prepared(GenerateSpec(params))


def test_recipe_of_a_picture_tells_of_extensions() -> None:
    files = (File("checkpoint", "tiny.safetensors", "0" * 64),)
    used = (UsedExtension("softer", "1.0", {"amount": 0.4}), UsedExtension("hard", "2", {}, failed="<it> failed"))
    recipe = Recipe(GenerationParams(), 0, 1, 1, files, "Reprise", "2", "cpu", "float32", "exact", "0", "", 0, used)
    html = recipe_html(recipe, {})
    assert "softer 1.0, amount 0.4" in html
    assert "hard 2, &lt;it&gt; failed" in html


def test_page_without_extensions_says_so(tmp_path: Path) -> None:
    with services(tmp_path) as made:
        blocks = build_page(made)
    values = [str(getattr(block, "value", "")) for block in blocks.blocks.values()]
    assert any("There is no extension in the folder." in value for value in values)


@dataclass(frozen=True)
class Options:
    amount: float = option(0.5, "Amount", lo=0.0, hi=1.0, step=0.1)
    words: str = option("", "Words")


SPEC = ModifierSpec("twice", "Twice", Options, lambda options: Modifier())


def test_options_go_through_the_form_and_back() -> None:
    with gr.Blocks():
        form = Form(with_modifiers([SPEC]), {})
        form.add("prompt")
        form.switch("ext.twice")
        form.add("ext.twice.amount")
        form.add("ext.twice.words")
    on = form.read(["a fox", True, 0.3, "x"])
    assert on.extensions == ModifierOptions({"twice": {"amount": 0.3, "words": "x"}})
    assert form.read(["a fox", False, 0.3, "x"]).extensions == ModifierOptions()
    assert form.show(on.to_json()) == ["a fox", True, 0.3, "x"]
    assert form.show({"prompt": "a hen", "extensions": {}})[:2] == ["a hen", False]
    assert form.show({"prompt": "a hen"})[1] == gr.skip()
    assert form.read(form.show(on.to_json())) == on


def test_axes_have_the_options_of_modifiers(given: Services) -> None:
    axis = given.host.axes()["Good one: amount"]
    assert axis.set(GenerationParams(), "0.2").extensions == ModifierOptions({"good": {"amount": 0.2}})
    assert "Good one: amount" in given.tables()["axes"]()


def test_options_that_stand_for_pictures_have_a_place_for_them_and_units_a_fold_each(tmp_path: Path) -> None:
    """What is chosen is stored, and the field beside it has its name; choices follow what they depend on."""
    with services(tmp_path) as given:
        given.host.add_modifier(PASTES)
        blocks = build_page(given, {}, None, lambda page, spec: spec.build(page))
        html = controls.html_of(blocks.get_config_file())
        place, own = "txt2img_ext_pastes", controls.controls_in(html)
        assert f"{place}_units_2_picture_picture" in controls.ids_in(html)
        name = own[f"{place}_units_2_picture"].attributes["data-name"]
        (ask,) = [block for block in blocks.blocks.values() if block.elem_id == "txt2img_ask"]
        (event,) = [fn for fn in blocks.fns.values() if (ask._id, "change") in fn.targets]

        def told(wish: str, **values: str) -> Any:
            sent: dict[Any, str] = {
                name: "",
                "ext.pastes.units_1_module": "canny",
                "ext.pastes.units_1_model": "a",
                **values,
            }
            asked = json.dumps({"wish": wish, "names": [name], "n": 1})
            others = [None] * (len(event.inputs) - 2)
            return json.loads(asyncio.run(event.fn(SimpleNamespace(username=None), asked, json.dumps(sent), *others)))

        def look(value: str) -> str:
            return str(told("look", **{str(name): value})["looks"][name])

        Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
        sha256 = given.inputs.put((tmp_path / "red.png").read_bytes())
        data = base64.b64decode(re.search(r"base64,([^\"]+)", look(sha256))[1])  # type: ignore[index]
        with Image.open(io.BytesIO(data)) as small:
            red, green, blue = small.getpixel((4, 4))  # type: ignore[misc]
            assert small.size == (8, 8) and red > 200 and green < 50 and blue < 50
        assert [look(value) for value in ("", sha256[:12], "<b>")] == [""] * 3
        assert "alert" in look("0" * 64) and "<img" not in look("0" * 64)
        assert [value for _, value in own[f"{place}_units_1_model"].choices] == ["a", "b"]
        now = told("follow", **{"ext.pastes.units_1_module": "depth"})
        model = "ext.pastes.units_1_model"
        assert (now["choices"][model], now["values"][model]) == (["b", "c"], "b")
        folds = {f"{tab}_ext_pastes_unit{number}" for tab in ("txt2img", "img2img", "inpaint") for number in (1, 2)}
        assert folds <= controls.ids_in(html)


def test_pictures_in_options_are_stored_by_the_http_api(tmp_path: Path) -> None:
    with services(tmp_path) as given:
        given.host.add_modifier(PASTES)
        data = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(data, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        params = {"extensions": {"pastes": {"units": [{"picture": url}]}}}
        spec = read_spec(given, {"params": params})
        assert isinstance(spec, GenerateSpec)
        sha256 = spec.params.extensions["pastes"]["units_1_picture"]
        assert sha256 in given.inputs
        for value, words in (("0" * 64, "there is no stored picture"), ("fox", "is no picture that can be read")):
            with pytest.raises(UserError, match=words):
                given.prepared(read_spec(given, {"params": {"extensions": {"pastes": {"area": value}}}}))
