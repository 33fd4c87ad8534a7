"""Changes of weights against the closed forms of their papers, on random weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modules.checkpoints.networks.kinds import Change, change_of


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def change(**parts: Tensor) -> Change:
    found = change_of({name.replace("_weight", ".weight"): part for name, part in parts.items()})
    assert found is not None
    return found


def test_dora_gives_each_output_the_length_that_peft_states() -> None:
    """DoRA of PEFT: a weight is its magnitude times the direction of the changed one, per output channel."""
    weight, magnitude = random(1, 6, 4), random(2, 6).abs() + 0.1
    for parts in ({"magnitude": magnitude}, {"dora_scale": magnitude[:, None]}):
        dora = change(
            lora_up_weight=random(3, 6, 2), lora_down_weight=random(4, 2, 4), alpha=torch.tensor(1.0), **parts
        )
        total = weight + dora.weight_delta(weight, 1.0)
        torch.testing.assert_close(total.norm(dim=1), magnitude)
        changed = weight + 0.5 * random(3, 6, 2) @ random(4, 2, 4)
        torch.testing.assert_close(torch.cosine_similarity(total, changed), torch.ones(6))


def test_dora_of_kohya_gives_each_input_its_length_over_convolutions_too() -> None:
    weight, magnitude = random(1, 6, 4, 3, 3), random(2, 1, 4, 1, 1).abs() + 0.1
    dora = change(lora_up_weight=random(3, 6, 2, 1, 1), lora_down_weight=random(4, 2, 4, 3, 3), dora_scale=magnitude)
    total = weight + dora.weight_delta(weight, 1.0)
    torch.testing.assert_close(total.permute(1, 0, 2, 3).flatten(1).norm(dim=1), magnitude.flatten())


def test_an_orthogonal_network_turns_without_stretching() -> None:
    """OFT and BOFT: an orthogonal matrix before the weight, so lengths of columns and angles between them stay."""
    weight = random(1, 8, 5)
    for parts in (
        {"oft_blocks": random(2, 2, 4, 4)},
        {"oft_blocks": random(2, 2, 4, 2, 2), "alpha": torch.tensor(0.0)},
    ):
        total = weight + change(**parts).weight_delta(weight, 1.0)
        torch.testing.assert_close(total.T @ total, weight.T @ weight, rtol=1e-4, atol=1e-4)
        assert (total - weight).abs().max() > 0.1


def test_boft_is_the_product_of_its_butterfly_factors() -> None:
    """Liu et al. (2023), eq. 4: permuted block-diagonal matrices, the last one outermost; block size 2, 4 channels."""
    blocks, weight = random(2, 2, 2, 2, 2), random(1, 4, 3)
    skew = blocks - blocks.mT
    turns = (torch.eye(2) + skew) @ torch.linalg.inv(torch.eye(2) - skew)
    first, second = (torch.block_diag(*turn) for turn in turns)  # type: ignore[no-untyped-call]
    far = torch.eye(4)[[0, 2, 1, 3]]  # the second factor joins channels two apart
    wanted = far.T @ second @ far @ first @ weight
    torch.testing.assert_close(weight + change(oft_blocks=blocks).weight_delta(weight, 1.0), wanted)


def test_a_rescaled_network_stretches_its_outputs() -> None:
    weight, rescale = random(1, 8, 5), random(3, 8, 1).abs()
    turned = weight + change(oft_blocks=random(2, 2, 4, 4)).weight_delta(weight, 1.0)
    both = weight + change(oft_blocks=random(2, 2, 4, 4), rescale=rescale).weight_delta(weight, 1.0)
    torch.testing.assert_close(both, rescale * turned)


@pytest.mark.parametrize("shape", [(1, 4), (6, 1)])
def test_ia3_of_peft_multiplies_inputs_or_outputs(shape: tuple[int, int]) -> None:
    weight, factor = random(1, 6, 4), random(2, *shape)
    torch.testing.assert_close(weight + change(ia3_l=factor).weight_delta(weight, 1.0), weight * factor)


def test_ia3_of_peft_over_a_convolution_multiplies_the_side_that_its_length_is_of() -> None:
    """PEFT keeps the factor of outputs as (1, out, 1, 1) and turns it; that of inputs lies as it is."""
    weight = random(1, 6, 4, 3, 3)
    outputs, inputs = random(2, 1, 6, 1, 1), random(3, 1, 4, 1, 1)
    for factor, wanted in ((outputs, weight * outputs.reshape(6, 1, 1, 1)), (inputs, weight * inputs)):
        torch.testing.assert_close(weight + change(ia3_l=factor).weight_delta(weight, 1.0), wanted)


def test_ia3_over_a_convolution_is_per_channel() -> None:
    weight, factor = random(1, 6, 4, 3, 3), random(2, 4)
    delta = change(weight=factor, on_input=torch.tensor(True)).weight_delta(weight, 0.5)
    torch.testing.assert_close(delta, 0.5 * weight * factor[None, :, None, None])


def test_lokr_of_a_convolution_from_factors_is_the_kronecker_product() -> None:
    weight = torch.zeros(6, 4, 3, 3)
    a, b, small = random(1, 3, 2), random(2, 2, 2 * 9), random(3, 2, 2)
    delta = change(lokr_w1=small, lokr_w2_a=a, lokr_w2_b=b, alpha=torch.tensor(1.0)).weight_delta(weight, 1.0)
    large = (a @ b).reshape(3, 2, 3, 3)
    for o in range(6):
        for i in range(4):
            torch.testing.assert_close(delta[o, i], 0.5 * small[o // 3, i // 2] * large[o % 3, i % 2])


def test_a_sparse_bias_of_the_weight_is_added_before_scaling() -> None:
    weight = torch.zeros(4, 4)
    lora = {"lora_up_weight": random(1, 4, 2), "lora_down_weight": random(2, 2, 4), "alpha": torch.tensor(1.0)}
    sparse = {
        "bias_indices": torch.tensor([[0, 3], [1, 2]]),
        "bias_values": torch.tensor([5.0, -7.0]),
        "bias_size": torch.tensor([4, 4]),
    }
    delta = change(**lora, **sparse).weight_delta(weight, 1.0) - change(**lora).weight_delta(weight, 1.0)
    wanted = torch.zeros(4, 4)
    wanted[0, 1], wanted[3, 2] = 2.5, -3.5
    torch.testing.assert_close(delta, wanted)


def test_a_first_convolution_of_four_channels_leaves_the_other_five_of_an_inpainting_model() -> None:
    weight = random(1, 6, 9, 3, 3)
    delta = change(diff=random(2, 6, 4, 3, 3)).weight_delta(weight, 1.0)
    assert delta.shape == weight.shape and not delta[:, 4:].any()
    torch.testing.assert_close(delta[:, :4], random(2, 6, 4, 3, 3))


def test_the_rank_counts_and_alpha_over_it_scales() -> None:
    lora = change(lora_up_weight=random(1, 4, 8), lora_down_weight=random(2, 8, 4), alpha=torch.tensor(2.0))
    assert math.isclose(lora.scale, 0.25)
    cut = lora.weight_delta(torch.zeros(4, 4), 1.0, 3)
    torch.testing.assert_close(cut, 0.25 * random(1, 4, 8)[:, :3] @ random(2, 8, 4)[:3])
    factors = lora.factors(2.0, 3)
    assert factors is not None
    torch.testing.assert_close(factors[0] @ factors[1], 2 * cut)


def test_what_is_of_no_kind_is_none() -> None:
    assert change_of({"lora_up.weight": random(1, 4, 2)}) is None
    assert change_of({"alpha": torch.tensor(1.0)}) is None
