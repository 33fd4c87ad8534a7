"""LoRA and its relatives against the reference's own numbers: names, changes of weights, tags, hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules.checkpoints.networks.arguments import BadTag, Clock, strength_at, uses
from modules.checkpoints.networks.keys import ldm_name, part_name
from modules.checkpoints.networks.kinds import change_of
from modules.profile import A1111
from modules.prompt.schedule import Pass
from modules.rng import PhiloxGenerator

Case = dict[str, Any]
KINDS = {"Lora": "LoRA", "Hada": "LoHa", "Ia3": "(IA)3", "Lokr": "LoKr", "Full": "full", "Norm": "norm"}


def normal(seed: int, shape: list[int]) -> torch.Tensor:
    return PhiloxGenerator(seed).randn(tuple(shape))


def tensors(case: Case) -> dict[str, torch.Tensor]:
    found = {}
    for i, (name, shape) in enumerate(case["tensors"].items()):
        if not isinstance(shape, list):
            found[name] = torch.tensor(shape)
        else:
            found[name] = 0.5 * normal(case["seed_base"] + i, shape)
            if name == "dora_scale":
                found[name] = found[name].abs() + 0.5
    return found


@pytest.mark.golden("lora.json", "deltas")
def test_a_layer_changes_as_the_reference_changes_it(case: Case) -> None:
    change = change_of({part_name(name): tensor for name, tensor in tensors(case).items()})
    assert change is not None and change.kind.name == KINDS.get(case["type"], case["type"].replace("GLora", "GLoRA"))
    text = "transformer" in case["target"] and not case["target"].startswith("diffusion_model")
    multiplier = case["te_multiplier"] if text else case["unet_multiplier"]
    weight = 0.5 * normal(case["seed_base"] + 900, case["weight_shape"])
    delta = change.weight_delta(weight, multiplier, case["dyn_dim"])
    wanted = torch.tensor(case["delta"]).reshape(case["delta_shape"])
    assert delta is not None and delta.shape == weight.shape
    assert (delta.reshape(wanted.shape) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    bias = change.bias_delta(multiplier)
    if case["bias_delta"] is None:
        assert bias is None
    else:
        assert bias is not None
        np.testing.assert_allclose(bias.numpy(), case["bias_delta"], rtol=1e-5, atol=1e-7)


@pytest.mark.golden("lora.json", "key_names")
def test_layers_have_the_names_of_the_reference(case: dict[str, str], request: pytest.FixtureRequest) -> None:
    sd2 = "sd2" in request.node.name
    assert {name: ldm_name(name, sd2=sd2) for name in case} == case


@pytest.mark.golden("lora.json", "prompt_arguments")
def test_tags_are_read_as_the_reference_reads_them(case: Case) -> None:
    clock = Clock(Pass(20, 20), 20, A1111)
    if case.get("error"):
        with pytest.raises(BadTag, match="is not a number"):
            uses(case["prompt"], clock)
        return
    found = uses(case["prompt"], clock)
    assert [use.name for use in found] == case["names"]
    assert [use.te for use in found] == case["te"]
    assert [use.unet for use in found] == case["unet"]
    assert [use.dyn for use in found] == case["dyn"]


@pytest.mark.golden("side_files.json", "lora_schedule")
def test_strengths_go_in_lines_as_forge_neo_has_them(case: Case) -> None:
    clock = Clock(Pass(case["steps"], case["steps"]), case["steps"], A1111)
    (use,) = uses(case["tag"], clock)
    assert use.te == 0
    weights = [strength_at(use.unet, clock, step, step) for step in range(case["steps"])]
    assert weights == pytest.approx(case["weights"])
