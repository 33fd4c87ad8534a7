"""HTML of the prompt inspector: the output of `modules.pipeline.explain`, every value escaped.

Under each prompt box stands a line with the token count and what is odd; the panel shows rulers over the steps, tokens
by chunk, and networks. Sizes are bounded: a prompt of 20,000 characters gives a page of a few hundred kilobytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import pairwise
from typing import Any

Explained = Mapping[str, Any]
"""The output of `modules.prompt.explain.explain` for one prompt."""
Piece = tuple[str, bool]
"""A stretch of text, and whether it differs."""

EMPTY: Explained = {"warnings": (), "count": 0, "limit": 75}
"""The `line_html` input for an empty prompt."""
COLOURS = 6
"""Colours of texts, in turn; style.css has them."""
_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_COMPARED = 150
"""Word limit of the comparison; a longer change is shown as one."""
_CONTEXT = 48
"""Characters of unchanged text shown beside a change."""
_MAX_LINES, _MAX_WARNINGS, _MAX_LANES, _MAX_BLOCKS, _MAX_ENTRIES, _MAX_TEXTS = 2, 20, 8, 40, 8, 4
_MAX_TOKENS = 750
_MAX_LABEL = 60


def toggle_html(panel: str) -> str:
    """A button that opens the element ``panel``; script.js keeps its state."""
    return (
        f'<button type="button" class="rp-toggle" aria-expanded="false" aria-controls="{escape(panel)}"'
        ' title="What the prompts mean, step by step and token by token">Inspect</button>'
    )


def note_html(text: str) -> str:
    """A note on what was done with styles."""
    return f'<div class="rp-note" role="status">{_said(text)}</div>'


def line_html(explained: Explained, box: str, offset: int = 0, length: int = 0, quiet: str = "") -> str:
    """The line under a prompt box: its first warnings and the token count; ``quiet``: what is worth knowing besides.

    ``box`` is the element id of the text box, in which a click on a warning puts the cursor. Where styles stand around
    the person's own text, that is ``length`` characters from ``offset`` of what ``explained`` is about.
    """
    warnings = explained["warnings"]
    marks = [w["column"] - offset for w in warnings if w["column"] and 0 < w["column"] - offset <= length]
    lines = "".join(_warning(w, box, offset, length) for w in warnings[:_MAX_LINES])
    if more := len(warnings) - _MAX_LINES:
        lines += f"<p>and {more} more, in the inspector</p>" if more > 0 else ""
    lines += f'<p class="rp-quiet">{escape(quiet)}</p>' if quiet else ""
    count, limit = explained["count"], explained["limit"]
    title = f"{count} tokens in chunks of 75; the longest of the texts where there are several"
    return (
        f'<div class="rp-line" data-box="{escape(box)}" data-marks="{" ".join(map(str, marks))}">'
        f'<div role="status">{lines}</div>'
        f'<span class="rp-count" title="{title}" aria-label="{count} of {limit} tokens">{count}/{limit}</span></div>'
    )


def trouble_html(text: str) -> str:
    """The same line if a prompt cannot be explained, with the reason."""
    return f'<div class="rp-line"><div role="status">{_said(text)}</div><span class="rp-count"></span></div>'


def _warning(warning: Explained, box: str, offset: int, length: int) -> str:
    """A warning; with a position, it gets a button that moves the cursor there."""
    message = escape(warning["message"])
    if warning["column"] is None:
        return f"<p>{message[:1].upper() + message[1:]}</p>"
    column = warning["column"] - offset
    if not 0 < column <= length:
        return f"<p>In a style: {message}</p>"
    return (
        f'<p><button type="button" class="rp-goto" data-box="{escape(box)}" data-column="{column}"'
        f' title="Put the cursor there">column {column}</button> {message}</p>'
    )


def _said(text: str) -> str:
    return f"<p>{escape(text[:1].upper() + text[1:])}</p>" if text else ""


def inspector_html(
    explained: Mapping[str, Explained], boxes: Mapping[str, str], offsets: Mapping[str, tuple[int, int]]
) -> str:
    """The inspector panel for ``prompt`` and ``negative_prompt``; ``boxes`` are their element ids, ``offsets`` as in
    `line_html`.
    """
    sections = [
        _section(explained[name], title, boxes[name], *offsets[name])
        for name, title in (("prompt", "Prompt"), ("negative_prompt", "Negative prompt"))
        if explained[name]["count"] or explained[name]["warnings"] or name == "prompt"
    ]
    return f'<div class="rp-inspector">{"".join(sections)}</div>'


def _section(explained: Explained, title: str, box: str, offset: int, length: int) -> str:
    warnings = explained["warnings"]
    inner = _networks(explained["networks"])
    if warnings:
        rest = "".join(_warning(w, box, offset, length) for w in warnings[:_MAX_WARNINGS])
        if (more := len(warnings) - _MAX_WARNINGS) > 0:
            rest += f"<p>and {more} more</p>"
        inner += f'<div class="rp-odd"><h4>What is odd</h4>{rest}</div>'
    if explained["count"] or len(explained["texts"]) > 1:
        inner = _rulers(explained) + _tokens(explained) + inner
    elif not inner:
        inner = '<p class="rp-quiet">Nothing is typed yet.</p>'
    return f'<section aria-label="{escape(title)}"><h3>{escape(title)}</h3>{inner}</section>'


# Rulers


def _rulers(explained: Explained) -> str:
    """One ruler for each pass, with a lane for each AND part."""
    parts = explained["parts"]
    passes = range(len(parts[0]["passes"]))
    changing = any(len(run["segments"]) > 1 for part in parts for run in part["passes"])
    intro = f"{len(parts)} texts, joined by AND, draw one picture together, each by its weight. " * (len(parts) > 1)
    if changing:
        intro += "The picture is drawn step by step, from rough shapes to fine detail. The text changes on the way:"
    rulers = "".join(_ruler(explained, number, len(passes) > 1) for number in passes)
    return (f'<p class="rp-quiet">{intro.strip()}</p>' if intro else "") + rulers


def _ruler(explained: Explained, number: int, named: bool) -> str:
    parts = explained["parts"]
    run = parts[0]["passes"][number]
    steps = run["steps"]
    by_length = sorted((part["passes"][number]["segments"] for part in parts[:_MAX_LANES]), key=len)
    starts = [segment["from"] for segments in by_length for segment in segments]
    heading = f"<h4>{escape(run['name'].capitalize())}, {_plural(steps, 'step')}</h4>" if named else ""
    scale = "".join(
        f'<i class="last">{at}</i>'
        if at == steps > 1
        else f'<i style="left:{100 * (at - 1) / steps:.2f}%"><span>step </span>{at}</i>'
        for at in ticks(steps, starts)
    )
    lanes = "".join(
        _lane(explained["texts"], part, part["passes"][number]["segments"], steps, len(parts) > 1)
        for part in parts[:_MAX_LANES]
    )
    if (more := len(parts) - _MAX_LANES) > 0:
        lanes += f'<p class="rp-quiet">and {_plural(more, "text")} more</p>'
    return f'<div class="rp-ruler">{heading}<div class="rp-scale" aria-hidden="true">{scale}</div>{lanes}</div>'


def ticks(steps: int, starts: Sequence[int]) -> list[int]:
    """The step labels of the scale: the first, the last, and ``starts``, where texts begin, as far as there is room.

    >>> ticks(20, [1, 12]), ticks(20, [1, 2, 3, 19]), ticks(1, [1])
    ([1, 12, 20], [1, 20], [1])
    """
    room = max(steps / 7, 1)
    chosen = [1] if steps == 1 else [1, steps]
    for at in starts:
        if all(abs(at - other) >= room for other in chosen):
            chosen.append(at)
    return sorted(chosen)


def _lane(texts: Sequence[Explained], part: Explained, segments: Sequence[Explained], steps: int, weighed: bool) -> str:
    """Coloured blocks over the steps; below them each distinct text in full, with its steps."""
    pieces = _pieces(texts, segments)
    ranges: dict[int, list[tuple[int, int]]] = {}
    for segment in segments:
        ranges.setdefault(segment["text"], []).append((segment["from"], segment["to"]))
    colour = {text: number % COLOURS for number, text in enumerate(ranges)}
    blocks = ""
    for number, segment in enumerate(segments):
        label = _label(pieces, segments, number) if number < _MAX_BLOCKS else ""
        span = f"{segment['from']} / {segment['to'] + 1}"
        kept = ' translate="no"' if len(segments) > 1 else ""
        blocks += f'<span class="rp-block c{colour[segment["text"]]}" style="grid-column:{span}"{kept}>{label}</span>'
    entries = "".join(
        f'<li><i class="c{colour[text]}" aria-hidden="true"></i><b>{_ranges(held, steps)}</b>'
        f'<span translate="no">{_marked(pieces.get(text) or [(texts[text]["text"].strip(), False)])}</span></li>'
        for text, held in list(ranges.items())[:_MAX_ENTRIES]
    )
    if (more := len(ranges) - _MAX_ENTRIES) > 0:
        entries += f"<li><i></i><b></b><span>and {_plural(more, 'text')} more</span></li>"
    name = f'<p class="rp-weight">weight {part["weight"]:g}</p>' if weighed else ""
    return (
        f'<div class="rp-lane">{name}'
        f'<div class="rp-blocks" style="--n:{steps}" aria-hidden="true">{blocks}</div><ul>{entries}</ul></div>'
    )


def _pieces(texts: Sequence[Explained], segments: Sequence[Explained]) -> dict[int, list[Piece]]:
    """Each text of a lane with its changes marked: against the previous one, the first against the second."""
    found: dict[int, list[Piece]] = {}
    for before, after in pairwise(segments[:_MAX_BLOCKS]):
        if before["text"] in found and after["text"] in found:
            continue
        old, new = differences(texts[before["text"]]["text"].strip(), texts[after["text"]]["text"].strip())
        found.setdefault(before["text"], old)
        found.setdefault(after["text"], new)
    return found


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts split into pieces, with those marked that occur in only one.

    >>> old, new = differences("a cat in snow", "a dog in snow")
    >>> new
    [('a ', False), ('dog', True), (' in snow', False)]
    >>> differences("a fox", "a fox with a hat")[0]
    [('a fox', False)]
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    head = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    tail, room = 0, min(len(old), len(new)) - head
    while tail < room and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    middles = old[head : len(old) - tail], new[head : len(new) - tail]
    if max(map(len, middles)) > _COMPARED:
        same: list[tuple[int, int, int]] = []
    else:
        matches = SequenceMatcher(None, *middles, autojunk=False).get_matching_blocks()
        same = [
            (m.a, m.b, m.size) for m in matches if any(not word.isspace() for word in middles[0][m.a : m.a + m.size])
        ]
    sides = []
    for side, words in enumerate((old, new)):
        changed = [False] * head + [True] * len(middles[side]) + [False] * tail
        for match in same:
            start = head + match[side]
            changed[start : start + match[2]] = [False] * match[2]
        sides.append(_joined(words, changed))
    return sides[0], sides[1]


def _joined(words: Sequence[str], changed: Sequence[bool]) -> list[Piece]:
    joined: list[tuple[list[str], bool]] = []
    for word, is_new in zip(words, changed, strict=True):
        if joined and joined[-1][1] == is_new:
            joined[-1][0].append(word)
        else:
            joined.append(([word], is_new))
    return [("".join(run), is_new) for run, is_new in joined]


def _label(pieces: Mapping[int, list[Piece]], segments: Sequence[Explained], number: int) -> str:
    """The label of a block: the words unique to it; if there are none, its neighbour's, struck out."""
    if len(segments) == 1:
        return "the same text in every step"
    own = _own(pieces.get(segments[number]["text"], []))
    if own:
        return escape(own)
    neighbour = segments[number - 1 if number else 1]
    lost = _own(pieces.get(neighbour["text"], []))
    return f"<s>{escape(lost)}</s>" if lost else ""


