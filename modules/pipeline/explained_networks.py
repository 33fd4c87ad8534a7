"""What the network tags of a prompt will do, as data for the inspector: files, strengths, and what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import Any

from modules.checkpoints.networks.arguments import (
    HYPERNET_TAG,
    LORA_TAGS,
    BadTag,
    Use,
    placed,
    split_arguments,
    strength_at,
    uses,
)
from modules.checkpoints.networks.listing import NetworkListing
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA, NetworkShelf
from modules.params.profile import EXACT
from modules.prompt.clock import Clock
from modules.prompt.parse import parse
from modules.prompt.tree import NetworkTag, Warning

WORDS = {LORA: "LoRA", HYPERNETWORK: "hypernetwork"}
Told = dict[str, Any]
MOST = 40
"""Tags that are looked at, of each kind."""


def networks_told(
    prompt: str,
    clocks: Sequence[tuple[str, Clock, int]],
    shelf: NetworkShelf,
    kinds: Container[str] = (*LORA_TAGS, HYPERNET_TAG),
    family: str = "",
) -> tuple[dict[int, Told], list[Warning]]:
    """By the columns of their tags ``{file, te, passes: [{name, steps, segments: [{from, to, weight}]}], problem}``,
    and warnings. ``clocks``: each pass's name, how it counts, and its network calls per step. ``kinds`` of tags are
    looked at; ``family`` is the model's.
    """
    tags = parse(prompt).tree.networks
    explained: dict[int, Told] = {}
    warnings: list[Warning] = []
    places = placed(prompt, clocks[0][1].run, len(tags))
    for role, alike in ((LORA, LORA_TAGS), (HYPERNETWORK, (HYPERNET_TAG,))):
        own = [(i, tag) for i, tag in enumerate(tags) if tag.kind in alike and tag.kind in kinds]
        try:
            found = [{use.column: use for use in uses(prompt, clock, alike)} for _, clock, _ in clocks]
        except BadTag as error:
            why = f"no {alike[0]} is applied: {error}"
            warnings += [Warning(tag.column, why) for _, tag in own[:1]]
            explained |= {tag.column: {"problem": why} for _, tag in own}
            continue
        listing = shelf.listed(role) if own else NetworkListing()
        for number, tag in own[:MOST]:
            problem = _problem(role, tag, listing, family)
            one = next((by_column[tag.column] for by_column in found if tag.column in by_column), None)
            if problem:
                warnings.append(Warning(tag.column, problem))
            elif one and one.passed_over:
                warnings.append(Warning(tag.column, one.passed_over))
            explained[tag.column] = {
                **_entry(tag, [by_column.get(tag.column) for by_column in found], clocks, listing),
                "te": one.te if one else 0.0,
                "problem": problem,
            }
            if clocks[0][1].profile != EXACT and not all(segment.text for segment in places[number]):
                warnings.append(Warning(tag.column, _late(tag)))
        if alike == LORA_TAGS and clocks[0][1].profile != EXACT:
            warnings += _twice([tag for _, tag in own])
    return explained, warnings


def _problem(role: str, tag: NetworkTag, listing: NetworkListing, family: str) -> str:
    """Why a network is not applied; empty: it is."""
    name, word = _name(tag), WORDS[role]
    file = listing.find(name)
    if file is None and listing.unread:
        return ""  # it may be the alias of a file whose header nobody has read yet
    if file is None:
        near = listing.near(name)
        return f"there is no {word} named {name[:60]}" + (f"; did you mean {near}?" if near else "")
    if file.described.problem:
        return f"the {word} {name[:60]} cannot be used: {file.described.problem}"
    if family and file.described.family and file.described.family != family:
        return f"the {word} {name[:60]} is for {file.described.family}, and the model is {family}"
    return ""


def _entry(
    tag: NetworkTag, found: Sequence[Use | None], clocks: Sequence[tuple[str, Clock, int]], listing: NetworkListing
) -> Told:
    file = listing.find(_name(tag))
    passes = [
        {"name": title, "steps": clock.steps, "segments": _ruler(use, clock, calls)}
        for use, (title, clock, calls) in zip(found, clocks, strict=True)
    ]
    positional, named = split_arguments(tag.arguments)
    return {
        "positional": positional,
        "named": named,
        "file": file.path.relative_to(file.folder).as_posix() if file else "",
        "passes": passes,
    }


def _ruler(use: Use | None, clock: Clock, calls: int) -> list[Told]:
    """The UNet's strength over the sampler's steps from 1, equal neighbours joined; None: it is never there."""
    ruler: list[Told] = []
    for step in range(clock.steps):
        weight = strength_at(use.unet, clock, step * calls, step) if use else 0.0
        if ruler and ruler[-1]["weight"] == weight:
            ruler[-1]["to"] = step + 1
        else:
            ruler.append({"from": step + 1, "to": step + 1, "weight": weight})
    return ruler


def _late(tag: NetworkTag) -> str:
    return f"{tag.kind} {_name(tag)} holds all along, as in A1111: tags in brackets switch in the profile exact"


def _twice(tags: Sequence[NetworkTag]) -> Iterator[Warning]:
    """Where a name comes again with another strength."""
    by_name: dict[str, list[NetworkTag]] = defaultdict(list)
    for tag in tags:
        by_name[_name(tag)].append(tag)
    for name, same in by_name.items():
        if same[0].arguments != same[-1].arguments:
            message = f"{name} is named {len(same)} times: as in A1111 the last strength holds for each"
            yield Warning(same[0].column, message)


def _name(tag: NetworkTag) -> str:
    return tag.positional[0] if tag.positional else ""
