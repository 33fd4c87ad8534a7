"""The worked ports of the guide, each by its numbers, and the lines that the guide says they have."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modules.extension.host import Host, Owner
from modules.params.generation import GenerationParams

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "extensions" / "examples"
GUIDE = (ROOT / "extensions" / "README.md").read_text(encoding="utf-8")


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "__init__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lines_of(place: Path) -> int:
    """Lines of code: neither blank, nor comments, nor docstrings."""
    code = 0
    for path in place.glob("*.*"):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = re.sub(r'^\s*""".*?"""$', "", text, flags=re.S | re.M)
        if path.suffix in (".py", ".js", ".css"):
            code += sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", "//")))
    return code


@pytest.mark.parametrize("name", ["cfg_thresholding", "tag_completion", "detailer"])
def test_the_guide_counts_their_lines(name: str) -> None:
    assert f"`examples/{name}/` | {lines_of(EXAMPLES / name)} |" in GUIDE, lines_of(EXAMPLES / name)


# ---------------------------------------------------------------------------------------------------- thresholding


def guidance(positive: Any, negative: Any, scale: float) -> Any:
    return negative + (positive - negative) * scale


def threshold(scale: float, positive: torch.Tensor, negative: torch.Tensor, **options: float) -> torch.Tensor:
    module = imported("cfg_thresholding")
    modifier = module.Thresholding(module.Options(**options))
    found = modifier.on_guidance(None, positive, negative, scale, guidance)
    assert isinstance(found, torch.Tensor)
    return found


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, 8, 6, generator=draw), torch.randn(2, 4, 8, 6, generator=draw)


def test_thresholding_is_what_numpy_makes_of_the_paper(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = threshold(20.0, *answers, mimic_scale=7.0, percentile=0.95)
    positive, negative = (answer.double().numpy() for answer in answers)
    for image in range(2):
        for channel in range(4):
            high = guidance(positive, negative, 20.0)[image, channel]
            low = guidance(positive, negative, 7.0)[image, channel]
            target = np.abs(low - low.mean()).max()
            limit = max(np.quantile(np.abs(high - high.mean()), 0.95), target)
            expected = np.clip(high - high.mean(), -limit, limit) / limit * target + high.mean()
            assert np.abs(found[image, channel].double().numpy() - expected).max() < 1e-4


def test_thresholding_keeps_the_range_of_the_mimicked_scale(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    found, low = threshold(30.0, *answers, mimic_scale=5.0), guidance(*answers, 5.0)
    spread, wanted = ((x.flatten(2) - x.flatten(2).mean(2, keepdim=True)).abs().amax(2) for x in (found, low))
    assert torch.allclose(spread, wanted, rtol=1e-4)
    assert torch.equal(threshold(5.0, *answers, mimic_scale=5.0), guidance(*answers, 5.0))


def test_thresholding_of_an_image_does_not_depend_on_the_others(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    both = threshold(20.0, *answers, percentile=0.97)
    alone = threshold(20.0, *(answer[1:] for answer in answers), percentile=0.97)
    assert torch.equal(both[1:], alone)


# ----------------------------------------------------------------------------------------------------- completion


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Any]:
    permissions = frozenset({"asset", "route"})
    owner = Owner("tag_completion", "1", EXAMPLES / "tag_completion", permissions, data_dir=tmp_path / "own")
    host = Host(owner)
    imported("tag_completion").register(host)
    yield lambda text: [found["tag"] for found in host.routes.get("tag_completion/search GET").answer({"q": text}, "")]


def test_completion_finds_what_begins_so_first_then_the_more_frequent(search: Any) -> None:
    assert search("re") == ["red_hair", "red_dress", "red_fox"]
    assert search("sno") == ["snow", "snowflakes"]
    assert search("Red F") == ["red_fox"]
    assert search("color") == ["watercolor_(medium)"]
    assert search("") == search("no such tag") == []


def test_completion_reads_the_owners_list_as_it_is_now(search: Any, tmp_path: Path) -> None:
    (tmp_path / "own" / "mine.csv").write_text("red_panda,9999\nred_fox,0\nodd line\n,\n", encoding="utf-8")
    assert search("red") == ["red_panda", "red_hair", "red_dress", "red_fox"]
    assert search("odd") == ["odd line"]


# ------------------------------------------------------------------------------------------------------- detailer


def speckled(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Image.Image:
    """Grey but for boxes of noise."""
    image = Image.new("RGB", size, "grey")
    for box in boxes:
        image.paste(Image.effect_noise((box[2] - box[0], box[3] - box[1]), 90).convert("RGB"), box)
    return image


def test_detailer_finds_what_is_finest_and_nothing_in_a_plain_image() -> None:
    find = imported("detailer").find
    ((left, top, right, bottom),) = find(speckled((256, 192), (160, 96, 192, 120)), 1, 0.25)
    assert (right - left, bottom - top) == (64, 48)
    assert left <= 160 < 192 <= right and top <= 96 < 120 <= bottom
    boxes = find(speckled((256, 256), (0, 0, 32, 32), (224, 224, 256, 256)), 2, 0.25)
    assert sorted(boxes) == [(0, 0, 64, 64), (192, 192, 256, 256)]
    assert find(Image.new("RGB", (64, 64), "grey"), 8, 0.25) == []


def test_detailer_asks_for_each_region_on_what_came_before() -> None:
    module = imported("detailer")
    asked: list[tuple[Any, GenerationParams]] = []

    def inpaint(image: Image.Image, mask: Image.Image, params: GenerationParams) -> Image.Image:
        asked.append((mask.getbbox(), params))
        painted = image.copy()
        painted.paste("red", mask.getbbox())
        return painted

    notes: list[str] = []
    params = GenerationParams(prompt="a fox", batch_size=3)
    context = SimpleNamespace(params=params, inpaint=inpaint, note=notes.append)
    image = speckled((256, 256), (0, 0, 32, 32), (224, 224, 256, 256))
    options = module.Options(prompt="fur", regions=2, strength=0.3)
    made = module.Detailer(options).after_image(image, context)
    assert sorted(box for box, _ in asked) == [(0, 0, 64, 64), (192, 192, 256, 256)]
    assert [made.getpixel(place) for place in ((9, 9), (250, 250))] == [(255, 0, 0)] * 2
    request = asked[0][1]
    assert (request.prompt, request.batch_size, request.hires) == ("fur", 1, None)
    assert request.init and request.init.mask and request.init.denoising_strength == 0.3
    assert notes == ["the detailer painted 2 regions anew"]
