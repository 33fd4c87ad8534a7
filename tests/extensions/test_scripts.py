"""The scripts that we ship: which requests they make of one, and how they lay out what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from extensions import loopback, prompt_matrix, prompts_from_file, xyz_grid
from modules.errors import UserError
from modules.extension.script import GeneratedImage, Outcome, ScriptContext, Sheet, Steps, axes_of_params
from modules.params.generation import GenerationParams, Hires, Init

SAMPLERS = ("Euler a", "Euler", "DPM++ 2M", "DPM++ 2M SDE")
CONTEXT = ScriptContext(
    axes=axes_of_params,
    choices=lambda name: SAMPLERS if name == "samplers" else (),
    keep=lambda path: path.stem * 8,
)
ASKED = GenerationParams(prompt="a red fox, snow", negative_prompt="blur", seed=7, subseed=0)


def played(steps: Steps) -> tuple[list[GenerationParams], Sequence[Sheet]]:
    """All requests of a script, each answered by a picture named by its number; and its sheets."""
    asked: list[GenerationParams] = []
    try:
        turn = next(steps)
        while True:
            first = len(asked)
            asked += turn.requests
            turn = steps.send([outcome(n) for n in range(first, len(asked))])
    except StopIteration as end:
        return asked, end.value


def outcome(number: int) -> Outcome:
    return Outcome((GeneratedImage(f"/o/{number:08}.png", "", number),))


def plot(**options: Any) -> tuple[list[GenerationParams], Sequence[Sheet]]:
    return played(xyz_grid.run(ASKED, xyz_grid.Options(**options), CONTEXT))


def at(sheet: Sheet, asked: Sequence[GenerationParams]) -> list[list[GenerationParams]]:
    """The request behind each cell."""
    return [[asked[cell.images[0].seed] for cell in row] for row in sheet.cells]


def test_a_plot_makes_every_pair_and_each_cell_is_under_its_words() -> None:
    asked, (sheet,) = plot(x_type="Steps", x_values="10-30 (+10)", y_type="CFG scale", y_values="1, 7.5")
    assert list(sheet.columns) == ["Steps: 10", "Steps: 20", "Steps: 30"]
    assert list(sheet.rows) == ["CFG scale: 1", "CFG scale: 7.5"]
    assert [[(cell.steps, cell.cfg_scale) for cell in row] for row in at(sheet, asked)] == [
        [(10, 1.0), (20, 1.0), (30, 1.0)],
        [(10, 7.5), (20, 7.5), (30, 7.5)],
    ]
    assert {cell.seed for cell in asked} == {7}
    assert sheet.facts["X Type"] == "Steps" and sheet.facts["Y Values"] == "1, 7.5"


def test_a_third_axis_makes_a_sheet_for_each_value() -> None:
    asked, sheets = plot(x_type="Seed", x_values="1,2", z_type="Sampler", z_values="euler a, dpm++ 2m")
    assert [sheet.title for sheet in sheets] == ["Sampler: Euler a", "Sampler: DPM++ 2M"]
    assert [[cell.sampler for cell in at(sheet, asked)[0]] for sheet in sheets] == [["Euler a"] * 2, ["DPM++ 2M"] * 2]


def test_a_costly_axis_changes_least_often() -> None:
    context = ScriptContext(axes_of_params, lambda name: ("one", "two"), CONTEXT.keep)
    options = xyz_grid.Options(x_type="Checkpoint", x_values="*", y_type="Steps", y_values="1-3")
    asked, (sheet,) = played(xyz_grid.run(ASKED, options, context))
    assert [request.checkpoint for request in asked] == ["one"] * 3 + ["two"] * 3
    assert [[cell.checkpoint for cell in row] for row in at(sheet, asked)] == [["one", "two"]] * 3


def test_words_of_the_prompt_are_replaced_in_both_prompts() -> None:
    asked, (sheet,) = plot(x_type="Prompt S/R", x_values='red, blue, "dark, green"')
    assert [request.prompt for request in asked] == ["a red fox, snow", "a blue fox, snow", "a dark, green fox, snow"]
    assert list(sheet.columns) == ["red", "blue", "dark, green"]


@pytest.mark.parametrize(
    ("prompt", "text", "prompts"),
    [
        ("Yellow Truck", 'Yellow, Red, ""', ["Yellow Truck", "Red Truck", " Truck"]),
        ("Yellow Truck", "Yellow, Red,", ["Yellow Truck", "Red Truck", " Truck"]),
        ("Yellow Truck", "Yellow,", ["Yellow Truck", " Truck"]),
        ("Yellow\nFire Truck", '"Yellow\nFire", x', ["Yellow\nFire Truck", "x Truck"]),
        ("a, b", '"a, b", "say ""hi""", c\nd', ["a, b", 'say "hi"', "c", "d"]),
    ],
)
def test_words_may_be_replaced_by_nothing_and_hold_what_stands_in_quotes(
    prompt: str, text: str, prompts: list[str]
) -> None:
    options = xyz_grid.Options(x_type="Prompt S/R", x_values=text)
    asked, _ = played(xyz_grid.run(ASKED.changed(prompt=prompt), options, CONTEXT))
    assert [request.prompt for request in asked] == prompts


