"""A contact sheet: one row for each prompt, one column for each seed, the prompt above its row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modules.training.sampling import Painter

PROMPTS = (
    "a cat on a red background",
    "a fox in the snow",
    "a blue elephant on a yellow background",
    "a pineapple on a purple background",
    "a castle at sunset",
    "a rocket in space",
    "a penguin on a blue background, pixel art",
    "an octopus underwater",
    "a red car on a green background",
    "three apples on a white background",
    "a sunflower to the left of a robot on a gray background",
    "a snowman at night",
)
CAPTION = 14


def assemble(pictures: Tensor, titles: Sequence[str], columns: int) -> Image.Image:
    """uint8 (n, side, side, 3) in rows of ``columns``, a title above each row."""
    side = pictures.shape[1]
    sheet = Image.new("RGB", (columns * (side + 2), len(titles) * (side + CAPTION + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, title in enumerate(titles):
        y = row * (side + CAPTION + 2)
        draw.text((2, y + 1), title, fill="black", font=ImageFont.load_default(10))
        for column in range(columns):
            image = Image.fromarray(pictures[row * columns + column].numpy())
            sheet.paste(image, (column * (side + 2), y + CAPTION))
    return sheet


def write(
    paint: Painter,
    path: Path,
    prompts: Sequence[str] = PROMPTS,
    columns: int = 6,
    side: int = 128,
    cfg_scale: float = 5.0,
) -> None:
    """Stage ``sheet``."""
    texts = [prompt for prompt in prompts for _ in range(columns)]
    seeds = [seed for _ in prompts for seed in range(columns)]
    made = paint.paint(texts, seeds, side, cfg_scale=cfg_scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    assemble(made, prompts, columns).save(path)
