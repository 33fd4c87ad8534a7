"""How good is it? Pictures for captions whose combination was never trained on, scored by the independent judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.training import judge as judging
from modules.training.autoencoder import psnr, to_network
from modules.training.config import Config
from modules.training.judge import REGIONS, UNASKED, Judge, Targets, look, regions_of
from modules.training.render.backgrounds import COLOURS
from modules.training.render.captions import spelled_out
from modules.training.render.compose import picture
from modules.training.render.concepts import INDEX
from modules.training.render.scenes import Mix, Scene, draw_scene
from modules.training.sampling import Painter

SEED = 2_000_000
SINGLES = Mix(single=1.0, two=0.0, count=0.0, plain=0.75, gradient=0.0, styled=0.15, tinted=0.12, sized=0.0, placed=0.0)
SETS = {
    "single": SINGLES,
    "two": replace(SINGLES, single=0.0, two=1.0, styled=0.0, tinted=0.0),
    "count": replace(SINGLES, single=0.0, count=1.0, styled=0.0, tinted=0.0),
}
"""The three sets of captions: single objects with style and colour, two objects, several of a kind."""


def captions_of(mix: Mix, count: int, seed: int = SEED) -> list[Scene]:
    """Scenes whose concept, background and style never met in training."""
    return [draw_scene(seed, i, mix, held=True) for i in range(count)]


def _share(right: Tensor, which: Sequence[bool]) -> float:
    """The part of ``which`` that is right; nan where there are none."""
    chosen = right[torch.tensor(which)]
    return float(chosen.float().mean()) if len(chosen) else float("nan")


def score(judge: Judge, pixels: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of right answers, each among the pictures where the question makes sense."""
    said, wanted = look(judge, pixels), Targets(scenes).answers
    right = {q: said[q].argmax(dim=-1) == answer for q, answer in wanted.items()}
    asked = {q: (answer != UNASKED) for q, answer in wanted.items()}
    plain = torch.tensor([scene.background in COLOURS for scene in scenes])
    background, asked_it = right["background"], asked["background"].tolist()
    out = {
        "background colour": _share(background, (asked["background"] & plain).tolist()),
        "scenery": _share(background, (asked["background"] & ~plain).tolist()),
    }
    if scenes[0].layout == "two":
        return out | _pairs(said["concept"].argmax(dim=-1), scenes)
    everyone = [True] * len(scenes)
    ranked, target = said["concept"][:, 0].argsort(dim=1, descending=True), wanted["concept"][:, :1]
    for n in (1, 5):
        out[f"concept top {n}"] = _share((ranked[:, :n] == target).any(dim=1), everyone)
    if scenes[0].layout == "count":
        return out | {"count": _share(right["count"], everyone)}
    tinted = [bool(scene.things[0].tint) and told for scene, told in zip(scenes, asked_it, strict=True)]
    out["style"] = _share(right["style"], [bool(scene.style) for scene in scenes])
    out["object colour"] = _share(right["tint"][:, 0], tinted)
    return out


def _pairs(named: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """``named`` (n, `REGIONS`): the best concept of each region. Each object is looked for on its own side."""
    one = both = order = 0
    for row, scene in zip(named.tolist(), scenes, strict=True):
        found = [row[REGIONS.index(region)] for region in regions_of(scene)]
        wanted = [INDEX[thing.concept.name] for thing in scene.things]
        one += bool(set(found) & set(wanted))
        both += set(found) == set(wanted)
        order += found == wanted
    return {name: n / len(scenes) for name, n in (("one of two", one), ("both of two", both), ("order", order))}


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between Gaussians fitted to features (n, d): in the judge's own space, so no FID."""
    mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    ca, cb = torch.cov(a.T.double()), torch.cov(b.T.double())
    cross = torch.linalg.eigvals(ca @ cb).real.clamp_min(0).sqrt().sum()
    return float(mean + ca.trace() + cb.trace() - 2 * cross)


@torch.inference_mode()
def features(judge: Judge, pixels: Tensor) -> Tensor:
    return torch.cat([judge.features(to_network(x)) for x in torch.split(pixels, 100)])


@torch.inference_mode()
def reconstruction(paint: Painter, scenes: Sequence[Scene], side: int) -> float:
    """Mean PSNR in dB of unseen renders through the autoencoder, as the program runs it."""
    x = to_network(torch.from_numpy(np.stack([picture(scene, side) for scene in scenes])))
    parts = [psnr(paint.model.decode(paint.model.encode(part)), part) for part in torch.split(x, 20)]
    return float(torch.cat(parts).mean())


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown: one line for each set of captions and CFG scale."""
    names = sorted({name for row in rows.values() for name in row})
    lines = ["| captions | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        cells = (f"{100 * row[name]:.0f}%" if name in row and row[name] == row[name] else "" for name in names)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(
    config: Config,
    folder: Path,
    checkpoint: Path,
    scales: Sequence[float] = (1.0, 3.0, 5.0, 7.0),
    count: int = 200,
) -> None:
    """Stage ``evaluate``: print the table and keep the figures beside the checkpoints."""
    judge, paint = judging.load(config, folder), Painter.of(checkpoint)
    rows: dict[str, dict[str, float]] = {}
    for name, mix in SETS.items():
        scenes = captions_of(replace(mix, concepts=config.data.mix.concepts), count if name == "single" else count // 2)
        texts, seeds = [spelled_out(scene) for scene in scenes], list(range(len(scenes)))
        for scale in scales if name == "single" else (5.0,):
            made = paint.paint(texts, seeds, config.data.side, steps=20, cfg_scale=scale)
            rows[f"{name}, CFG {scale:g}"] = score(judge, made, scenes)
            print(f"{name}, CFG {scale:g}: {rows[f'{name}, CFG {scale:g}']}", flush=True)
        real = torch.from_numpy(np.stack([picture(scene, config.data.side) for scene in scenes]))
        rows[f"{name}, renders"] = score(judge, real, scenes)
        if name == "single":
            distance = frechet(features(judge, real), features(judge, made))
            quality = reconstruction(paint, scenes[:100], config.data.side)
    sure = judging.accuracy(judge, config, folder)
    print(table(rows))
    print("the judge on fresh renders: " + ", ".join(f"{name} {100 * share:.1f}%" for name, share in sure.items()))
    print(f"autoencoder {quality:.1f} dB; Frechet distance in the judge's features {distance:.1f}")
    report = {"scores": rows, "judge": sure, "psnr": quality, "frechet": distance}
    (folder / "scores.json").write_text(json.dumps(report, indent=1))