def test_an_axis_of_texts_may_say_nothing_and_one_of_numbers_passes_it_over() -> None:
    asked, _ = plot(x_type="Negative prompt", x_values='fog, "", "a, b"', y_type="Steps", y_values="1,,2,")
    assert [request.negative_prompt for request in asked[:3]] == ["fog", "", "a, b"]
    assert [request.steps for request in asked[::3]] == [1, 2]


def test_orders_of_words() -> None:
    asked, _ = plot(x_type="Prompt order", x_values="fox, snow")
    assert [request.prompt for request in asked] == ["a red fox, snow", "a red snow, fox"]


def test_options_within_a_group_and_new_seeds() -> None:
    asked, _ = plot(x_type="Upscale by", x_values="1.5,2", y_type="Batch size", y_values="2", new_seeds=True)
    assert [request.hires for request in asked] == [Hires(scale=1.5), Hires(scale=2.0)]
    assert [request.seed for request in asked] == [7, 8]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"x_type": "Steps", "x_values": ""}, "X has no values"),
        ({"x_type": "Steps", "x_values": "0-3"}, "Steps must be between 1 and 150"),
        ({"x_type": "Steps", "x_values": "ten"}, "Steps must be a whole number"),
        ({"x_type": "Sampler", "x_values": "DPM"}, "Sampler has several 'DPM'"),
        ({"x_type": "Sampler", "x_values": "Bogus"}, "Sampler has no 'Bogus'"),
        ({"x_type": "Nonsense", "x_values": "1"}, "there is no axis 'Nonsense'"),
        ({"x_type": "Prompt S/R", "x_values": "cat, dog"}, "neither prompt has 'cat'"),
        ({"x_type": "Prompt S/R", "x_values": "red"}, "needs at least two texts"),
        ({"x_type": "Prompt S/R", "x_values": '"", red'}, "nothing to look for"),
        ({"x_type": "Seed", "x_values": "1-50", "y_type": "Steps", "y_values": "1-50"}, "2,500 cells"),
        ({"x_type": "Seed", "x_values": "1-999999999"}, "more than 1,000 values"),
        ({"x_type": "Seed", "x_values": "1-2 [999999999]"}, "more than 1,000 values"),
    ],
)
def test_axes_that_make_no_sense_are_refused_in_a_sentence(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        plot(**options)


def matrix(prompt: str, **options: Any) -> tuple[list[GenerationParams], Sequence[Sheet]]:
    asked = ASKED.changed(prompt=prompt)
    return played(prompt_matrix.run(asked, prompt_matrix.Options(**options), CONTEXT))


def test_a_matrix_has_every_choice_of_the_parts_once() -> None:
    asked, (sheet,) = matrix("a fox|in snow|at night|on a hill")
    prompts = [request.prompt for request in asked]
    assert len(set(prompts)) == 8
    assert prompts[0] == "a fox" and prompts[-1] == "a fox, in snow, at night, on a hill"
    for j, row in enumerate(at(sheet, asked)):
        for i, cell in enumerate(row):
            assert ("in snow" in cell.prompt) == ("in snow" in sheet.columns[i])
            assert ("on a hill" in cell.prompt) == ("on a hill" in sheet.rows[j])


def test_a_matrix_puts_parts_where_it_is_told() -> None:
    asked, _ = matrix("a fox|in snow", at_start=True, joined_by=" ", new_seeds=True)
    assert [(request.prompt, request.seed) for request in asked] == [("a fox", 7), ("in snow a fox", 8)]


def test_a_matrix_without_parts_or_with_too_many_is_refused() -> None:
    with pytest.raises(UserError, match=r"no \|"):
        matrix("a fox")
    with pytest.raises(UserError, match="512 pictures"):
        matrix("a" + "|b" * 9)


def lines(text: str, **options: Any) -> list[GenerationParams]:
    return played(prompts_from_file.run(ASKED, prompts_from_file.Options(lines=text, **options), CONTEXT))[0]


def test_each_line_is_a_request() -> None:
    asked = lines('a cat\n\n--prompt "a dog" --steps 9 --seed 5 --sampler_name Euler --width 256\n', next_seed=True)
    assert [request.prompt for request in asked] == ["a cat", "a dog"]
    assert (asked[0].seed, asked[0].steps, asked[0].negative_prompt) == (7, ASKED.steps, "blur")
    assert (asked[1].seed, asked[1].steps, asked[1].sampler, asked[1].width) == (5, 9, "Euler", 256)


def test_lines_may_stand_beside_the_prompt() -> None:
    assert lines("at night", prompt="behind the prompt")[0].prompt == "a red fox, snow, at night"
    assert lines("at night", prompt="before the prompt")[0].prompt == "at night, a red fox, snow"


def test_prompts_of_a_line_need_no_quotes() -> None:
    (asked,) = lines('--prompt a red fox "at night" --steps 9 --negative_prompt fog, blur --styles x --tiling false')
    assert (asked.prompt, asked.steps, asked.negative_prompt) == ("a red fox at night", 9, "fog, blur")


@pytest.mark.parametrize(
    "line",
    ["--colour red --prompt a fox", '--prompt "a', "--steps", "--prompt", "--steps 9 a fox", "--", "a fox --steps 9"],
)
def test_a_line_whose_settings_cannot_be_read_is_a_prompt(line: str) -> None:
    first, second = lines(f"{line}\na cat")
    assert (first.prompt, first.steps, second.prompt) == (line, ASKED.steps, "a cat")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there are no prompts"),
        ("--prompt a --tiling True", "pictures that tile are not there yet"),
        ("a\n--steps ten", "line 2: Steps must be a whole number"),
        ("--steps 0", "line 1: Steps must be between 1 and 150"),
    ],
)
def test_lines_that_cannot_be_read_are_named(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        lines(text)


def test_loopback_starts_each_turn_from_the_last_picture() -> None:
    params = ASKED.changed(init=Init(image="f" * 64, denoising_strength=0.8), batch_size=4)
    options = loopback.Options(loops=3, final_strength=0.4)
    asked, (sheet,) = played(loopback.run(params, options, CONTEXT))
    inits = [request.init for request in asked]
    assert [init and init.image for init in inits] == ["f" * 64, "00000000" * 8, "00000001" * 8]
    assert [init and init.denoising_strength for init in inits] == [0.8, 0.6, 0.4]
    assert [(request.seed, request.batch_size) for request in asked] == [(7, 1), (8, 1), (9, 1)]
    assert list(sheet.columns) == ["1: 0.8", "2: 0.6", "3: 0.4"]


def test_curves_begin_and_end_alike() -> None:
    for curve in loopback.CURVES:
        options = loopback.Options(loops=5, final_strength=0.2, curve=curve)
        found = [loopback.strength(1.0, options, turn) for turn in range(5)]
        assert (found[0], found[-1]) == (1.0, 0.2)
        assert found == sorted(found, reverse=True)
    middle = {curve: loopback.strength(1.0, loopback.Options(3, 0.0, curve), 1) for curve in loopback.CURVES}
    assert middle["Aggressive"] < middle["Linear"] == 0.5 < middle["Lazy"]


def test_loopback_needs_a_picture_and_stops_where_none_comes() -> None:
    with pytest.raises(UserError, match="starts from a picture"):
        played(loopback.run(ASKED, loopback.Options(), CONTEXT))
    steps = loopback.run(ASKED.changed(init=Init(image="f" * 64)), loopback.Options(), CONTEXT)
    next(steps)
    with pytest.raises(UserError, match="turn 1 made no picture"):
        steps.send([Outcome(error="no memory")])