def _own(pieces: Sequence[Piece]) -> str:
    words = " … ".join(text.strip(" ,") for text, changed in pieces if changed and text.strip(" ,"))
    return _cut(words, _MAX_LABEL)


def _marked(pieces: Sequence[Piece]) -> str:
    """A text with its changes marked; long unchanged stretches are shortened in the middle."""
    shown = ""
    for number, (text, changed) in enumerate(pieces):
        if changed and text.strip():
            shown += f"<mark>{escape(_cut(text, 4 * _CONTEXT))}</mark>"
            continue
        left, right = number > 0, number < len(pieces) - 1
        room = _CONTEXT if left or right else 6 * _CONTEXT
        if len(text) > 2 * room:
            text = (text[:room] if left or not right else "") + " … " + (text[-room:] if right else "")
        shown += escape(text)
    return shown or '<em class="rp-quiet">no text</em>'


def _ranges(held: Sequence[tuple[int, int]], steps: int) -> str:
    """Ranges of steps as text.

    >>> _ranges([(1, 5)], 8), _ranges([(1, 8)], 8), _ranges([(1, 1), (3, 3)], 3)
    ('steps 1 to 5', 'all 8 steps', 'steps 1, 3')
    >>> _ranges([(n, n) for n in range(1, 20, 2)], 20)
    'steps 1, 3, 5, 7, … 19'
    """
    if held == [(1, steps)]:
        return f"all {steps} steps" if steps > 1 else "the one step"
    if len(held) == 1 and held[0][0] < held[0][1]:
        return f"steps {held[0][0]} to {held[0][1]}"
    spans = [str(a) if a == b else f"{a}-{b}" for a, b in held]
    if len(spans) > 6:
        spans = [*spans[:4], f"… {spans[-1]}"]
    return f"step{'s' if len(spans) > 1 else ''} {', '.join(spans)}"


