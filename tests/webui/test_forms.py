"""Declared options as components, and components' values as requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import pytest

from modules.errors import UserError
from modules.params.generation import GenerationParams, Hires, Mask, SoftInpainting
from modules.params.options import Shape, option, options_of
from webui.context import Sent, Target
from webui.forms import Form, choices_of, control


@dataclass(frozen=True)
class Thing:
    word: str = option("one", "Word", choices="words")
    fixed: str = option("a", "Fixed", choices=("a", "b"))
    text: str = option("", "Text", multiline=True)
    count: int = option(3, "Count", lo=1, hi=9, step=1, help="how many")
    weight: float = option(0.5, "Weight", lo=0.0, hi=1.0, step=0.1)
    seed: int = option(-1, "Seed", lo=-1, hi=99)
    maybe: float | None = option(None, "Maybe", lo=0.0, hi=1.0, step=0.1)
    tick: bool = option(True, "Tick")


TABLES = {"words": lambda: ("one", "two")}


@pytest.fixture
def form() -> Form[Thing]:
    with gr.Blocks():
        made = Form(Shape(Thing), TABLES)
        for name in made.options:
            made.add(name)
    return made


def test_each_kind_of_option_has_its_component(form: Form[Thing]) -> None:
    kinds = {name: type(form[name]).__name__ for name in form.names}
    assert kinds == {
        "word": "Dropdown",
        "fixed": "Dropdown",
        "text": "Textbox",
        "count": "Slider",
        "weight": "Slider",
        "seed": "Number",
        "maybe": "Textbox",
        "tick": "Checkbox",
    }


def test_a_new_page_is_sent_only_what_it_was_not_built_with(form: Form[Thing]) -> None:
    """A late answer must not take back what somebody has typed since."""
    sent = dict(zip(form.names, form.begin({"count": 3, "weight": 0.7, "fixed": "a", "word": "two"}), strict=True))
    assert {name: value for name, value in sent.items() if value != gr.skip()} == {"weight": 0.7, "word": "two"}


def test_a_component_says_what_its_option_says(form: Form[Thing]) -> None:
    count = form["count"]
    assert (count.label, count.value, count.minimum, count.maximum, count.step) == ("Count", 3, 1, 9, 1)
    assert (count.info, count.precision) == ("how many", 0)
    assert form["weight"].precision is None
    assert [value for _, value in form["word"].choices] == ["one", "two"]


def test_a_seed_is_text_for_the_page_has_no_numbers_of_20_digits() -> None:
    with gr.Blocks():
        made = Form(Shape(GenerationParams), {})
        seed = made.add("seed")
        made.add("ensd")
    assert (type(seed).__name__, seed.value, seed.max_lines) == ("Textbox", "-1", 1)
    assert made.read(["18446744073709551615", "-31337"]).seed == 2**64 - 1
    shown = made.show({"seed": 2**64 - 1, "ensd": 0})
    assert seed.postprocess(shown[0]) == "18446744073709551615"


def test_every_declared_parameter_has_a_component() -> None:
    tables = {"samplers": lambda: ["Euler a"], "schedulers": lambda: ["Automatic"], "checkpoints": lambda: ["m"]}
    same = {f"hires_{name}": lambda: [""] for name in tables}
    tables |= {
        **same,
        "hires_upscalers": lambda: ["Latent"],
        "vaes": lambda: ["Automatic"],
        "text_encoders": lambda: ["Automatic"],
        "face_restorers": lambda: ["CodeFormer"],
    }
    tables["upscalers"] = lambda: ["Lanczos"]
    with gr.Blocks():
        made = Form(Shape(GenerationParams), tables)
        values = [made.add(name).value for name in made.options]
        values += [made.switch(name).value for name in ("init", "hires", "refiner")]
    assert made.read(values) == GenerationParams(checkpoint="m")


def test_what_is_switched_on_is_read_and_shown() -> None:
    with gr.Blocks():
        made = Form(Shape(GenerationParams), {})
        made.switch("hires")
        made.add("hires_scale")
        made.add("hires_steps")
    assert made.read([True, 1.5, 7]).hires == Hires(scale=1.5, steps=7)
    assert made.read([False, 1.5, 7]).hires is None
    assert made.show({"hires": {"scale": 3.0, "steps": 2}}) == [True, 3.0, 2]
    assert made.show({"hires": None})[0] is False


def test_what_is_switched_on_may_lie_within_another_group() -> None:
    with gr.Blocks():
        made = Form(Shape(GenerationParams), {})
        made.switch("mask_soft")
        made.add("mask_blur")
        made.add("mask_soft_preservation")
    on, off = (made.read([ticked, 9, 2.0]).init for ticked in (True, False))
    assert on
    assert on.mask == Mask(blur=9, soft=SoftInpainting(preservation=2.0))
    assert off
    assert off.mask == Mask(blur=9)
    assert made.show({"init": {"mask": {"blur": 3, "soft": {"preservation": 1.0}}}}) == [True, 3, 1.0]


def test_values_come_back_as_the_dataclass(form: Form[Thing]) -> None:
    assert form.read(["two", "b", "hi", 4.0, 0.25, "7", None, False]) == Thing(
        "two", "b", "hi", 4, 0.25, 7, None, False
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("count", 10_000, "Count must be between 1 and 9, not 10000"),
        ("count", None, "Count needs a value"),
        ("count", 1.5, "Count must be a whole number, not 1.5"),
        ("weight", float("nan"), "Weight must be a number, not nan"),
        ("fixed", "c", "Fixed must be one of a, b, not 'c'"),
        ("text", {"path": "/etc/passwd"}, "Text must be text, not {'path': '/etc/passwd'}"),
        ("text", ["a"], "Text must be text, not ['a']"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_field(
    form: Form[Thing], name: str, value: object, sentence: str
) -> None:
    values = [form[each].value for each in form.names]
    values[form.names.index(name)] = value
    with pytest.raises(UserError) as caught:
        form.read(values)
    assert str(caught.value) == sentence
    assert caught.value.field == name


@pytest.mark.parametrize(("typed", "meant"), [("", None), (None, None), ("0", 0.0), ("0.5", 0.5)])
def test_an_optional_number_may_be_left_empty(form: Form[Thing], typed: object, meant: float | None) -> None:
    values = [form[each].value for each in form.names]
    values[form.names.index("maybe")] = typed
    assert form.read(values).maybe == meant


def test_an_empty_dropdown_is_the_default(form: Form[Thing]) -> None:
    values = [form[each].value for each in form.names]
    values[0] = None
    assert form.read(values).word == "one"


def test_a_default_that_is_not_there_gives_way_to_the_first_choice() -> None:
    options = Form(Shape(Thing), {"words": lambda: ("six", "seven")}).options
    assert control(options["word"], {"words": lambda: ("six", "seven")}).value == "six"
    assert control(options["word"], {"words": tuple}).value is None


def test_choices_are_looked_up_each_time() -> None:
    words = ["one"]
    options = Form(Shape(Thing), TABLES).options
    assert choices_of(options["word"], {"words": lambda: words}) == ("one",)
    words.append("two")
    assert choices_of(options["word"], {"words": lambda: words}) == ("one", "two")
    assert choices_of(options["text"], {}) is None


def test_a_name_stands_in_a_form_once(form: Form[Thing]) -> None:
    with pytest.raises(ValueError, match="twice"):
        form.add("count")
    with pytest.raises(ValueError, match="no option"):
        form.adopt("nothing", form["count"])


def test_showing_values_leaves_the_rest_alone(form: Form[Thing]) -> None:
    shown = dict(zip(form.names, form.show({"count": 5, "seed": 3}, leave=("seed",)), strict=True))
    assert shown["count"] == 5
    assert shown["seed"] == shown["text"] == gr.skip()


def test_what_stands_above_the_tabs_is_not_made_twice_and_is_read_with_the_rest() -> None:
    with gr.Blocks():
        above = control(options_of(Thing)["word"], TABLES)
        one, other = Form(Shape(Thing), TABLES), Form(Shape(Thing), TABLES)
        for made in (one, other):
            made.share({"word": above})
            assert made.add("word") is above
            made.add("count")
    assert one["word"] is other["word"]
    assert one["count"] is not other["count"]
    assert one.read(["two", 5]) == Thing(word="two", count=5)
    assert one.listed(["words"]) == [(above, "words")]
    assert one.listed(["others"]) == []


@pytest.mark.parametrize(
    ("size", "asked"), [((40, 40), (64, 64)), ((40, 700), (64, 696)), ((3000, 63), (2048, 64)), ((128, 96), (128, 96))]
)
def test_a_picture_of_any_size_gives_a_request_that_can_be_done(size: tuple[int, int], asked: tuple[int, int]) -> None:
    """Where it is sent to a tab that starts from it, width and height follow, within their limits."""
    with gr.Blocks():
        form = Form(Shape(GenerationParams), {})
        sides = [form.add(side) for side in ("width", "height")]
        target = Target(form, gr.Textbox())
    values = target.shown(Sent(Path("a.png"), {}), size)
    shown = {id(component): value for component, value in zip(target.outputs, values, strict=True)}
    told = [shown[id(side)] for side in sides]
    assert [value["value"] if isinstance(value, dict) else value for value in told] == list(asked)
    GenerationParams.from_json({"width": asked[0], "height": asked[1]})
