"""Text conditioning: encodes a prompt's schedule into tensors for each step."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.diffusion.types import Cond
from modules.nn.text import Inserted, TextStates
from modules.nn.unet import timestep_embedding
from modules.params.profile import A1111, Profile
from modules.prompt.chunks import EMPTY, Chunk, Embeddings, Emphasis, Mark, chunk
from modules.prompt.parse import parse
from modules.prompt.schedule import Pass, Segment, entry_at, schedule_nodes
from modules.prompt.tokens import END, Tokenizer
from modules.prompt.tree import Prompt, PromptPart

Encode = Callable[[Tensor, Sequence[Inserted]], TextStates]
"""Ids (b, 77) and the vectors to insert -> states (b, 77, width), clip skip and final norm included, and pooled."""
MakeVector = Callable[[Tensor, bool], Tensor]
"""Pooled text (1, width), and whether it is the negative prompt's -> the UNet's vector (1, wider)."""

_ROWS = 16
"""Chunks encoded together: enough to keep the encoder busy, few enough for a small GPU."""
_HEAVIEST = 1e6
"""Weight limit; larger ones, from hundreds of nested brackets, would overflow float32."""


class Embedding(Protocol):
    """A textual inversion: ``count`` vectors for a name, read when a text needs them."""

    @property
    def name(self) -> str: ...

    @property
    def count(self) -> int: ...

    def read(self) -> NDArray[np.float32]:
        """Read the vectors (count, width), in the width of the text encoder."""
        ...


@dataclass(frozen=True)
class Encoder:
    """One text encoder of a model, as used by `TextConditioner`. The outputs of several are concatenated."""

    encode: Encode
    tokenizer: Tokenizer
    zero_padding: bool = False
    """Ids behind the end are 0 (SD2 and bigG)."""
    columns: tuple[int, int] | None = None
    """The encoder's columns of an embedding's vectors; None: all of them."""


@dataclass(frozen=True)
class ScheduledCond:
    """One AND part of a prompt, or a negative prompt: the condition for each network call."""

    weight: float
    segments: tuple[Segment, ...]
    conds: tuple[Cond, ...]
    """One per segment; equal texts share one object. Contexts are (1, 77 chunks, width)."""
    profile: Profile

    def at(self, call: int, step: int | None = None) -> Cond:
        """The condition for network call number ``call`` of this pass, from 0; ``step`` is the sampler's.

        A1111 counts calls, the exact profile steps: they differ for samplers that call twice a step.
        """
        counted = call if self.profile.double_steps or step is None else step
        return self.conds[entry_at(self.segments, counted, self.profile)]


class TextCache:
    """LRU cache of encoded texts, keyed by content and by everything that affects the encoders. One for all jobs."""

    def __init__(self, max_bytes: int = 64 * 2**20):
        self._max_bytes = max_bytes
        self._size = 0
        self._entries: OrderedDict[Hashable, tuple[tuple[TextStates, ...], object]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[TextStates, ...] | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Hashable, states: tuple[TextStates, ...], keep: object = None) -> None:
        """Store an entry. ``keep``: objects whose ids are in the key, held so that the ids cannot be reused."""
        self._entries[key] = states, keep
        self._size += _bytes(states)
        while self._size > self._max_bytes:
            _, (dropped, _) = self._entries.popitem(last=False)
            self._size -= _bytes(dropped)


class TextConditioner:
    """Encodes prompts for one model. ``scope`` names everything that affects the encoders' output (checkpoint hash,
    clip skip, active networks); with a ``cache`` it must be complete.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        *,
        embeddings: Sequence[Embedding] = (),
        emphasis: Emphasis = "Original",
        backtrack: int = 20,
        profile: Profile = A1111,
        cache: TextCache | None = None,
        scope: Hashable = None,
        vector: MakeVector | None = None,
    ):
        """``vector``: makes the UNet's vector from pooled text and sizes, for models that take one (SDXL). For
        these, an entirely empty negative prompt is encoded as zeros, as in training.
        """
        self._named = {embedding.name: embedding for embedding in embeddings}
        lengths = [(embedding.name, embedding.count) for embedding in embeddings]
        self._encoders = [(encoder, Embeddings(encoder.tokenizer, lengths)) for encoder in encoders]
        self._emphasis: Emphasis = emphasis
        self._backtrack = backtrack
        self._vector = vector
        self._profile = profile
        self._cache = cache if cache is not None else TextCache()
        known = frozenset(map(id, embeddings))
        self._scope = (scope, emphasis, backtrack, profile.batch_mean, known)

    def prompt(self, prompt: str | Prompt, run: int | Pass, *, comments: bool = True) -> tuple[ScheduledCond, ...]:
        """Encode the AND parts of a positive prompt over a run, given as its steps or, for hires fix, as a `Pass`.

        Parts of different length are made equal by repeating the last token's state of the shorter.
        """
        tree = parse(prompt, comments=comments).tree if isinstance(prompt, str) else prompt
        parts = []
        for part in tree.parts:
            segments = _segments(part, run)
            conds = self._conds(self._states(segments), negative=False)
            parts.append(ScheduledCond(part.weight, segments, conds, self._profile))
        return equal_lengths(parts)

    def negative(self, prompt: str | Prompt, run: int | Pass, *, comments: bool = True) -> ScheduledCond:
        """Encode a negative prompt over a run: AND and network tags are plain text in it."""
        tree = parse(prompt, negative=True, comments=comments).tree if isinstance(prompt, str) else prompt
        (part,) = tree.parts
        segments = _segments(part, run)
        states = self._states(segments)
        if self._vector and not any(segment.text for segment in segments):
            states = tuple(map(_zeros, states))
        return ScheduledCond(1.0, segments, self._conds(states, negative=True), self._profile)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode texts that belong together to states (texts, 77 chunks, width), emphasis applied."""
        states = self._encode_together(texts)
        return torch.cat([states[text].context for text in texts])

    def empty(self) -> Tensor:
        """The states (1, 77, width) of the empty prompt."""
        rows = [self._rows(encoder, [EMPTY])[_key(EMPTY)].context for encoder, _ in self._encoders]
        return torch.cat(rows, dim=-1)[None]

    def _states(self, segments: Sequence[Segment]) -> tuple[TextStates, ...]:
        """The states of each segment, all encoded together; equal texts share one object."""
        texts = tuple(segment.text for segment in segments)
        states = self._cache.get((self._scope, texts))
        if states is None:
            shared = self._encode_together(texts)
            states = tuple(shared[text] for text in texts)
            self._cache.put((self._scope, texts), states, keep=self._named)
        return states

    def _conds(self, states: Sequence[TextStates], *, negative: bool) -> tuple[Cond, ...]:
        """States as conditions for the network; equal ones stay one object."""
        shared = {id(one): self._cond(one, negative) for one in states}
        return tuple(shared[id(one)] for one in states)

    def _cond(self, states: TextStates, negative: bool) -> Cond:
        if self._vector is None or states.pooled is None:
            return Cond(states.context)
        return Cond(states.context, self._vector(states.pooled, negative))

    def _encode_together(self, texts: Sequence[str]) -> dict[str, TextStates]:
        """States (1, 77 chunks, width) of each distinct text, those of all encoders concatenated."""
        states_by_encoder = [self._encode_with(encoder, embeddings, texts) for encoder, embeddings in self._encoders]
        return {text: _beside([states[text] for states in states_by_encoder]) for text in dict.fromkeys(texts)}

    def _encode_with(self, encoder: Encoder, embeddings: Embeddings, texts: Sequence[str]) -> dict[str, TextStates]:
        """Encode all texts with one encoder. Duplicates count twice in the mean that emphasis restores. Pooled
        states are those of the first chunk, without emphasis.
        """
        times = Counter(texts)
        chunked = [self._chunks(text, encoder, embeddings) for text in times]
        length = max(len(chunks) for chunks in chunked)
        columns = [[chunks[k] if k < len(chunks) else EMPTY for chunks in chunked] for k in range(length)]
        states = self._rows(encoder, (row for column in columns for row in column))
        weighted = []
        for column in columns:
            z = torch.stack([states[_key(row)].context for row in column])
            weighted.append(self._emphasised(z, column, list(times.values())))
        contexts = [torch.cat(rows)[None] for rows in zip(*weighted, strict=True)]
        pooled = [states[_key(row)].pooled for row in columns[0]]
        return {text: TextStates(z, p) for text, z, p in zip(times, contexts, pooled, strict=True)}

    def _chunks(self, text: str, encoder: Encoder, embeddings: Embeddings) -> tuple[Chunk, ...]:
        return chunk(
            text,
            encoder.tokenizer,
            embeddings=embeddings,
            emphasis=self._emphasis,
            backtrack=self._backtrack,
        ).chunks

    def _rows(self, encoder: Encoder, rows: Iterable[Chunk]) -> dict[_Key, TextStates]:
        """Encoder states (77, width) and (1, width) by a chunk's ids and embedding marks. Equal chunks are encoded
        once.
        """
        distinct = list({_key(row): row for row in rows}.values())
        found: dict[_Key, TextStates] = {}
        for start in range(0, len(distinct), _ROWS):
            group = distinct[start : start + _ROWS]
            inserted = self._inserted(group, slice(*(encoder.columns or (None,))))
            states = encoder.encode(_ids(group, encoder.zero_padding), inserted)
            for i, row in enumerate(group):
                pooled = None if states.pooled is None else states.pooled[i : i + 1]
                found[_key(row)] = TextStates(states.context[i], pooled)
        return found

    def _inserted(self, rows: Sequence[Chunk], columns: slice) -> list[Inserted]:
        marks = [(i, mark) for i, row in enumerate(rows) for mark in row.marks]
        names = {mark.name for _, mark in marks}
        vectors = {name: torch.tensor(self._named[name].read())[:, columns] for name in names}
        return [Inserted(i, mark.offset + 1, vectors[mark.name]) for i, mark in marks]  # + 1: the start token

    def _emphasised(self, z: Tensor, rows: Sequence[Chunk], times: Sequence[int]) -> Tensor:
        """Apply emphasis to one chunk of all texts: states (texts, 77, width) times weights."""
        if self._emphasis in ("Ignore", "None"):
            return z
        weights = torch.tensor([row.weights for row in rows], dtype=torch.float64).clamp(-_HEAVIEST, _HEAVIEST)
        weighted = z * weights.to(z)[..., None]
        if self._emphasis == "No norm":
            return weighted
        before, after = z.mean((1, 2)), weighted.mean((1, 2))  # (texts,)
        if self._profile.batch_mean:
            share = torch.tensor(times).to(z) / sum(times)
            before, after = (before * share).sum(), (after * share).sum()
        ratio = torch.where(after == 0, 1.0, before / after)  # a mean of exactly 0 cannot be restored
        return weighted * ratio.reshape(-1, 1, 1)


def _segments(part: PromptPart, run: int | Pass) -> tuple[Segment, ...]:
    return schedule_nodes(part.items, Pass(run, run) if isinstance(run, int) else run)


_Key = tuple[tuple[int, ...], tuple[Mark, ...]]


def _key(row: Chunk) -> _Key:
    """The part of a chunk that the encoder sees, as a cache key."""
    return row.ids, row.marks


def _ids(rows: Sequence[Chunk], zero_padding: bool) -> Tensor:
    ids = torch.tensor([row.ids for row in rows])
    if zero_padding:
        ends = (ids == END).int()
        ids[ends.cumsum(1) - ends > 0] = 0
    return ids


def _beside(states: Sequence[TextStates]) -> TextStates:
    """Concatenate the states of several encoders along the width; the last one's pooled state is used."""
    if len(states) == 1:
        return states[0]
    # Tokenizers differ in a word or two, so that one encoder may need a chunk more than the other.
    length = max(one.context.shape[1] for one in states)
    context = torch.cat([repeat_last(one.context, length) for one in states], dim=-1)
    return TextStates(context, next((one.pooled for one in reversed(states) if one.pooled is not None), None))


