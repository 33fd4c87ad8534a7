"""Explains a prompt as data for the inspector: the schedule, tokens, weights, and everything unusual.

>>> told = explain("a [cat:dog:0.5] # hm", steps=8)
>>> for segment in told["parts"][0]["passes"][0]["segments"]:
...     print(segment["from"], segment["to"], told["texts"][segment["text"]]["text"].strip())
1 5 a cat
6 8 a dog
>>> for warning in explain("a [cat:dog:0.9] (in snow", steps=8)["warnings"]:
...     print(warning["column"], warning["message"])
3 the edit at 0.9 never happens in 8 steps
17 unclosed (: everything after it is emphasised
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from modules.params.profile import A1111, Profile
from modules.prompt.chunks import LENGTH, Chunk, Chunked, Embeddings, Emphasis, chunk
from modules.prompt.parse import parse
from modules.prompt.schedule import Pass, Segment, entry_at, schedule_nodes
from modules.prompt.stages import Source, kept_tags, remove_comments, take_networks
from modules.prompt.tokens import Tokenizer, default_tokenizer
from modules.prompt.tree import Alternate, Edit, Group, NetworkTag, Node, Prompt, PromptPart, Warning

_MAX_TEXTS = 12
"""Limit of distinct texts whose tokens are listed; an alternation of many choices has many."""
_MAX_WARNINGS = 50
_MAX_BORDERS = 5
"""Limit of reported chunk boundaries."""


@dataclass(frozen=True)
class TimedPass:
    """One sampling pass, with the steps as the sampler makes them."""

    name: str
    steps: int
    calls_per_step: int
    counts: Pass
    profile: Profile

    @property
    def last(self) -> int:
        """The number of the last call, or of the last step if the profile counts steps. A sampler with two calls per
        step makes only one in its last.
        """
        return (self.steps - 1) * (self.calls_per_step if self.profile.double_steps else 1)

    def call(self, step: int) -> int:
        """The count at the beginning of the sampler's ``step``, from 1."""
        return (step - 1) * (self.calls_per_step if self.profile.double_steps else 1)

    def reaches(self, when: int) -> bool:
        """Whether what comes after step ``when`` is ever used."""
        return (self.last if self.profile.late_edits else self.last + 1) > when


def explain(
    text: str,
    *,
    steps: int,
    hires_steps: int = 0,
    calls_per_step: int = 1,
    negative: bool = False,
    profile: Profile = A1111,
    tokenizer: Tokenizer | None = None,
    embeddings: Embeddings | None = None,
    skipped: Mapping[str, str] | None = None,
    emphasis: Emphasis = "Original",
    backtrack: int = 20,
    old: bool = False,
    comments: bool = True,
    kinds: Collection[str] | None = None,
) -> dict[str, Any]:
    """Explain a prompt as JSON-ready data::

        parts     [{text, weight, column, passes: [{name, steps, segments: [{from, to, text}]}]}]  text: index in texts
        texts     [{text, count, limit, chunks: [{tokens: [{id, text, weight, embedding}], moved}]}]
        networks  [{kind, name, positional, named, column, applied}]
        warnings  [{column, message}]                             column from 1; null where there is none
        count, limit                                              of the longest text listed

    Steps are the sampler's own, from 1. ``calls_per_step`` is 2 for second-order samplers, ``hires_steps`` 0 without
    a second pass. Texts beyond the first twelve are listed without tokens. ``skipped``: names of embeddings that cannot
    be used, with the reason; a prompt that names one is warned. ``kinds`` are those of the network tags that something
    handles; None: all are.
    """
    tokenizer = tokenizer or default_tokenizer()
    parsed = parse(text, negative=negative, comments=comments)
    runs = _runs(steps, hires_steps, calls_per_step, profile, old)
    texts: dict[str, int] = {}
    parts = [_part(part, runs, texts) for part in parsed.tree.parts]
    chunked = [
        chunk(entry, tokenizer, embeddings=embeddings, emphasis=emphasis, backtrack=backtrack)
        for entry in list(texts)[:_MAX_TEXTS]
    ]
    warnings = [
        *parsed.warnings,
        *_late(parsed.tree, runs),
        *_twice(parsed.tree, runs[0]),
        *(_unheeded(parsed.tree.networks, kinds) if kinds is not None else ()),
        *(_kept(text, kinds, negative, comments) if kinds is not None else ()),
        *(_literal(text, comments) if negative else ()),
        *_skipped(text, list(texts)[:_MAX_TEXTS], skipped or {}, tokenizer),
    ]
    warnings.sort(key=lambda warning: warning.column)
    longest = max(chunked, key=lambda entry: entry.count)
    return {
        "parts": parts,
        "texts": [_text(entry, chunked[i] if i < len(chunked) else None, tokenizer) for i, entry in enumerate(texts)],
        "networks": [_network(tag, kinds) for tag in parsed.tree.networks],
        "warnings": [{"column": w.column, "message": w.message} for w in warnings[:_MAX_WARNINGS]]
        + [{"column": None, "message": message} for message in islice(_borders(chunked[0], tokenizer), _MAX_BORDERS)],
        "count": longest.count,
        "limit": longest.limit,
    }


