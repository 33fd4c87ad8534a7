"""Which embeddings and networks a request's prompts name."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import cast

from modules.pipeline.plan import Batch
from modules.prompt.chunks import Embeddings, Emphasis, chunk
from modules.prompt.parse import parse
from modules.prompt.schedule import Pass, schedule_nodes
from modules.prompt.tokens import Tokenizer


def named(batch: Batch, lengths: Iterable[tuple[str, int]], tokenizer: Tokenizer) -> tuple[str, ...]:
    """The names among ``lengths`` (name, vectors) that a text of either pass holds; those of the prompt come before
    those of the negative prompt, as in A1111's "TI hashes".
    """
    embeddings, found = Embeddings(tokenizer, lengths), dict[str, None]()
    for text in dict.fromkeys(_texts(batch)):
        chunks = chunk(text, tokenizer, embeddings=embeddings, emphasis=cast(Emphasis, batch.params.emphasis)).chunks
        found |= dict.fromkeys(mark.name for one in chunks for mark in one.marks)
    return tuple(found)


def unheeded(batch: Batch, kinds: Container[str]) -> tuple[str, ...]:
    """The networks that a prompt of either pass names and whose kind is none of ``kinds``, as "lora ink"."""
    prompts = dict.fromkeys(one.params.prompt for one in (batch, batch.again) if one)
    tags = [tag for prompt in prompts for tag in parse(prompt).tree.networks if tag.kind not in kinds]
    return tuple(dict.fromkeys(" ".join((tag.kind, *tag.positional[:1])) for tag in tags))


def _texts(batch: Batch) -> Iterator[str]:
    steps, old = batch.schedule_steps, batch.params.use_old_scheduling
    runs = [(batch.params, Pass(steps, steps, old=old))]
    if again := batch.again:
        runs.append((again.params, Pass(again.schedule_steps, steps, second=True, old=old)))
    for params, run in runs:
        for tree in (parse(params.prompt).tree, parse(params.negative_prompt, negative=True).tree):
            for part in tree.parts:
                yield from (segment.text for segment in schedule_nodes(part.items, run))
