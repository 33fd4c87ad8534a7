"""Contact sheets: what the model draws, and what each feature does with it. The program's own engine makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from modules import builtin
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.devices import choose
from modules.engine import Engine
from modules.extension import Host
from modules.params import GenerationParams

CAPTION = 15
GAP = 3


@dataclass(frozen=True)
class Row:
    """Pictures side by side, with a title above and one label under each."""

    title: str
    labels: tuple[str, ...]
    requests: tuple[GenerationParams, ...]


EXAMPLES = (
    "a fox in the snow",
    "a pineapple on a purple background",
    "a blue elephant on a yellow background",
    "an octopus underwater",
    "a snowman at night",
    "a castle at sunset",
    "a rocket in space",
    "a sailboat on a beach",
    "a penguin on a blue background, pixel art",
    "a horse in a meadow, watercolor",
    "three strawberries on a white background",
    "a cat to the left of a dog on a green background",
)
"""The prompts of the model card, each with seed 1."""


def base(side: int) -> GenerationParams:
    """What all sheets share: 20 steps of DPM++ 2M at CFG 5."""
    return GenerationParams(sampler="DPM++ 2M", steps=20, cfg_scale=5.0, width=side, height=side, seed=1, subseed=0)


def _each(title: str, start: GenerationParams, name: str, values: Sequence[object], label: str = "{}") -> Row:
    """One request for each value of one parameter."""
    labels = tuple(label.format(value) for value in values)
    return Row(title, labels, tuple(start.changed(**{name: value}) for value in values))


def _prompts(title: str, start: GenerationParams, prompts: Sequence[str]) -> Row:
    return _each(title, start, "prompt", prompts)


def examples(side: int) -> list[Row]:
    """`EXAMPLES`, four to a row."""
    start = base(side)
    return [_prompts("", start, EXAMPLES[i : i + 4]) for i in range(0, len(EXAMPLES), 4)]


def features(side: int) -> Mapping[str, list[Row]]:
    """A sheet for each feature, by name; each row has a seed of its own."""
    starts = [base(side).changed(seed=seed) for seed in (1, 2)]
    large = base(side).changed(width=2 * side, height=2 * side)
    return {
        "prompt-editing": [_editing(start) for start in starts],
        "weights": [_weights(start) for start in starts],
        "negative-prompt": [_negative(start) for start in starts],
        "cfg-scale": [_scales(start) for start in starts],
        "styles": [_styles(start) for start in starts],
        "large-canvas": [_prompts("twice the native side", large, (EXAMPLES[5], EXAMPLES[10], EXAMPLES[3]))],
    }


def _editing(start: GenerationParams) -> Row:
    animals = ("a cat", "[a cat:a dog:0.6]", "[a cat:a dog:0.4]", "[a cat:a dog:0.2]", "a dog")
    return _prompts(f"seed {start.seed}", start, [f"{animal} on a red background" for animal in animals])


def _weights(start: GenerationParams) -> Row:
    weights = (0.4, 0.7, 1, 1.3, 1.6)
    return _prompts(f"seed {start.seed}", start, [f"a (blue:{w}) cat on a yellow background" for w in weights])


def _negative(start: GenerationParams) -> Row:
    unwanted = ("", "snow", "green background", "red background", "black and white")
    title = f"the prompt is: a fox. Seed {start.seed}, the negative prompt is:"
    return _each(title, start.changed(prompt="a fox"), "negative_prompt", unwanted, '"{}"')


def _scales(start: GenerationParams) -> Row:
    start = start.changed(prompt="a snowman at night")
    return _each(f"{start.prompt}, seed {start.seed}", start, "cfg_scale", (1.0, 2.0, 4.0, 7.0, 12.0), "CFG {:g}")


def _styles(start: GenerationParams) -> Row:
    styles = ("", ", pixel art", ", line art", ", watercolor", ", neon", ", sepia")
    return _prompts(f"seed {start.seed}", start, [f"a castle on a blue background{style}" for style in styles])


def assemble(rows: Sequence[tuple[Row, Sequence[Image.Image]]]) -> Image.Image:
    """The pictures of each row beside each other; a label that is wider than its picture is broken into lines."""
    font = ImageFont.load_default(11)
    blocks = [_block(row, pictures, font) for row, pictures in rows]
    sheet = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    y = 0
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return sheet


def _block(
    row: Row, pictures: Sequence[Image.Image], font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> Image.Image:
    width = max(picture.width for picture in pictures)
    labels = [_broken(label, width, font) for label in row.labels]
    top = CAPTION if row.title else 0
    below = CAPTION * max(len(lines) for lines in labels)
    block = Image.new("RGB", (len(pictures) * (width + GAP), top + pictures[0].height + below + GAP), "white")
    draw = ImageDraw.Draw(block)
    draw.text((1, 0), row.title, fill="#555", font=font)
    for column, (picture, lines) in enumerate(zip(pictures, labels, strict=True)):
        x = column * (width + GAP)
        block.paste(picture, (x, top))
        for i, line in enumerate(lines):
            draw.text((x + 1, top + picture.height + i * CAPTION), line, fill="black", font=font)
    return block


def _broken(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def engine_for(path: Path) -> Engine:
    """The program's own engine on the folder of the checkpoint at ``path``."""
    host = Host()
    builtin.register(host)
    return Engine(ModelStore(path.parent, choose(), Hashes(), default=path.stem), host, version="sheet")


def pictures(engine: Engine, row: Row) -> list[Image.Image]:
    """The first picture of each request of ``row``."""
    made: list[Image.Image] = []
    for params in row.requests:
        engine.run(params, lambda result: made.append(result.image))
    return made


def write(checkpoint: Path, folder: Path) -> None:
    """Stage ``sheet``: ``examples.webp`` and a file for each feature."""
    engine = engine_for(checkpoint)
    side = engine.store.load().config.native_size
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"examples": examples(side), **features(side)}.items():
        assemble([(row, pictures(engine, row)) for row in rows]).save(folder / f"{name}.webp", quality=92, method=6)
        print(f"{folder / name}.webp", flush=True)
