"""Conditioning: which text holds when, what emphasis does to it, and that nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.diffusion.guidance import compose
from modules.diffusion.types import Cond
from modules.nn.clip import CLIPText
from modules.nn.configs import TextConfig
from modules.nn.text import Inserted, TextStates
from modules.params.profile import A1111, EXACT, Profile
from modules.pipeline.conditioning import (
    Encoder,
    TextCache,
    TextConditioner,
    pad_uncond,
    pad_with_empty,
    repeat_last,
    stack,
)
from modules.prompt.chunks import EMPTY
from modules.prompt.schedule import Pass
from modules.prompt.tokens import default_tokenizer

WIDTH = 4
LONG = "red blue green cat dog tree house river stone cloud " * 9  # 90 tokens: two chunks


class Sines:
    """States that tell ids and places apart; vectors inserted take the place of their ids' states. Counts its rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.calls = 0

    def __call__(self, ids: Tensor, inserted: Sequence[Inserted]) -> TextStates:
        self.rows += len(ids)
        self.calls += 1
        angle = ids[..., None] * torch.tensor([0.37, 0.11, 0.23, 0.05]) + torch.arange(77)[:, None] * 0.1
        states = angle.sin() + 0.3
        for item in inserted:
            vectors = item.vectors[: 77 - item.position]
            states[item.row, item.position : item.position + len(vectors)] = vectors
        return TextStates(states)


@dataclass(frozen=True)
class Vectors:
    name: str
    vectors: Tensor

    @property
    def count(self) -> int:
        return len(self.vectors)

    def read(self) -> NDArray[np.float32]:
        return self.vectors.numpy()


def conditioner(encoder: Sines | None = None, **options: Any) -> TextConditioner:
    return TextConditioner([Encoder(encoder or Sines(), default_tokenizer())], **options)


def states(text: str, **options: Any) -> Tensor:
    return conditioner(**options).encode([text])


@pytest.mark.parametrize(("profile", "last_cat"), [(A1111, 5), (EXACT, 4)])
def test_an_edit_changes_the_condition_where_the_profile_says(profile: Profile, last_cat: int) -> None:
    cond = conditioner(profile=profile)
    (part,) = cond.prompt("a [cat:dog:0.5]", 10)
    cat, dog = (states(text, profile=profile) for text in ("a cat", "a dog"))
    for call in range(10):
        expected = cat if call <= last_cat else dog
        assert torch.equal(part.at(call).context, expected), call


def test_segments_of_equal_text_share_one_condition() -> None:
    (part,) = conditioner().prompt("[cat|dog]", 6)
    assert len(part.conds) == 6
    assert len({id(cond) for cond in part.conds}) == 2


def test_the_second_pass_goes_on_counting() -> None:
    (part,) = conditioner().prompt("a [cat:dog:1.5]", Pass(10, 20, second=True))
    assert [(segment.until, segment.text) for segment in part.segments] == [(5, "a cat"), (10, "a dog")]


def test_parts_of_and_keep_their_weights_and_get_one_length() -> None:
    parts = conditioner().prompt(f"a cat :0.7 AND {LONG} AND a cat", 10)
    assert [part.weight for part in parts] == [0.7, 1.0, 1.0]
    short, long, same = (part.at(0).context for part in parts)
    assert short.shape == long.shape == (1, 154, WIDTH)
    assert torch.equal(short[:, 77:], short[:, 76:77].expand(1, 77, WIDTH))
    assert torch.equal(short, same)  # leading space is kept in the text and is no token


def test_composition_of_equal_parts_with_weights_of_sum_one_is_the_part_itself() -> None:
    positive, negative = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(compose([positive, positive], [0.3, 0.7], negative), positive)


def test_negative_prompt_takes_and_and_tags_as_text() -> None:
    part = conditioner().negative("red AND blue <lora:x:1>", 5)
    assert [segment.text for segment in part.segments] == ["red AND blue <lora:x:1>"]
    assert part.weight == 1.0


def test_missing_chunks_are_the_empty_prompt() -> None:
    encoder = Sines()
    short, long = conditioner(encoder).encode(["a cat", LONG])
    assert short.shape == long.shape == (154, WIDTH)
    assert torch.equal(short[77:], encoder(torch.tensor([EMPTY.ids]), ()).context[0])


def test_original_emphasis_keeps_the_mean_and_no_norm_does_not() -> None:
    plain = states("a (red:1) fox")
    for mode, kept in (("Original", True), ("No norm", False)):
        weighted = states("a (red:1.5) fox", emphasis=mode)
        assert torch.allclose(weighted.mean(), plain.mean(), rtol=1e-5) == kept
    assert torch.equal(states("a (red:1.5) fox", emphasis="Ignore"), plain)


def test_no_norm_multiplies_the_states_of_the_emphasised_tokens_alone() -> None:
    plain, weighted = (states(text, emphasis="No norm")[0] for text in ("a (red:1) fox", "a (red:1.5) fox"))
    factor = torch.ones(77, 1)
    factor[2] = 1.5
    torch.testing.assert_close(weighted, plain * factor)


