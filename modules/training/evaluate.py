"""How good is it? Pictures for captions whose combination was never trained on, scored by the independent judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.checkpoints.detect import native_size
from modules.checkpoints.files import read_header
from modules.gallery.inputs import InputStore
from modules.imaging.tensors import to_images
from modules.training import judge as judging
from modules.training.autoencoder import psnr
from modules.training.config import Config
from modules.training.judge import REGIONS, UNASKED, Judge, Targets, look, regions_of
from modules.training.measures import colours_apart, objects, sharpness
from modules.training.render.backgrounds import COLOURS
from modules.training.render.cache import to_network
from modules.training.render.captions import spelled_out, with_article
from modules.training.render.compose import picture
from modules.training.render.concepts import CONCEPTS, INDEX, VERSION_2
from modules.training.render.scenes import Mix, Scene, draw_scene
from modules.training.render.styles import FILTERS, STYLES
from modules.training.sampling import Painter
from modules.training.sheet import Row, base, engine_for, pictures

SEED = 2_000_000
SINGLES = Mix(single=1.0, two=0.0, count=0.0, plain=0.75, gradient=0.0, styled=0.15, tinted=0.12, sized=0.0, placed=0.0)
UNKNOWN_WORDS = " on a wooden table, cinematic, by an unknown artist"
"""Words of which no caption is made, but for the small ones."""
FRECHET = "Frechet distance in the judge's features"
WEIGHED = ("cat", "rabbit", "elephant", "apple", "mushroom", "car", "house", "robot")
SETS = {
    "single": SINGLES,
    "two": replace(SINGLES, single=0.0, two=1.0, styled=0.0, tinted=0.0),
    "count": replace(SINGLES, single=0.0, count=1.0, styled=0.0, tinted=0.0),
}
"""The three sets of captions: single objects with style and colour, two objects, several of a kind."""


def captions_of(mix: Mix, count: int, seed: int = SEED) -> list[Scene]:
    """Scenes whose concept, background and style never met in training."""
    return [draw_scene(seed, i, mix, held=True) for i in range(count)]


@dataclass(frozen=True)
class Subject:
    """What a version of the model can be asked: the size it draws, the concepts and styles it knows, its own manner."""

    side: int
    concepts: int = len(CONCEPTS)
    styles: frozenset[str] = frozenset(STYLES)
    manner: str = ""
    """The style in which it draws where no style is asked for."""

    @classmethod
    def of(cls, checkpoint: Path) -> Subject:
        """Version 2 and those before it know the first concepts and styles, and draw like Noto's emoji."""
        if read_header(checkpoint).metadata.get("reprise.version") in ("1", "2"):
            return cls(native_size(read_header(checkpoint)), VERSION_2, frozenset(FILTERS), "cartoon")
        return cls(native_size(read_header(checkpoint)))

    def scenes(self, mix: Mix, count: int, seed: int = SEED) -> list[Scene]:
        """Unseen combinations that it can be asked for."""
        scenes = captions_of(replace(mix, concepts=min(mix.concepts, self.concepts)), count, seed)
        return [scene if scene.style in self.styles else replace(scene, style="") for scene in scenes]

    def renders(self, scenes: Sequence[Scene]) -> Tensor:
        """What training showed it for ``scenes``: uint8 (n, side, side, 3)."""
        own = [replace(scene, style=scene.style or self.manner) for scene in scenes]
        return torch.from_numpy(np.stack([picture(scene, self.side) for scene in own]))


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
def reconstruction(paint: Painter, subject: Subject, count: int) -> tuple[float, float]:
    """Unseen renders through the autoencoder, as the program runs it.

    Gives the mean PSNR in dB, and how many levels the mean colour of the objects moves, on average over the pictures
    before a plain colour.
    """
    scenes = subject.scenes(SINGLES, count)
    real = subject.renders(scenes)
    x = to_network(real)
    back = torch.cat([paint.model.decode(paint.model.encode(part)) for part in torch.split(x, 20)])
    made = torch.from_numpy(np.stack([np.asarray(image) for image in to_images(back)]))
    plain = torch.tensor([before_plain(scene) for scene in scenes])
    moved = colours_apart(made[plain], real[plain], objects(real[plain])).nanmean()
    return float(psnr(back, x).mean()), float(moved)


def before_plain(scene: Scene) -> bool:
    """Whether the picture's edges are those of its objects: one colour behind them, and no filter over them."""
    return scene.background in COLOURS and scene.style not in (*FILTERS, "sticker")


