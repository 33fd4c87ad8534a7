"""What the network tags of a prompt will do, as data for the inspector: files, strengths, and what is wrong."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

from modules.checkpoints.networks.arguments import HYPERNET_TAG, LORA_TAGS, BadTag, Use, placed, strength_at, uses
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA, NetworkShelf
from modules.profile import EXACT
from modules.prompt.clock import Clock
from modules.prompt.parse import parse
from modules.prompt.tree import NetworkTag, Warning

WORDS = {LORA: "LoRA", HYPERNETWORK: "hypernetwork"}
Told = dict[str, Any]


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
    told: dict[int, Told] = {}
    warnings: list[Warning] = []
    for alike in (LORA_TAGS, (HYPERNET_TAG,)):
        own = [(i, tag) for i, tag in enumerate(tags) if tag.kind in alike and tag.kind in kinds]
        try:
            found = [{use.column: use for use in uses(prompt, clock, alike)} for _, clock, _ in clocks]
        except BadTag as error:
            warnings += [Warning(tag.column, f"no {alike[0]} is applied: {error}") for _, tag in own[:1]]
            continue
        for number, tag in own:
            entry, problem = _entry(tag, [by_column.get(tag.column) for by_column in found], clocks, shelf, family)
            told[tag.column] = entry
            if problem:
                warnings.append(Warning(tag.column, problem))
            warnings += _odd(prompt, number, tag, tags, clocks[0][1])
    return told, warnings


def _entry(
    tag: NetworkTag,
    found: Sequence[Use | None],
    clocks: Sequence[tuple[str, Clock, int]],
    shelf: NetworkShelf,
    family: str,
) -> tuple[Told, str]:
    role = HYPERNETWORK if tag.kind == HYPERNET_TAG else LORA
    name = tag.positional[0] if tag.positional else ""
    listing = shelf.listed(role)
    file = listing.find(name)
    if file is None:
        near = listing.near(name)
        problem = f"there is no {WORDS[role]} named {name[:60]}" + (f"; did you mean {near}?" if near else "")
    elif file.described.problem:
        problem = f"the {WORDS[role]} {name[:60]} cannot be used: {file.described.problem}"
    elif family and file.described.family and file.described.family != family:
        problem = f"the {WORDS[role]} {name[:60]} is for {file.described.family}, and the model is {family}"
    else:
        problem = ""
    passes = [
        {"name": title, "steps": clock.steps, "segments": _ruler(use, clock, calls)}
        for use, (title, clock, calls) in zip(found, clocks, strict=True)
    ]
    te = next((use.te for use in found if use), 0.0) if role == LORA else None
    entry = {
        "file": file.path.relative_to(file.folder).as_posix() if file else "",
        "te": te,
        "passes": passes,
        "problem": problem,
    }
    return entry, problem


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


def _odd(prompt: str, number: int, tag: NetworkTag, tags: Sequence[NetworkTag], clock: Clock) -> Iterator[Warning]:
    """Where A1111 does not do what it looks like."""
    if clock.profile == EXACT:
        return
    segments = placed(prompt, number, clock.run)
    name = (tag.positional or ("",))[0]
    if not all(segment.text for segment in segments) or not segments:
        yield Warning(
            tag.column, f"{tag.kind} {name} holds all along, as in A1111: tags in brackets switch in the profile exact"
        )
    same = [other for other in tags if other.positional[:1] == tag.positional[:1] and other.kind in LORA_TAGS]
    if tag.kind in LORA_TAGS and len(same) > 1 and tag is same[0] and same[0].arguments != same[-1].arguments:
        yield Warning(tag.column, f"{name} is named {len(same)} times: as in A1111 the last strength holds for each")