def _zeros(states: TextStates) -> TextStates:
    pooled = None if states.pooled is None else torch.zeros_like(states.pooled)
    return TextStates(torch.zeros_like(states.context), pooled)


def with_numbers(pooled: Tensor, numbers: Sequence[float]) -> Tensor:
    """Pooled text (1, width) followed by each number as 256 sinusoids: (1, width + 256 n), SDXL's vector.

    Podell et al. (2023), arXiv:2307.01952, sec. 2.2: sizes in pixels, crop offsets, an aesthetic score.
    """
    angles = timestep_embedding(torch.tensor(numbers, device=pooled.device), 256)
    return torch.cat([pooled, angles.reshape(1, -1).to(pooled)], dim=1)


def _bytes(states: tuple[TextStates, ...]) -> int:
    return sum(one.context.nbytes for one in {id(one): one for one in states}.values())


def equal_lengths(parts: Sequence[ScheduledCond]) -> tuple[ScheduledCond, ...]:
    """The parts with all contexts padded to one length."""
    length = max(cond.context.shape[1] for part in parts for cond in part.conds)
    return tuple(_padded(part, length) for part in parts)


def _padded(part: ScheduledCond, length: int) -> ScheduledCond:
    if all(cond.context.shape[1] == length for cond in part.conds):
        return part
    return _mapped(part, lambda context: repeat_last(context, length))