def _runs(steps: int, hires_steps: int, calls: int, profile: Profile, old: bool) -> list[TimedPass]:
    times = calls if profile.double_steps else 1
    first = TimedPass("first pass", steps, calls, Pass(steps * times, steps * times, old=old), profile)
    if not hires_steps:
        return [first]
    second = Pass(hires_steps * times, steps * times, second=True, old=old)
    return [first, TimedPass("hires pass", hires_steps, calls, second, profile)]


def _part(part: PromptPart, runs: Sequence[TimedPass], texts: dict[str, int]) -> dict[str, Any]:
    passes = []
    for run in runs:
        segments = schedule_nodes(part.items, run.counts)
        passes.append({"name": run.name, "steps": run.steps, "segments": _ruler(segments, run, texts)})
    return {"text": part.text, "weight": part.weight, "column": part.column, "passes": passes}


def _ruler(segments: Sequence[Segment], run: TimedPass, texts: dict[str, int]) -> list[dict[str, int]]:
    """The texts over the sampler's steps as they are actually used, equal neighbours merged."""
    ruler: list[dict[str, int]] = []
    for step in range(1, run.steps + 1):
        text = segments[entry_at(segments, run.call(step), run.profile)].text
        index = texts.setdefault(text, len(texts))
        if ruler and ruler[-1]["text"] == index:
            ruler[-1]["to"] = step
        else:
            ruler.append({"from": step, "to": step, "text": index})
    return ruler


def _text(text: str, chunked: Chunked | None, tokenizer: Tokenizer) -> dict[str, Any]:
    if chunked is None:
        return {"text": text, "count": None, "limit": None, "chunks": []}
    chunks = [{"tokens": _tokens(c, tokenizer), "moved": c.moved} for c in chunked.chunks]
    return {"text": text, "count": chunked.count, "limit": chunked.limit, "chunks": chunks}


