"""The text transformer's first lesson, without a picture: what does this caption describe?

Linear heads read the end-of-text state. What they ask for is what the diffusion model will need, so its cross-attention
finds words already sorted by meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.clip import CLIPText
from modules.nn.configs import TextConfig
from modules.training import loop
from modules.training.config import Config
from modules.training.render.backgrounds import BACKGROUNDS
from modules.training.render.captions import caption
from modules.training.render.concepts import CONCEPTS, INDEX
from modules.training.render.scenes import PLACES, SIZES, TINTS, Mix, Scene, draw_scene
from modules.training.render.styles import STYLES
from modules.training.words import SHORT, weighted_ids

QUESTIONS: dict[str, tuple[str, ...]] = {
    "background": (*BACKGROUNDS, "gradient"),
    "style": ("", *STYLES),
    "tint": ("", *TINTS),
    "count": ("0", "1", "2", "3", "4"),
    "first": ("", *(concept.name for concept in CONCEPTS)),
    "relation": ("", "to the left of", "above"),
    "place": tuple(PLACES),
    "size": tuple(SIZES),
}
"""What each head may answer. ``first`` is the object on the left, or above, of two."""


def answers(scene: Scene) -> dict[str, int]:
    """The right answer to each of `QUESTIONS`, as an index."""
    things = scene.things
    said = {
        "background": "gradient" if " to " in scene.background else scene.background,
        "style": scene.style,
        "tint": next((thing.tint for thing in things if thing.tint), ""),
        "count": str(len(things)),
        "first": things[0].concept.name if scene.relation else "",
        "relation": scene.relation,
        "place": scene.place,
        "size": scene.size,
    }
    return {question: QUESTIONS[question].index(answer) for question, answer in said.items()}


def shown(scenes: Sequence[Scene]) -> Tensor:
    """Which concepts are in each scene: (b, concepts) of 0 and 1."""
    out = torch.zeros(len(scenes), len(CONCEPTS))
    for row, scene in zip(out, scenes, strict=True):
        for thing in scene.things:
            row[INDEX[thing.concept.name]] = 1.0
    return out


class Reader(nn.Module):
    """The text transformer and its heads: ids (b, n) -> a score per answer of each question."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.text = CLIPText(config)
        self.concepts = nn.Linear(config.width, len(CONCEPTS))
        self.heads = nn.ModuleDict({q: nn.Linear(config.width, len(a)) for q, a in QUESTIONS.items()})

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        states = self.text(ids).context
        end = states[torch.arange(len(ids)), ids.argmax(dim=1)].float()  # the end token has the highest id
        return {"concepts": self.concepts(end), **{q: head(end) for q, head in self.heads.items()}}


class CaptionLoss:
    """Cross-entropy of every question on freshly drawn scenes; pictures are never drawn."""

    def __init__(self, reader: Reader, mix: Mix, batch: int, seed: int):
        self.reader, self.mix, self.batch, self.seed = reader, mix, batch, seed

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        start = int(torch.randint(2**40, (), generator=generator, device=generator.device))
        scenes = [draw_scene(self.seed, start + i, self.mix) for i in range(self.batch)]
        texts = [caption(scene, Random(start + i)) for i, scene in enumerate(scenes)]
        ids = weighted_ids(texts)[0][:, :SHORT].to(loop.device())
        wanted = [answers(scene) for scene in scenes]
        with loop.autocast(ids.device):
            said = self.reader(ids)
        loss = F.binary_cross_entropy_with_logits(said["concepts"].float(), shown(scenes).to(ids.device)) * 20
        right = torch.zeros(())
        for question in QUESTIONS:
            target = torch.tensor([w[question] for w in wanted], device=ids.device)
            loss = loss + F.cross_entropy(said[question].float(), target)
            right = right + (said[question].argmax(dim=1) == target).float().mean().cpu() / len(QUESTIONS)
        single = torch.tensor([len({t.concept for t in scene.things}) == 1 for scene in scenes])
        top = (said["concepts"].argmax(dim=1).cpu() == shown(scenes).argmax(dim=1))[single]
        return {"loss": loss, "right": right, "concept": top.float().mean()}


def train(config: Config, folder: Path) -> None:
    """Stage ``text``."""
    torch.manual_seed(config.captions.seed)
    reader = Reader(config.text).to(loop.device())
    trainer = loop.Trainer(reader, config.captions, folder / "text.pt")
    trainer.train(CaptionLoss(reader, config.data.mix, config.captions.batch, config.captions.seed))
