"""X/Y/Z plot: one request along up to three axes, each cell a job of its own, drawn as sheets with a legend.

Any declared option can be an axis, those of extensions too, and "Prompt S/R" and "Prompt order" as in A1111. Values:

- a list with commas; a value that holds one, or a line break, stands in double quotes
- for texts also nothing: ``red, blue, ""`` or ``red, blue,``
- whole numbers: ``1-5``, ``1-9 (+2)``, ``1-100 [5]`` (five of them, evenly)
- numbers: ``0.2-1 (+0.2)``, ``1-10 [4]``
- ``*``: all values of a choice; the start of a name is enough where only one begins so
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modules import (
    NO_AXIS,
    ORDER_AXIS,
    SEARCH_AXIS,
    Axis,
    GenerationParams,
    Host,
    Outcome,
    Round,
    ScriptContext,
    ScriptSpec,
    Sheet,
    Steps,
    UserError,
    option,
)

COSTLY = ("Checkpoint", "VAE")
"""Options that take longer to change than an image takes to make: they vary in the outermost loop."""
MOST = 1000

RANGE = re.compile(
    r"\s*(?P<from>[-+]?[\d.]+)\s*-\s*(?P<to>[-+]?[\d.]+)\s*(?:\(\s*(?P<by>[-+]?[\d.]+)\s*\)|\[\s*(?P<n>\d+)\s*\])?\s*"
)


@dataclass(frozen=True)
class Options:
    """Options: three axes, and how they are drawn."""

    x_type: str = option("Seed", "X type", choices="axes")
    x_values: str = option("", "X values", help="1-5 · 1-9 (+2) · 1-100 [5] · a, b · *")
    y_type: str = option(NO_AXIS, "Y type", choices="axes")
    y_values: str = option("", "Y values")
    z_type: str = option(NO_AXIS, "Z type", choices="axes")
    z_values: str = option("", "Z values", help="one sheet for each")
    legend: bool = option(True, "Draw legend")
    new_seeds: bool = option(False, "Other seeds in each cell", help="otherwise all cells have the same seed")
    margin: int = option(0, "Grid margin", lo=0, hi=500, step=2, help="pixels between the pictures")


@dataclass(frozen=True)
class Values:
    """An axis with its values: how each changes a request, and its label."""

    kind: str
    changes: Sequence[Callable[[GenerationParams], GenerationParams]]
    names: Sequence[str]

    @property
    def labels(self) -> list[str]:
        """The labels: ``Steps: 20``; the words themselves for prompt axes; empty without an axis."""
        if self.kind == NO_AXIS:
            return [""]
        return (
            list(self.names)
            if self.kind in (SEARCH_AXIS, ORDER_AXIS)
            else [f"{self.kind}: {name}" for name in self.names]
        )


def run(params: GenerationParams, options: Options, context: ScriptContext) -> Steps:
    """Generate all cells; one sheet for each value of Z."""
    axes = [
        values_of(kind, text, letter, params, context)
        for letter, kind, text in (
            ("x", options.x_type, options.x_values),
            ("y", options.y_type, options.y_values),
            ("z", options.z_type, options.z_values),
        )
    ]
    count = math.prod(len(axis.names) for axis in axes)
    if count > MOST:
        raise UserError(f"the plot would have {count:,} cells and the limit is {MOST:,}", hint="give fewer values")
    places = sorted(
        itertools.product(*(range(len(axis.names)) for axis in axes)),
        key=lambda place: [place[i] for i in (0, 1, 2) if axes[i].kind in COSTLY] + [place[2], place[1], place[0]],
    )
    requests = [_request(params, axes, place) for place in places]
    if options.new_seeds:
        each = params.batch_size * params.batch_count
        requests = [request.changed(seed=request.seed_after(n * each)) for n, request in enumerate(requests)]
    names = [", ".join(filter(None, (axes[i].labels[place[i]] for i in (0, 1, 2)))) for place in places]
    outcomes: dict[tuple[int, ...], Outcome] = dict(zip(places, (yield Round(requests, names=names)), strict=True))
    x, y, z = axes
    return [
        Sheet(
            x.labels,
            y.labels,
            [[outcomes[i, j, k] for i in range(len(x.names))] for j in range(len(y.names))],
            title=z.labels[k],
            legend=options.legend,
            margin=options.margin,
            facts=_facts(options, z.names[k] if len(z.names) > 1 else ""),
        )
        for k in range(len(z.names))
    ]


def _request(params: GenerationParams, axes: Sequence[Values], place: Sequence[int]) -> GenerationParams:
    for axis, index in zip(axes, place, strict=True):
        params = axis.changes[index](params)
    return params


def _facts(options: Options, z: str) -> dict[str, str]:
    """The infotext keys of a grid, as A1111 writes them."""
    found: dict[str, str] = {}
    for letter in "xyz":
        kind, text = getattr(options, f"{letter}_type"), getattr(options, f"{letter}_values")
        if kind != NO_AXIS:
            found |= {f"{letter.upper()} Type": kind, f"{letter.upper()} Values": text}
    return found | ({"Z Value": z} if z else {})


def values_of(kind: str, text: str, letter: str, params: GenerationParams, context: ScriptContext) -> Values:
    """Parse the values of an axis; raises `UserError` with its field."""
    field = f"{letter}_values"
    if kind == NO_AXIS:
        return Values(kind, [lambda params: params], [""])
    if kind in (SEARCH_AXIS, ORDER_AXIS):
        words = listed(text, empty=kind == SEARCH_AXIS)
        if len(words) < 2:
            raise UserError(f"{kind} needs at least two texts", hint="separate them with commas", field=field)
        return _search(words, params, field) if kind == SEARCH_AXIS else _order(words, params, field)
    axes = context.axes()
    if kind not in axes:
        raise UserError(f"there is no axis {kind!r}", hint="choose one of the list", field=f"{letter}_type")
    axis = axes[kind]
    values = [axis.option.cast(value) for value in _values(axis, text, context, field)]
    if not values:
        raise UserError(f"{letter.upper()} has no values", hint="give some, as in 1-5 or a, b", field=field)
    return Values(kind, [_setting(axis, value) for value in values], [_shown(value) for value in values])


def _setting(axis: Axis, value: Any) -> Callable[[GenerationParams], GenerationParams]:
    return lambda params: axis.set(params, value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(axis: Axis, text: str, context: ScriptContext, field: str) -> list[Any]:
    if axis.option.type in (int, float):
        return [number for part in listed(text) for number in numbers(part, whole=axis.option.type is int)]
    choices = axis.option.choices
    if not isinstance(choices, (str, tuple)):
        return listed(text, empty=axis.option.type is str)
    table = list(context.choices(choices)) if isinstance(choices, str) else list(choices)
    if text.strip() == "*":
        return table
    return [_choice(name, table, axis.label, field) for name in listed(text)]


def _choice(name: str, table: Sequence[str], label: str, field: str) -> str:
    begin = [entry for entry in table if entry.casefold().startswith(name.casefold())]
    exact = [entry for entry in begin if entry.casefold() == name.casefold()]
    if len(exact or begin) != 1:
        some = ", ".join(repr(entry) for entry in (begin or table)[:6])
        raise UserError(f"{label} has {'several' if begin else 'no'} {name!r}", hint=f"there are {some}", field=field)
    return (exact or begin)[0]


def listed(text: str, *, empty: bool = False) -> list[str]:
    """Split a list of values; empty ones are kept if ``empty``.

    >>> listed('a, "b, c" ,d,'), listed('a, "",', empty=True)
    (['a', 'b, c', 'd'], ['a', '', ''])
    """
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    values = [value.strip() for row in rows for value in row]
    return values if empty else [value for value in values if value]


def numbers(text: str, *, whole: bool) -> list[Any]:
    """Expand numbers and ranges in A1111's notation.

    >>> numbers("1-3", whole=True), numbers("9-1 (-4)", whole=True), numbers("1-100 [5]", whole=True)
    ([1, 2, 3], [9, 5, 1], [1, 26, 50, 75, 100])
    >>> numbers("0.5-1 (+0.25)", whole=False), numbers("-3", whole=True), numbers("x", whole=True)
    ([0.5, 0.75, 1.0], ['-3'], ['x'])
    >>> numbers("9007199254740993-9007199254740995", whole=True)
    [9007199254740993, 9007199254740994, 9007199254740995]
    """
    match = RANGE.fullmatch(text)
    if match is None:
        return [text]
    try:
        first, last = _number(match["from"]), _number(match["to"])
        by = _number(match["by"]) if match["by"] else (1 if last >= first else -1)
    except ValueError:  # "1.2.3"
        return [text]
    if match["n"]:
        count = int(match["n"])
        if count > MOST:
            raise UserError(f"{text} has more than {MOST:,} values", hint="give fewer")
        found = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
    else:
        if by == 0 or (last - first) / by < 0:
            return []
        if (last - first) / by >= MOST:
            raise UserError(f"{text} has more than {MOST:,} values", hint="give fewer")
        found = [first + by * i for i in range(int((last - first) / by + 1e-9) + 1)]
    return [round(value) for value in found] if whole else [round(value, 9) for value in found]


def _number(text: str) -> int | float:
    """Parse a number, as an integer where possible: seeds have more digits than a float keeps."""
    return int(text) if re.fullmatch(r"[+-]?\d{1,20}", text) else float(text)


def _search(words: Sequence[str], params: GenerationParams, field: str) -> Values:
    """Prompt S/R: search the first text in both prompts, and replace it by each of them in turn."""
    sought = words[0]
    if not sought:
        raise UserError("Prompt S/R has nothing to look for", hint="begin with a text of the prompt", field=field)
    if sought not in params.prompt and sought not in params.negative_prompt:
        raise UserError(f"neither prompt has {sought!r}", hint="Prompt S/R replaces its first text", field=field)

    def replacing(word: str) -> Callable[[GenerationParams], GenerationParams]:
        return lambda params: params.changed(
            prompt=params.prompt.replace(sought, word), negative_prompt=params.negative_prompt.replace(sought, word)
        )

    return Values(SEARCH_AXIS, [replacing(word) for word in words], words)


def _order(words: Sequence[str], params: GenerationParams, field: str) -> Values:
    """Prompt order: all permutations of texts in the prompt."""
    for word in words:
        if word not in params.prompt:
            raise UserError(f"the prompt has no {word!r}", hint="Prompt order rearranges what is there", field=field)
    if math.factorial(len(words)) > MOST:
        raise UserError(f"{len(words)} texts have too many orders", hint="give six at most", field=field)

    def ordered(order: Sequence[str]) -> Callable[[GenerationParams], GenerationParams]:
        def changed(params: GenerationParams) -> GenerationParams:
            places = sorted((params.prompt.find(word), word) for word in words)
            made, done = "", 0
            for (place, old), new in zip(places, order, strict=True):
                made += params.prompt[done:place] + new
                done = place + len(old)
            return params.changed(prompt=made + params.prompt[done:])

        return changed

    orders = list(itertools.permutations(words))
    return Values(ORDER_AXIS, [ordered(order) for order in orders], [", ".join(order) for order in orders])


def register(host: Host) -> None:
    """Register the script for all tabs that generate images."""
    host.add_script(ScriptSpec("xyz_grid", "X/Y/Z plot", Options, run, help=(__doc__ or "").partition("\n")[0]))
