"""Controls of the page's own: their HTML, their values on the way to the server and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from modules.errors import UserError
from modules.params.generation import GenerationParams, Hires
from modules.params.options import Dependent, Shape, option
from tests.webui.controls import controls_in
from webui.components.contained import contained
from webui.fields import MOST, Fields
from webui.forms import Form

MODULES = {"edges": ("canny", "hed"), "depth": ("midas",)}


@dataclass(frozen=True)
class Thing:
    word: str = option("one", "Word", choices="words")
    text: str = option("", "Text <i>", multiline=True)
    count: int = option(3, "Count", lo=1, hi=9, step=1, help="how many")
    weight: float = option(0.5, "Weight", lo=0.0, hi=1.0)
    seed: int = option(-1, "Seed", lo=-1, hi=2**64)
    maybe: float | None = option(None, "Maybe", lo=0.0, hi=1.0)
    tick: bool = option(True, "Tick")
    kind: str = option("edges", "Kind", choices=tuple(MODULES))
    module: str = option("canny", "Module", choices=Dependent(("kind",), lambda kind: MODULES[kind]))


WORDS = ["one", "two"]
TABLES = {"words": lambda: WORDS}


@pytest.fixture
def page() -> Any:
    """A form with all options in a panel: the form, and its HTML."""
    with gr.Blocks() as blocks:
        with gr.Column() as home:
            pass
        fields = Fields("tab", home)
        form: Form[Thing] = Form(Shape(Thing), TABLES, fields=fields)
        with fields.panel(), fields.fold("All", "tab_all"):
            for name in form.options:
                form.add(name)
            form.wire()
        fields.wire()
    (html,) = [block.value for block in blocks.blocks.values() if isinstance(block, gr.HTML)]
    return SimpleNamespace(form=form, fields=fields, html=html, blocks=blocks)


def state(fields: Fields, **changes: Any) -> str:
    return json.dumps({**json.loads(fields.state.value), **changes})


def test_each_kind_of_option_has_its_control(page: Any) -> None:
    found = controls_in([page.html])
    assert {name: (control.kind, control.attributes.get("type")) for name, control in found.items()} == {
        "tab_word": ("choice", None),
        "tab_text": ("text", None),
        "tab_count": ("number", "number"),
        "tab_weight": ("number", "number"),
        "tab_seed": ("text", "text"),
        "tab_maybe": ("text", "text"),
        "tab_tick": ("bool", "checkbox"),
        "tab_kind": ("choice", None),
        "tab_module": ("choice", None),
    }
    assert found["tab_word"].choices == [("one", "one"), ("two", "two")]
    assert (found["tab_count"].attributes["min"], found["tab_count"].attributes["max"]) == ("1", "9")
    assert found["tab_count"].info == "how many"
    assert page.html.count('type="range"') == 1, "a number without steps has no slider"
    assert "Text &lt;i&gt;" in page.html and "<i>" not in page.html.replace("<i hidden", "")


def test_what_the_page_holds_is_the_dataclass(page: Any) -> None:
    assert page.form.read([page.fields.state.value]) == Thing()
    changed = state(page.fields, count=4, seed=str(2**64), maybe="", tick=False, kind="depth", module="midas")
    assert page.form.read([changed]) == Thing(count=4, seed=2**64, tick=False, kind="depth", module="midas")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": None}, "Count needs a value"),
        ({"count": 10}, "Count must be between 1 and 9, not 10"),
        ({"weight": "x"}, "Weight must be a number, not 'x'"),
        ({"text": {"path": "/etc/passwd"}}, "Text <i> must be text, not {'path': '/etc/passwd'}"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_field(page: Any, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        page.form.read([state(page.fields, **changes)])
    assert str(caught.value) == sentence


@pytest.mark.parametrize("sent", [None, "", "[]", "{", "3", '{"a":' * 5000, {"count": 3}, "x" * (MOST + 1)])
def test_what_no_page_sends_is_a_sentence_too(page: Any, sent: Any) -> None:
    with pytest.raises(UserError, match="needs a value"):
        page.form.read([sent])


def test_a_change_is_sent_as_often_as_it_is_made_and_only_where_there_is_one(page: Any) -> None:
    first, second = (page.form.show({"count": 5, "nothing": 1})[0] for _ in range(2))
    assert first != second
    assert json.loads(first)["values"] == json.loads(second)["values"] == {"count": 5}
    assert page.form.show({}) == [gr.skip()]
    assert page.form.begin({"count": 3, "maybe": None}) == [gr.skip()]


def test_a_new_page_is_sent_only_what_it_was_not_built_with(page: Any) -> None:
    """A late answer must not take back what somebody has typed since."""
    assert json.loads(page.form.begin({"count": 3, "weight": 0.7, "word": "two"})[0])["values"] == {
        "weight": 0.7,
        "word": "two",
    }


def test_lists_that_are_read_anew_come_with_what_takes_the_place_of_what_is_gone(page: Any) -> None:
    now = json.loads(page.fields.listed(state(page.fields), {"words": ["two", "three"]}))
    assert (now["choices"], now["values"]) == ({"word": ["two", "three"]}, {"word": "two"})
    assert json.loads(page.fields.listed(state(page.fields, word="three"), {"words": ["three"]}))["values"] == {}


def test_choices_follow_what_they_depend_on(page: Any) -> None:
    assert '<i hidden data-follow="kind"></i>' in page.html
    (ask,) = [fn for fn in page.blocks.fns.values() if (page.fields.ask._id, "change") in fn.targets]

    async def asked(text: Any, values: str) -> Any:
        return await ask.fn(SimpleNamespace(username=None), text, values)

    wish = json.dumps({"wish": "follow", "n": 1})
    told = json.loads(asyncio.run(asked(wish, state(page.fields, kind="depth"))))
    assert (told["choices"], told["values"]) == ({"module": ["midas"]}, {"module": "midas"})
    for nonsense in ("", "{", "[]", '{"wish": "nothing"}', None):
        assert asyncio.run(asked(nonsense, state(page.fields))) == gr.skip()


def test_a_group_has_its_switch_in_the_header_of_its_fold() -> None:
    with gr.Blocks() as blocks:
        with gr.Column() as home:
            pass
        fields = Fields("tab", home)
        form = Form(Shape(GenerationParams), {}, fields=fields)
        with fields.panel(), form.switched("hires", "Hires fix", "tab_hires", label="On", on="tab_hires_on"):
            form.add("hires_scale", elem_id="tab_scale")
    (html,) = [block.value for block in blocks.blocks.values() if isinstance(block, gr.HTML)]
    header, _, body = html.partition('<div class="rp-fold-body"')
    assert 'role="switch"' in header and "tab_scale" in body
    assert form["hires_scale"].folds == ("tab_hires",)
    assert form.read([state(fields, hires=True, hires_scale=1.5)]).hires == Hires(scale=1.5)
    assert form.read([state(fields, hires_scale=1.5)]).hires is None


def test_a_part_that_cannot_be_built_leaves_a_sentence_and_no_field() -> None:
    def build() -> None:
        form.add("count")
        raise RuntimeError("<b>no</b>")

    with gr.Blocks() as blocks:
        with gr.Column() as home:
            pass
        fields = Fields("tab", home)
        form: Form[Thing] = Form(Shape(Thing), TABLES, fields=fields)
        with fields.panel():
            form.add("tick")
            contained("a part", build, form)
            form.add("weight")
    (html,) = [block.value for block in blocks.blocks.values() if isinstance(block, gr.HTML)]
    assert list(controls_in([html])) == ["tab_tick", "tab_weight"]
    assert "could not be built" in html and "<b>no" not in html
    assert json.loads(fields.state.value).keys() == {"tick", "weight"} == set(form.names)


def test_several_forms_share_the_fields_of_a_tab_under_prefixes() -> None:
    with gr.Blocks():
        with gr.Column() as home:
            pass
        fields = Fields("tab", home)
        forms = [Form(Shape(Thing), TABLES, fields=fields, prefix=prefix) for prefix in ("", "script.x.")]
        with fields.panel():
            for form in forms:
                form.add("count")
    sent: Mapping[str, Any] = {"count": 2, "script.x.count": 7}
    assert [form.read([json.dumps(sent)]).count for form in forms] == [2, 7]
    assert json.loads(forms[1].show({"count": 4})[0])["values"] == {"script.x.count": 4}
