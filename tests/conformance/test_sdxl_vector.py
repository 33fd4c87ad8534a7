"""SDXL's vector of sizes, crop and aesthetic score against the reference's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modules.checkpoints.families.sdxl import SDXL, SDXL_REFINER
from modules.params.generation import GenerationParams
from modules.pipeline.texts import text_vector


@pytest.mark.golden("sdxl_vector.json", "cases")
def test_numbers_behind_the_pooled_text(case: dict[str, Any]) -> None:
    score = case["aesthetic_score"]
    params = GenerationParams(sdxl_crop_top=case["crop_top"], sdxl_crop_left=case["crop_left"])
    vector = text_vector(SDXL if score is None else SDXL_REFINER, params, (case["width"], case["height"]))
    assert vector
    pooled = torch.tensor([[7.0, 8.0]])
    negative = score is not None and score < params.sdxl_refiner_high_aesthetic_score  # the defaults are the data's
    found = vector(pooled, negative)[0]
    assert found[:2].tolist() == [7.0, 8.0]
    assert len(found) == 2 + case["length"]
    torch.testing.assert_close(found[2:][case["index"]], torch.tensor(case["value"]), rtol=0, atol=1e-5)
    assert float(found[2:].sum()) == pytest.approx(case["sum"], abs=1e-3)
