"""The independent judge: a small classifier with its own weights and its own renders that says what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.training import loop
from modules.training.captions import QUESTIONS, answers
from modules.training.config import Config, Data
from modules.training.render import cache
from modules.training.render.cache import Pictures, to_network
from modules.training.render.compose import Pixels
from modules.training.render.concepts import CONCEPTS, INDEX
from modules.training.render.scenes import Mix, Scene, draw_scene
from modules.training.render.styles import COLOURLESS

REGIONS = ("whole", "left", "right", "top", "bottom")
"""Where it looks for an object."""
WHOLE = ("background", "style", "count")
"""What it is asked of the whole picture."""
PLACED = {"concept": len(CONCEPTS), "tint": len(QUESTIONS["tint"])}
"""What it is asked of a region, and how many answers there are."""
UNASKED = -100
"""In place of an answer, where the question makes no sense; `torch.nn.functional.cross_entropy` skips it."""
SEED = 1_000_000
"""Of the judge's renders, which the diffusion model never sees; the test renders have the next one."""
GRID = 8


class _Residual(nn.Module):
    """He et al. (2016), arXiv:1603.05027: two convolutions around a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _halved(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 2, stride=2, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Judge(nn.Module):
    """Pictures (b, 3, h, w) in [-1, 1] -> scores for each question: (b, answers), or (b, `REGIONS`, answers)."""

    def __init__(self, width: int = 48):
        super().__init__()
        w = width
        self.body = nn.Sequential(
            nn.Conv2d(3, w, 4, stride=4, bias=False),
            nn.BatchNorm2d(w),
            nn.ReLU(),
            *(_Residual(w), _Residual(w), _halved(w, 2 * w)),
            *(_Residual(2 * w), _Residual(2 * w), _halved(2 * w, 4 * w)),
            *(_Residual(4 * w), _Residual(4 * w)),
        )
        self.whole = nn.ModuleDict({q: nn.Linear(8 * w + 16 * 4 * w, len(QUESTIONS[q])) for q in WHOLE})
        self.placed = nn.ModuleDict({q: nn.Linear(8 * w, n) for q, n in PLACED.items()})

    def seen(self, x: Tensor) -> Tensor:
        """(b, channels, `GRID`, `GRID`)"""
        h: Tensor = self.body(F.interpolate(x, size=(128, 128), mode="area") if x.shape[-1] != 128 else x)
        return h.float()

    def features(self, x: Tensor) -> Tensor:
        """What is in the whole picture: (b, 8 width)."""
        return _pooled(self.seen(x))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h, half = self.seen(x), GRID // 2
        parts = (h, h[..., :half], h[..., half:], h[..., :half, :], h[..., half:, :])
        regions = torch.stack([_pooled(part) for part in parts], dim=1)
        grid = torch.cat([regions[:, 0], F.adaptive_avg_pool2d(h, 4).flatten(1)], dim=1)
        return {q: head(grid) for q, head in self.whole.items()} | {q: head(regions) for q, head in self.placed.items()}


def _pooled(h: Tensor) -> Tensor:
    return torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1)


def regions_of(scene: Scene) -> tuple[str, ...]:
    """Where each object of ``scene`` is looked for; several of a kind are one question."""
    if scene.relation:
        return ("left", "right") if scene.relation == "to the left of" else ("top", "bottom")
    return ("whole",) if scene.things else ()


class Targets:
    """The right answers for a list of scenes: (n,) or (n, `REGIONS`) of indices, `UNASKED` where nobody can tell."""

    def __init__(self, scenes: Sequence[Scene]):
        wanted = [answers(scene) for scene in scenes]
        self.answers = {q: torch.tensor([w[q] for w in wanted]) for q in WHOLE}
        for q in PLACED:
            self.answers[q] = torch.full((len(scenes), len(REGIONS)), UNASKED)
        for row, scene in enumerate(scenes):
            if not coloured(scene):
                self.answers["background"][row] = UNASKED
            for thing, region in zip(scene.things, regions_of(scene), strict=False):
                at = row, REGIONS.index(region)
                self.answers["concept"][at] = INDEX[thing.concept.name]
                if coloured(scene):
                    self.answers["tint"][at] = QUESTIONS["tint"].index(thing.tint)


def coloured(scene: Scene) -> bool:
    """Whether its style leaves colours to be seen as they were; neon's background is dark whatever it was."""
    return scene.style not in COLOURLESS and scene.style != "neon"