# Tokens and networks


def _tokens(explained: Explained) -> str:
    """The tokens of the first few texts, chunk by chunk."""
    listed = [text for text in explained["texts"] if text["chunks"] and text["count"]]
    left, shown = _MAX_TOKENS, ""
    for text in listed[:_MAX_TEXTS]:
        name = (
            f'<p class="rp-quiet" translate="no">{escape(_cut(text["text"].strip(), 90))}</p>'
            if len(listed) > 1
            else ""
        )
        for number, chunk in enumerate(text["chunks"], 1):
            tokens = chunk["tokens"]
            inner = "".join(map(_token, tokens[:left]))
            if len(tokens) > left:
                inner += f'<span class="rp-quiet">and {len(tokens) - max(left, 0)} more</span>'
            left = max(left - len(tokens), 0)
            head = f"<b>chunk {number}, {len(tokens)}/75</b>"
            shown += f'{name}<div class="rp-chunk">{head}<div translate="no">{inner}</div></div>'
            name = ""
            if not left:
                break
        if not left:
            break
    total = sum(len(chunk["tokens"]) for text in explained["texts"] for chunk in text["chunks"])
    cut = ""
    if total > _MAX_TOKENS or len(listed) > _MAX_TEXTS or len(listed) < len(explained["texts"]):
        cut = '<p class="rp-quiet">Not all tokens of all texts are listed here.</p>' if listed else ""
    return (
        f"<h4>Tokens, as the model reads them</h4>"
        f'<div class="rp-tokens" tabindex="0" role="region" aria-label="Tokens">{shown}</div>{cut}'
    )