def repeat_last(context: Tensor, length: int) -> Tensor:
    """``context`` (n, tokens, width) with ``length`` tokens: the last one is repeated, or the excess cut."""
    n, tokens, width = context.shape
    return torch.cat([context, context[:, -1:].expand(n, max(length - tokens, 0), width)], dim=1)[:, :length]


def pad_with_empty(cond: Tensor, uncond: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """A1111's ``pad_cond_uncond``: extend the shorter context with the empty prompt's states (1, 77, width)."""

    def extended(context: Tensor, length: int) -> Tensor:
        n, tokens, _ = context.shape
        return torch.cat([context, *[empty.expand(n, -1, -1)] * ((length - tokens) // empty.shape[1])], dim=1)

    return extended(cond, uncond.shape[1]), extended(uncond, cond.shape[1])


def pad_uncond(cond: Tensor, uncond: Tensor) -> Tensor:
    """A1111's ``pad_cond_uncond_v0``: bring ``uncond`` to the length of ``cond``, repeating its last state or
    cutting its end.
    """
    return repeat_last(uncond, cond.shape[1])


def pad_parts(
    positive: Sequence[ScheduledCond], negative: ScheduledCond, empty: Tensor, *, v0: bool = False
) -> tuple[tuple[ScheduledCond, ...], ScheduledCond, bool]:
    """Bring both prompts to one length, and tell whether the lengths differed: by `pad_with_empty` or, with ``v0``,
    `pad_uncond`.
    """
    cond, uncond = positive[0].conds[0].context, negative.conds[0].context
    if cond.shape[1] == uncond.shape[1]:
        return tuple(positive), negative, False
    if v0:
        return tuple(positive), _mapped(negative, lambda context: pad_uncond(cond, context)), True
    longer = tuple(_mapped(part, lambda context: pad_with_empty(context, uncond, empty)[0]) for part in positive)
    return longer, _mapped(negative, lambda context: pad_with_empty(cond, context, empty)[1]), True


def _mapped(part: ScheduledCond, change: Callable[[Tensor], Tensor]) -> ScheduledCond:
    """``part`` with a function applied to its contexts; equal ones stay one object."""
    shared = {id(cond): replace(cond, context=change(cond.context)) for cond in part.conds}
    return ScheduledCond(part.weight, part.segments, tuple(shared[id(cond)] for cond in part.conds), part.profile)


def stack(conds: Sequence[Cond]) -> Cond:
    """Stack conditions (1, tokens, width) of several images to (n, tokens, width); shorter ones repeat their last
    token.
    """
    length = max(cond.context.shape[1] for cond in conds)
    vectors = [cond.vector for cond in conds if cond.vector is not None]
    context = torch.cat([repeat_last(cond.context, length) for cond in conds])
    return Cond(context, torch.cat(vectors) if vectors else None)
