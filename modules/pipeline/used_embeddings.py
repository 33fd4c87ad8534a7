"""Finds the embeddings and networks that a request's prompts name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import cast

from modules.pipeline.plan import Batch
from modules.prompt.chunks import Embeddings, Emphasis, chunk
from modules.prompt.schedule import schedule_nodes
from modules.prompt.stages import kept_tags
from modules.prompt.tokens import Tokenizer

TAG = re.compile(r"<\w+:[^<>]+>")


def used_embeddings(batch: Batch, lengths: Iterable[tuple[str, int]], tokenizer: Tokenizer) -> tuple[str, ...]:
    """The names among ``lengths`` (name, vectors) used by a text of either pass; those of the prompt come before
    those of the negative prompt, as in A1111's "TI hashes".
    """
    embeddings, names = Embeddings(tokenizer, lengths), dict[str, None]()
    for text in dict.fromkeys(_texts(batch)):
        chunks = chunk(text, tokenizer, embeddings=embeddings, emphasis=cast(Emphasis, batch.params.emphasis)).chunks
        names |= dict.fromkeys(mark.name for row in chunks for mark in row.marks)
    return tuple(names)


def unapplied_networks(batch: Batch, kinds: Collection[str]) -> tuple[str, ...]:
    """The networks named by a prompt of either pass whose kind is none of ``kinds``, as "lora ink"."""
    tags = [tag for each in batch.passes for tag in each.prompts.networks if tag.kind not in kinds]
    return tuple(dict.fromkeys(" ".join((tag.kind, *tag.positional[:1])) for tag in tags))


def kept_networks(batch: Batch, kinds: Collection[str]) -> tuple[str, ...]:
    """The beginnings of what looks like a tag in a prompt of either pass and is text (`stages.kept_tags`). In negative
    prompts all tags are, those that are well written too, which are not named.
    """
    found = []
    for each in batch.passes:
        for tree in (each.prompts.positive, each.prompts.negative):
            kept = [text for part in tree.parts for _, text in kept_tags(part.text, kinds)]
            found += [text for text in kept if tree is each.prompts.positive or not TAG.fullmatch(text)]
    return tuple(dict.fromkeys(found))


def _texts(batch: Batch) -> Iterator[str]:
    for each in batch.passes:
        for tree in (each.prompts.positive, each.prompts.negative):
            for part in tree.parts:
                yield from (segment.text for segment in schedule_nodes(part.items, each.prompt_steps))
