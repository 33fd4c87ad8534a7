"""The independent judge: a small classifier with its own weights and its own renders that says what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.training import loop
from modules.training.autoencoder import to_network
from modules.training.captions import QUESTIONS, answers, shown
from modules.training.config import Config
from modules.training.render.compose import Pixels, picture
from modules.training.render.concepts import CONCEPTS
from modules.training.render.scenes import Mix, Scene, draw_scene

ASKED = ("background", "style", "tint", "count", "first", "relation")
"""What it is asked beside the concepts."""
SEED = 1_000_000
"""Of the judge's renders, which the diffusion model never sees; the test renders have the next one."""


def _stage(channels: int, out: int) -> nn.Sequential:
    """Halve the sides, then look around once more."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class Judge(nn.Module):
    """Pictures (b, 3, h, w) in [-1, 1] -> a score for each concept and each answer of `ASKED`."""

    def __init__(self, width: int = 32):
        super().__init__()
        w = width
        self.body = nn.Sequential(_stage(3, w), _stage(w, 2 * w), _stage(2 * w, 4 * w), _stage(4 * w, 6 * w))
        self.concepts = nn.Linear(12 * w, len(CONCEPTS))
        self.heads = nn.ModuleDict({q: nn.Linear(12 * w + 16 * 6 * w, len(QUESTIONS[q])) for q in ASKED})

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is there (b, 12 w), and what is where besides."""
        h = self.body(F.interpolate(x, size=(64, 64), mode="area")).float()
        what = torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1)
        return what, torch.cat([what, F.adaptive_avg_pool2d(h, 4).flatten(1)], dim=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        what, where = self.features(x)
        return {"concepts": self.concepts(what), **{q: head(where) for q, head in self.heads.items()}}


def judge_mix(mix: Mix) -> Mix:
    """What it learns from: like the training set, but with enough of everything it is asked."""
    return Mix(
        single=0.62, two=0.22, count=0.13, plain=0.6, gradient=0.05, styled=0.25, tinted=0.2, concepts=mix.concepts
    )


def _draw(seed: int, mix: Mix, side: int, index: int) -> Pixels:
    return picture(draw_scene(seed, index, mix), side)


def renders(seed: int, mix: Mix, side: int, count: int, processes: int) -> tuple[Tensor, list[Scene]]:
    """``count`` fresh pictures, uint8 (n, side, side, 3), and what they show."""
    with ProcessPoolExecutor(processes) as pool:
        pixels = list(pool.map(partial(_draw, seed, mix, side), range(count), chunksize=100))
    return torch.from_numpy(np.stack(pixels)), [draw_scene(seed, i, mix) for i in range(count)]


class Targets:
    """The right answers for a list of scenes, as tensors."""

    def __init__(self, scenes: Sequence[Scene]):
        self.shown = shown(scenes)
        wanted = [answers(scene) for scene in scenes]
        self.answers = {q: torch.tensor([w[q] for w in wanted]) for q in ASKED}


class JudgeLoss:
    """Cross-entropy on shifted, noisy and blurred pictures: soft ones must not put it off."""

    def __init__(self, judge: nn.Module, pixels: Tensor, targets: Targets, batch: int):
        self.judge, self.pixels, self.targets, self.batch = judge, pixels, targets, batch

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        rows = torch.randint(len(self.pixels), (self.batch,), generator=generator)
        x = roughened(to_network(self.pixels[rows]), generator)
        x = x.contiguous(memory_format=torch.channels_last).to(loop.device())
        with torch.autocast(x.device.type, torch.bfloat16):
            said = self.judge(x)
        loss = 20 * F.binary_cross_entropy_with_logits(said["concepts"].float(), self.targets.shown[rows].to(x.device))
        for question, target in self.targets.answers.items():
            loss = loss + F.cross_entropy(said[question].float(), target[rows].to(x.device))
        return {"loss": loss}


def roughened(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 4 pixels; half of the time soften, and add noise of up to 0.1."""
    dy, dx = (int(v) for v in torch.randint(-4, 5, (2,), generator=generator))
    x = F.pad(x, (4, 4, 4, 4), mode="replicate")[..., 4 + dy : x.shape[-2] + 4 + dy, 4 + dx : x.shape[-1] + 4 + dx]
    if torch.rand((), generator=generator) < 0.5:
        x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return x + 0.1 * torch.rand((), generator=generator) * torch.randn(x.shape, generator=generator)


@torch.inference_mode()
def look(judge: Judge, pixels: Tensor, batch: int = 100) -> dict[str, Tensor]:
    """The judge's scores for uint8 pictures (n, side, side, 3)."""
    judge.eval()
    said = [judge(to_network(part)) for part in torch.split(pixels, batch)]
    return {name: torch.cat([one[name] for one in said]) for name in said[0]}


def new(config: Config) -> Judge:
    torch.manual_seed(config.judge.seed)
    return Judge().to(memory_format=torch.channels_last).to(loop.device())  # type: ignore[call-overload,no-any-return]


def load(config: Config, folder: Path) -> Judge:
    judge = new(config)
    loop.load_average(judge, folder / "judge.pt")
    return judge.cpu().eval()


def train(config: Config, folder: Path, pictures: int = 16_000) -> None:
    """Stage ``judge``: render, learn, and say how right it is on renders it has not seen."""
    judge = new(config)
    trainer = loop.Trainer(judge, config.judge, folder / "judge.pt")
    mix = judge_mix(config.data.mix)
    pixels, scenes = renders(SEED, mix, config.data.side, pictures, config.processes)
    trainer.train(JudgeLoss(judge, pixels, Targets(scenes), config.judge.batch))
    print(accuracy(load(config, folder), config))


def accuracy(judge: Judge, config: Config, pictures: int = 1000) -> dict[str, float]:
    """How often it is right on fresh renders: concept of single objects, and each of `ASKED`."""
    pixels, scenes = renders(SEED + 1, judge_mix(config.data.mix), config.data.side, pictures, config.processes)
    said, targets = look(judge, pixels), Targets(scenes)
    single = torch.tensor([scene.layout == "single" for scene in scenes])
    right = (said["concepts"].argmax(dim=1) == targets.shown.argmax(dim=1))[single]
    out = {"concept": float(right.float().mean())}
    for question in ASKED:
        out[question] = float((said[question].argmax(dim=1) == targets.answers[question]).float().mean())
    return out