def edges(paint: Painter, subject: Subject, count: int) -> float:
    """`sharpness` of ``count`` generated objects before plain colours, against renders of the same captions."""
    scenes = subject.scenes(replace(SINGLES, plain=1.0, styled=0.0, tinted=0.0), count, SEED + 1)
    made = paint.paint([spelled_out(scene) for scene in scenes], range(count), subject.side)
    return sharpness(made, subject.renders(scenes))


def unknown_words(judge: Judge, paint: Painter, subject: Subject, count: int) -> dict[str, dict[str, float]]:
    """Scores of "a red apple", and of the same followed by `UNKNOWN_WORDS`."""
    scenes = subject.scenes(replace(SINGLES, plain=1.0, styled=0.0, tinted=0.5), count, SEED + 2)
    texts = [with_article(f"{scene.things[0].tint} {scene.things[0].concept.name}".strip()) for scene in scenes]
    out = {}
    for label, tail in (("a red apple", ""), ("a red apple" + UNKNOWN_WORDS, UNKNOWN_WORDS)):
        made = paint.paint([text + tail for text in texts], range(count), subject.side)
        found = score(judge, made, scenes)
        out[label] = {name: found[name] for name in ("concept top 1", "concept top 5", "object colour")}
    return out


def weights_apart(checkpoint: Path, inputs: InputStore) -> float:
    """How many levels the mean colour of the object moves from ``(blue:0.4)`` to ``(blue:1.6)``, over eight things."""
    engine = engine_for(checkpoint, inputs)
    start = base(engine.store.load().config.native_size)
    apart = []
    for name in WEIGHED:
        requests = [start.changed(prompt=f"a (blue:{w}) {name} on a yellow background") for w in (0.4, 1.6)]
        weak, strong = (
            torch.from_numpy(np.asarray(image)[None].copy())
            for image in pictures(engine, Row("", ("", ""), tuple(requests)))
        )
        apart.append(colours_apart(weak, strong, objects(weak) & objects(strong)))
    return float(torch.cat(apart).nanmean())


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown: one line for each set of captions and CFG scale."""
    names = sorted({name for row in rows.values() for name in row})
    lines = ["| captions | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        cells = (f"{100 * row[name]:.0f}%" if name in row and row[name] == row[name] else "" for name in names)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def judged(
    judge: Judge, paint: Painter, subject: Subject, scales: Sequence[float], count: int
) -> tuple[dict[str, dict[str, float]], float]:
    """The table's rows, those of real renders among them, and the Frechet distance of the single pictures at CFG 5."""
    rows: dict[str, dict[str, float]] = {}
    distance = float("nan")
    for name, mix in SETS.items():
        scenes = subject.scenes(mix, count if name == "single" else count // 2)
        texts, real = [spelled_out(scene) for scene in scenes], subject.renders(scenes)
        for scale in scales if name == "single" else (5.0,):
            made = paint.paint(texts, range(len(scenes)), subject.side, steps=20, cfg_scale=scale)
            rows[f"{name}, CFG {scale:g}"] = score(judge, made, scenes)
            print(f"{name}, CFG {scale:g}: {rows[f'{name}, CFG {scale:g}']}", flush=True)
            if name == "single" and scale == 5.0:
                distance = frechet(features(judge, real), features(judge, made))
        rows[f"{name}, renders"] = score(judge, real, scenes)
    return rows, distance


def measured(paint: Painter, subject: Subject, count: int) -> dict[str, float]:
    """What needs no judge: the autoencoder and the outlines."""
    quality, moved = reconstruction(paint, subject, count)
    return {
        "autoencoder, dB": quality,
        "objects' mean colour moves, levels": moved,
        "sharpness of outlines": edges(paint, subject, count),
    }


def run(
    config: Config, folder: Path, checkpoint: Path, scales: Sequence[float] = (1.0, 3.0, 5.0, 7.0), count: int = 200
) -> None:
    """Stage ``evaluate``: print the table and keep the figures beside the checkpoints."""
    paint, subject = Painter.of(checkpoint), Subject.of(checkpoint)
    figures = measured(paint, subject, min(count, 100))
    figures["(blue:0.4) to (blue:1.6), levels"] = weights_apart(checkpoint, InputStore(folder / "inputs"))
    print("\n".join(f"{name}: {value:.3g}" for name, value in figures.items()), flush=True)
    judge = judging.load(config, folder)
    rows, figures[FRECHET] = judged(judge, paint, subject, scales, count)
    rows |= unknown_words(judge, paint, subject, count // 2)
    sure = judging.accuracy(judge, config, folder)
    print(table(rows))
    print("the judge on fresh renders: " + ", ".join(f"{name} {100 * share:.1f}%" for name, share in sure.items()))
    print(f"{FRECHET}: {figures[FRECHET]:.1f}")
    (folder / "scores.json").write_text(json.dumps({"scores": rows, "judge": sure, **figures}, indent=1))