def test_mean_is_over_all_texts_as_often_as_they_occur_or_over_each_in_the_exact_profile() -> None:
    texts = ["a (red:1.8) fox", "blue", "blue", "blue"]
    plain = torch.stack([states(t)[0] for t in ["a red fox", "blue", "blue", "blue"]])
    together = conditioner(profile=A1111).encode(texts)
    raw = conditioner(emphasis="No norm").encode(texts)
    torch.testing.assert_close(together, raw * (plain.mean() / raw.mean()))
    alone = conditioner(profile=EXACT).encode(texts)
    torch.testing.assert_close(alone[0], raw[0] * (plain[0].mean() / raw[0].mean()))
    torch.testing.assert_close(alone[1], plain[1])


def test_monstrous_weights_stay_finite() -> None:
    assert states("(" * 9000 + "a" + ")" * 9000 + " cat").isfinite().all()


def test_embeddings_are_inserted_behind_the_start_token() -> None:
    vectors = torch.arange(12.0).reshape(3, WIDTH)
    found = states("a (mystyle:1.0), fox", embeddings=[Vectors("MyStyle", vectors)])[0]
    assert torch.equal(found[2:5], vectors)
    plain = states("a (mystyle:1.0), fox")[0]
    assert not torch.equal(found[5], plain[5])


def test_equal_texts_are_encoded_once_across_prompts_and_only_within_one_scope() -> None:
    encoder, cache = Sines(), TextCache()
    first = conditioner(encoder, cache=cache, scope="model a").prompt("a [cat:dog:0.5]", 20)
    assert encoder.rows == 2
    again = conditioner(encoder, cache=cache, scope="model a").prompt("a [cat:dog:10]", 30)
    assert encoder.rows == 2
    assert again[0].conds[0].context is first[0].conds[0].context
    conditioner(encoder, cache=cache, scope="model b").prompt("a [cat:dog:0.5]", 20)
    conditioner(encoder, cache=cache, scope="model a", emphasis="Ignore").prompt("a [cat:dog:0.5]", 20)
    assert encoder.rows == 6


def test_the_cache_lets_the_least_recently_used_go() -> None:
    one = TextStates(torch.zeros(1, 77, WIDTH))
    cache = TextCache(max_bytes=2 * one.context.nbytes)
    cache.put("a", (one, one))  # the same object counts once
    cache.put("b", (TextStates(one.context.clone()),))
    assert cache.get("a")
    cache.put("c", (TextStates(one.context.clone()),))
    assert cache.get("b") is None
    assert cache.get("a") and cache.get("c")


def test_a_thousand_alternatives_are_encoded_in_groups() -> None:
    encoder = Sines()
    conditioner(encoder).prompt("[" + "|".join(f"cat {i}" for i in range(40)) + "]", 40)
    assert encoder.rows == 40
    assert encoder.calls == 3


def test_ids_behind_the_end_are_zero_where_the_model_wants_that() -> None:
    seen: list[Tensor] = []

    def encode(ids: Tensor, _inserted: Sequence[Inserted]) -> TextStates:
        seen.append(ids)
        return TextStates(torch.ones(len(ids), 77, WIDTH))

    TextConditioner([Encoder(encode, default_tokenizer(open_clip=True), zero_padding=True)]).encode(["a cat"])
    assert seen[0][0, :6].tolist() == [49406, 320, 2368, 49407, 0, 0]


def test_lengths_are_made_equal_in_both_of_the_reference_s_ways() -> None:
    cond, uncond, empty = torch.randn(2, 231, WIDTH), torch.randn(2, 77, WIDTH), torch.randn(1, 77, WIDTH)
    same, padded = pad_with_empty(cond, uncond, empty)
    assert torch.equal(same, cond)
    assert torch.equal(padded, torch.cat([uncond, empty.expand(2, -1, -1), empty.expand(2, -1, -1)], dim=1))
    assert torch.equal(pad_uncond(cond, uncond)[:, 77:], uncond[:, -1:].expand(2, 154, WIDTH))
    assert torch.equal(pad_uncond(uncond, cond), cond[:, :77])
    assert torch.equal(repeat_last(uncond, 77), uncond)


def test_images_with_texts_of_their_own_are_stacked() -> None:
    a, b = Cond(torch.randn(1, 77, WIDTH)), Cond(torch.randn(1, 154, WIDTH))
    both = stack([a, b]).context
    assert both.shape == (2, 154, WIDTH)
    assert torch.equal(both[0, 77:], a.context[0, -1:].expand(77, WIDTH))


def test_real_text_encoder_takes_what_the_conditioner_gives() -> None:
    encoder = CLIPText(TextConfig(width=16, layers=2, heads=2, inner=32)).eval()
    noise = torch.Generator().manual_seed(1)
    for weight in encoder.parameters():  # they begin as whatever lies in the memory
        weight.detach().normal_(generator=noise)
    vectors = torch.randn(2, 16, generator=noise)
    with torch.inference_mode():
        cond = TextConditioner(
            [Encoder(lambda ids, inserted: encoder(ids, 2, inserted), default_tokenizer())],
            embeddings=[Vectors("mystyle", vectors)],
        )
        (part,) = cond.prompt("a [cat:mystyle dog:0.5] (in snow:1.2)", 10)
    assert part.at(0).context.shape == (1, 77, 16)
    assert not torch.equal(part.at(0).context, part.at(9).context)