def _tokens(chunk: Chunk, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    own = slice(1, 1 + chunk.length)
    tokens: list[dict[str, Any]] = [
        {"id": i, "text": word, "weight": weight, "embedding": None}
        for i, word, weight in zip(chunk.ids[own], tokenizer.words(chunk.ids[own]), chunk.weights[own], strict=True)
    ]
    for mark in chunk.marks:
        for token in tokens[mark.offset : mark.offset + mark.vectors]:
            token["embedding"] = token["text"] = mark.name
    return tokens


def _network(tag: NetworkTag, kinds: Collection[str] | None) -> dict[str, Any]:
    name = tag.positional[0] if tag.positional else ""
    return {
        "kind": tag.kind,
        "name": name,
        "positional": list(tag.positional),
        "named": dict(tag.named),
        "column": tag.column,
        "applied": kinds is None or tag.kind in kinds,
    }


def _unheeded(tags: Sequence[NetworkTag], kinds: Collection[str]) -> Iterator[Warning]:
    """Tags that are removed from the prompt and have no effect."""
    for tag in tags:
        if tag.kind not in kinds:
            name = " ".join((tag.kind, *tag.positional[:1]))
            yield Warning(tag.column, f"{name} is not applied: nothing here handles such networks")


def _kept(text: str, kinds: Collection[str], negative: bool, comments: bool) -> Iterator[Warning]:
    """What looks like a tag and is text, and tags that swallow the beginning of another."""
    source, tags = take_networks(remove_comments(Source(text)) if comments else Source(text))
    for at, beginning in kept_tags(source.text, kinds):
        yield Warning(source.column(at), kept_message(beginning))
    for tag in tags:
        if "<" in tag.arguments and not negative:
            yield Warning(
                tag.column, f"all up to the next > is one tag of {tag.kind}: a > before the second < is missing"
            )


def kept_message(beginning: str) -> str:
    """What to say of a tag that is none."""
    return f"{beginning} is plain text and no network: a tag reads <lora:NAME:0.8>, with the > at its end"


def _literal(text: str, comments: bool) -> Iterator[Warning]:
    """Tags in a negative prompt, where A1111 treats them as text."""
    source = remove_comments(Source(text)) if comments else Source(text)
    for tag in take_networks(source)[1]:
        yield Warning(tag.column, f"a network tag in a negative prompt is plain text: {tag.kind} is not applied here")


def _changes(tree: Prompt) -> Iterator[Edit | Alternate]:
    """All edits and alternations, at any depth."""
    waiting: list[Node] = [node for part in tree.parts for node in part.items]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Group):
            waiting += [*node.items, *(node.tail or ())]
        elif isinstance(node, Edit):
            yield node
            waiting += [*node.before, *node.after]
        elif isinstance(node, Alternate):
            yield node
            waiting += [child for choice in node.choices for child in choice]


def _late(tree: Prompt, runs: Sequence[TimedPass]) -> Iterator[Warning]:
    """Edits one side of which is never used."""
    passes = " and ".join(str(run.steps) for run in runs)
    for edit in _changes(tree):
        if not isinstance(edit, Edit):
            continue
        whens = [run.counts.when(edit.when) for run in runs]
        if not any(run.reaches(when) for run, when in zip(runs, whens, strict=True)):
            yield Warning(edit.column, f"the edit at {edit.when} never happens in {passes} steps")
        elif edit.before and all(when < 1 for when in whens):
            yield Warning(
                edit.column, f"the edit at {edit.when} happens before the first step: its first text never shows"
            )


def _twice(tree: Prompt, run: TimedPass) -> Iterator[Warning]:
    if run.calls_per_step > 1 and run.profile.double_steps and (change := next(_changes(tree), None)):
        yield Warning(
            change.column,
            f"this sampler calls the model twice per step: whole numbers count calls, {run.counts.steps} in this run",
        )


def _skipped(text: str, entries: Sequence[str], skipped: Mapping[str, str], tokenizer: Tokenizer) -> Iterator[Warning]:
    """Embeddings that a text names and the model cannot use, each at its first place, with the reason."""
    names = Embeddings(tokenizer, [(name, 1) for name in skipped])
    chunks = [one for entry in entries for one in chunk(entry, tokenizer, embeddings=names).chunks] if skipped else []
    for name in dict.fromkeys(mark.name for one in chunks for mark in one.marks):
        column = text.casefold().find(name.casefold()) + 1
        yield Warning(column or 1, f"the embedding {name} is left out: {skipped[name]}")


def _borders(chunked: Chunked, tokenizer: Tokenizer) -> Iterator[str]:
    """Where chunks end because they were full, and where the comma rule kept a phrase together."""
    for number, (before, after) in enumerate(zip(chunked.chunks, chunked.chunks[1:], strict=False), 1):
        if after.moved:
            words = "".join(f" {word}" for word in tokenizer.words(after.ids[1 : 1 + min(after.moved, 5)]))
            yield (
                f"chunk {number} is full: {after.moved} tokens behind its last comma moved to chunk {number + 1},"
                f" so that the phrase beginning{words} stays whole"
            )
        elif before.length == LENGTH:
            word = tokenizer.words(before.ids[LENGTH : LENGTH + 1])[0]
            yield f"chunk {number} of {LENGTH} tokens is full: the text is cut behind {word!r}"