def _token(token: Explained) -> str:
    """The HTML of one token, with its weight.

    >>> _token({"id": 736, "text": "red", "weight": 1.3, "embedding": None})
    '<span class="up" style="--w:60%" title="id 736, weight 1.3">red<sup>1.3</sup></span>'
    """
    weight, title = token["weight"], f"id {token['id']}, weight {token['weight']:.4g}"
    if token["embedding"]:
        title = f"a vector of the embedding {token['embedding']}, weight {weight:.4g}"
    kind, strength, note = "", "", ""
    if weight != 1:
        kind = "up" if weight > 1 else "down"
        part = min(30 + 100 * abs(weight - 1), 100) if math.isfinite(weight) else 100
        strength, note = f' style="--w:{part:.0f}%"', f"<sup>{weight:.3g}</sup>"
    kind += " own" if token["embedding"] else ""
    classes = f' class="{kind.strip()}"' if kind else ""
    return f'<span{classes}{strength} title="{escape(title)}">{escape(token["text"])}{note}</span>'


def _networks(networks: Sequence[Explained]) -> str:
    """Those that are applied, then those that are not."""
    headings = {True: "Extra networks", False: "Extra networks, not applied"}
    by_use = {applied: [n for n in networks if n["applied"] == applied] for applied in headings}
    return "".join(
        f'<h4>{headings[applied]}</h4><div class="rp-chips" translate="no">{_chips(those)}</div>'
        for applied, those in by_use.items()
        if those
    )


def _chips(networks: Sequence[Explained]) -> str:
    return "".join(
        f'<span class="rp-chip"><b>{escape(n["kind"])}</b> {escape(_cut(n["name"] or "(no name)", 60))}'
        + "".join(f" · {escape(_cut(value, 20))}" for value in n["positional"][1:4])
        + "".join(f" · {escape(_cut(f'{key}={value}', 30))}" for key, value in list(n["named"].items())[:4])
        + "".join(_strengths(run) for run in n.get("passes", ()) if len(run["segments"]) > 1)
        + "</span>"
        for n in networks[:_MAX_WARNINGS]
    )


def _strengths(run: Explained) -> str:
    """How strong a network is over the steps of a pass, as bars under each other's widths."""
    segments = run["segments"]
    most = max(abs(segment["weight"]) for segment in segments) or 1
    bars = "".join(
        f'<i style="--n:{s["to"] - s["from"] + 1};--h:{100 * abs(s["weight"]) / most:.0f}%"'
        f' title="{escape(_ranges([(s["from"], s["to"])], run["steps"]))}: {s["weight"]:.3g}"></i>'
        for s in segments[:_MAX_BLOCKS]
    )
    spans = [f"{_ranges([(s['from'], s['to'])], run['steps'])}: {s['weight']:.3g}" for s in segments[:_MAX_BLOCKS]]
    return f'<span class="rp-strengths" role="img" aria-label="{escape("; ".join(spans))}">{bars}</span>'


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