def judge_mix(mix: Mix) -> Mix:
    """What it learns from: like the training set, but with enough of everything it is asked."""
    return Mix(
        single=0.60, two=0.28, count=0.10, plain=0.65, gradient=0.03, styled=0.30, tinted=0.25, sized=0.1, placed=0.1,
        concepts=mix.concepts,
    )  # fmt: skip


def renders(config: Config, seed: int, count: int, path: Path) -> tuple[Pixels, list[Scene]]:
    """``count`` fresh pictures, uint8 (n, side, side, 3), kept in ``path``, and what they show."""
    data = Data(seed=seed, pictures=count, side=config.data.side, mix=judge_mix(config.data.mix))
    if not path.is_file() or len(cache.read(path)) != count:
        cache.write(data, path, config.processes)
    return cache.read(path), [draw_scene(seed, i, data.mix) for i in range(count)]


class JudgeLoss:
    """Cross-entropy of every question on shifted, noisy and blurred pictures: soft ones must not put it off."""

    def __init__(self, judge: nn.Module, pixels: Pixels, targets: Targets, batch: int):
        device = loop.device()
        self.judge, self.pictures, self.batch = judge, Pictures(pixels, device), batch
        self.answers = {q: answer.to(device) for q, answer in targets.answers.items()}

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        rows = torch.randint(len(self.pictures), (self.batch,), generator=generator, device=generator.device)
        x = roughened(self.pictures.take(rows), generator).contiguous(memory_format=torch.channels_last)
        with loop.autocast(x.device):
            said = self.judge(x)
        losses = {
            q: F.cross_entropy(said[q].float().flatten(0, -2), answer[rows].flatten(), label_smoothing=0.02)
            for q, answer in self.answers.items()
        }
        return {"loss": torch.stack(list(losses.values())).sum(), "concept": losses["concept"].detach()}


def roughened(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 4 pixels; a third of the time soften; add noise of up to 0.1."""
    device = generator.device
    dy, dx = (int(v) for v in torch.randint(-4, 5, (2,), generator=generator, device=device))
    x = F.pad(x, (4, 4, 4, 4), mode="replicate")[..., 4 + dy : x.shape[-2] + 4 + dy, 4 + dx : x.shape[-1] + 4 + dx]
    soften, strength = torch.rand(2, generator=generator, device=device).tolist()
    if soften < 1 / 3:
        x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    noise = torch.randn(x.shape, generator=generator, device=device)
    return x + 0.1 * float(strength) * noise


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


def train(config: Config, folder: Path, pictures: int = 32_000) -> None:
    """Stage ``judge``: render, learn, and say how right it is on renders it has not seen."""
    judge = new(config)
    trainer = loop.Trainer(judge, config.judge, folder / "judge.pt")
    pixels, scenes = renders(config, SEED, pictures, folder / "judge.npy")
    trainer.train(JudgeLoss(judge, pixels, Targets(scenes), config.judge.batch))
    print(accuracy(load(config, folder), config, folder))


def accuracy(judge: Judge, config: Config, folder: Path, pictures: int = 2000) -> dict[str, float]:
    """How often it is right on fresh renders of all kinds, each question among the pictures that can be asked."""
    pixels, scenes = renders(config, SEED + 1, pictures, folder / "judged.npy")
    said, targets = look(judge, torch.from_numpy(pixels.copy())), Targets(scenes)
    kinds = {kind: torch.tensor([scene.layout == kind for scene in scenes]) for kind in ("single", "two", "count")}
    right = {q: (said[q].argmax(dim=-1) == t, t != UNASKED) for q, t in targets.answers.items()}
    out = {q: float(hit[asked].float().mean()) for q, (hit, asked) in right.items()}
    for kind, which in kinds.items():
        hit, asked = (part[which] for part in right["concept"])
        out[f"concept, {kind}"] = float(hit[asked].float().mean())
    return out
