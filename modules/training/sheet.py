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
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.imaging.masks import outpainted
from modules.params.generation import GenerationParams, Hires, Init, Mask, SoftInpainting, TiledUpscale
from modules.training.render.captions import EXAMPLES
from modules.training.render.compose import picture
from modules.training.render.concepts import CONCEPTS, INDEX
from modules.training.render.scenes import Scene, Thing

CAPTION = 15
GAP = 3


@dataclass(frozen=True)
class Row:
    """Pictures side by side, with a title above and one label under each."""

    title: str
    labels: tuple[str, ...]
    requests: tuple[GenerationParams, ...]


BOTH = "an apple to the left of {} on a green background"
"""Where a half is painted anew: guidance towards a prompt that leaves out the other half mottles the background."""


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
        "weights": [_weights(start, "a (cat:{}) on a red background, dog") for start in starts],
        "negative-prompt": [_negative(start) for start in starts],
        "cfg-scale": [_scales(start) for start in starts],
        "styles": [_styles(start) for start in starts],
        "hires-fix": [_enlarged(side)],
        "large-canvas": [_prompts("twice the native side", large, (EXAMPLES[5], EXAMPLES[10], EXAMPLES[3]))],
    }


def from_pictures(side: int, inputs: InputStore) -> Mapping[str, list[Row]]:
    """The sheets that start from a picture: a drawing that becomes a scene, one of two objects exchanged, ..."""
    drawing, pair = inputs.put(_drawing(side)), inputs.put(_apples(side))
    right = inputs.put(_right_half(side))
    start = base(side).changed(prompt="a house in a meadow")
    strengths = (0.0, 0.3, 0.5, 0.7, 0.85)
    mask = Mask(image=right, content="latent noise")
    others = ("a lemon", "a carrot", "a donut", "a mushroom")
    inpaint = base(side).changed(init=Init(image=pair, denoising_strength=1.0, mask=mask))
    before = inpaint.changed(init=Init(image=pair, denoising_strength=0.0))
    return {
        "img2img": [
            Row(
                f"{start.prompt}, over a drawing",
                tuple(f"strength {strength:g}" for strength in strengths),
                tuple(start.changed(init=Init(image=drawing, denoising_strength=strength)) for strength in strengths),
            )
        ],
        "inpaint": [
            Row(
                "the right half is masked; the prompt tells of both halves: an apple to the left of ...",
                ("as it was", *others),
                (before, *(inpaint.changed(prompt=BOTH.format(other)) for other in others)),
            )
        ],
        "inpaint-apple": [_apple_inpainted(side, inputs)],
        "soft-inpainting": [_softly(side, inputs)],
        "outpaint": [_outpainted(side, inputs)],
        "sd-upscale": [_tile_by_tile(side, inputs)],
    }


def _apple_inpainted(side: int, inputs: InputStore) -> Row:
    """An object into an empty background."""
    green, middle = inputs.put(Image.fromarray(picture(Scene((), "green"), side))), inputs.put(_disc(side, 0.72))
    start = base(side).changed(prompt="a red apple on a green background")
    strengths, mask = (0.0, 0.7, 0.85, 1.0), Mask(image=middle, content="fill")
    starts = (Init(image=green, denoising_strength=strength, mask=mask) for strength in strengths)
    labels = tuple(f"strength {strength:g}" for strength in strengths)
    return Row(f"{start.prompt}, into a disc", labels, tuple(start.changed(init=init) for init in starts))


def _softly(side: int, inputs: InputStore) -> Row:
    """The same mask with a hard and with a soft seam."""
    image, right = inputs.put(_apples(side)), inputs.put(_right_half(side))
    start = base(side).changed(prompt=BOTH.format("a lemon"))
    kinds = {
        "as it was": None,
        "blur 4": Mask(image=right, content="fill"),
        "soft, blur 8": Mask(image=right, content="fill", blur=8, soft=SoftInpainting()),
        "preservation 2": Mask(image=right, content="fill", blur=8, soft=SoftInpainting(preservation=2.0)),
    }
    starts = (Init(image=image, denoising_strength=1.0 if mask else 0.0, mask=mask) for mask in kinds.values())
    return Row("the right half is masked", tuple(kinds), tuple(start.changed(init=init) for init in starts))


def _outpainted(side: int, inputs: InputStore) -> Row:
    """One apple, and more and more of what is around it."""
    apple = Scene((Thing(CONCEPTS[INDEX["apple"]], 0.5, 0.5, 0.6, 0.0, False),), "green")
    image, part = Image.fromarray(picture(apple, side)), side // 4
    start = base(side).changed(prompt="an apple on a green background")
    requests = [start.changed(init=Init(image=inputs.put(image), denoising_strength=0.0))]
    for sides in ((0, 0, part, 0), (part, 0, part, 0), (part, part, part, part)):
        sheet, white = outpainted(image, *sides)
        init = Init(image=inputs.put(sheet), denoising_strength=0.9, mask=Mask(image=inputs.put(white), content="fill"))
        requests.append(start.changed(init=init, width=sheet.width, height=sheet.height))
    return Row(start.prompt, ("as it was", "to the right", "to both sides", "to all sides"), tuple(requests))


def _tile_by_tile(side: int, inputs: InputStore) -> Row:
    """SD upscale to twice the side."""
    image = inputs.put(_drawing(side))
    start = base(side).changed(prompt="a house in a meadow")
    strengths, tiles = (0.0, 0.15, 0.3), TiledUpscale(overlap=side // 4)
    starts = (Init(image=image, denoising_strength=strength, tiled=tiles) for strength in strengths)
    labels = tuple(f"strength {strength:g}" for strength in strengths)
    title = f"{start.prompt}, a drawing enlarged in tiles of {side}"
    return Row(title, labels, tuple(start.changed(init=init) for init in starts))


def _enlarged(side: int) -> Row:
    """The same picture in its first size, and after a second pass."""
    start = base(side).changed(prompt="a castle at sunset")
    passes = {
        "one pass": None,
        "Latent, 1.5 times, 0.55": Hires(scale=1.5, denoising_strength=0.55),
        "Lanczos, 2 times, 0.25": Hires(upscaler="Lanczos", denoising_strength=0.25),
    }
    return Row(start.prompt, tuple(passes), tuple(start.changed(hires=hires) for hires in passes.values()))


def _disc(side: int, part: float) -> Image.Image:
    mask, edge = Image.new("L", (side, side)), side * (1 - part) / 2
    ImageDraw.Draw(mask).ellipse((edge, edge, side - edge, side - edge), fill=255)
    return mask


def _drawing(side: int) -> Image.Image:
    """What a child draws: a sky, a lawn, a house."""
    image = Image.new("RGB", (side, side), (150, 200, 240))
    draw, unit = ImageDraw.Draw(image), side / 16
    draw.rectangle((0, 10 * unit, side, side), fill=(90, 170, 70))
    draw.rectangle((5 * unit, 7 * unit, 11 * unit, 12 * unit), fill=(230, 210, 170))
    draw.polygon([(4 * unit, 7 * unit), (8 * unit, 3 * unit), (12 * unit, 7 * unit)], fill=(190, 60, 40))
    draw.rectangle((7.2 * unit, 9.5 * unit, 8.8 * unit, 12 * unit), fill=(120, 70, 40))
    return image


def _apples(side: int) -> Image.Image:
    """Two apples on green, as training draws them."""
    apple = CONCEPTS[INDEX["apple"]]
    things = tuple(Thing(apple, x, 0.5, 0.44, 0.0, False) for x in (0.27, 0.73))
    return Image.fromarray(picture(Scene(things, "green"), side))


def _right_half(side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    mask.paste(255, (side // 2, 0, side, side))
    return mask


def _editing(start: GenerationParams) -> Row:
    animals = ("a cat", "[a cat:a dog:0.6]", "[a cat:a dog:0.4]", "[a cat:a dog:0.2]", "a dog")
    return _prompts(f"seed {start.seed}", start, [f"{animal} on a red background" for animal in animals])


def _weights(start: GenerationParams, text: str) -> Row:
    """``text`` with a weight in the place of its braces."""
    return _prompts(f"seed {start.seed}", start, [text.format(w) for w in (0.4, 0.7, 1, 1.3, 1.6)])


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
    width = max(image.width for image in pictures)
    labels = [_broken(label, width, font) for label in row.labels]
    top = CAPTION if row.title else 0
    below = CAPTION * max(len(lines) for lines in labels)
    high = max(image.height for image in pictures)
    block = Image.new("RGB", (len(pictures) * (width + GAP), top + high + below + GAP), "white")
    draw = ImageDraw.Draw(block)
    draw.text((1, 0), row.title, fill="#555", font=font)
    for column, (image, lines) in enumerate(zip(pictures, labels, strict=True)):
        x = column * (width + GAP)
        block.paste(image, (x, top))
        for i, line in enumerate(lines):
            draw.text((x + 1, top + high + i * CAPTION), line, fill="black", font=font)
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


def engine_for(path: Path, inputs: InputStore) -> Engine:
    """The program's own engine on the folder of the checkpoint at ``path``."""
    host = Host()
    builtin.register(host)
    return Engine(ModelStore(path.parent, choose(), Hashes(), default=path.stem), host, version="sheet", inputs=inputs)


def pictures(engine: Engine, row: Row) -> list[Image.Image]:
    """The first picture of each request of ``row``."""
    made: list[Image.Image] = []
    for params in row.requests:
        engine.run(params, lambda result: made.append(result.image))
    return made


def write(checkpoint: Path, folder: Path, inputs: InputStore) -> None:
    """Stage ``sheet``: ``examples.webp`` and a file for each feature."""
    engine = engine_for(checkpoint, inputs)
    side = engine.store.load().config.native_size
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"examples": examples(side), **features(side), **from_pictures(side, inputs)}.items():
        assemble([(row, pictures(engine, row)) for row in rows]).save(folder / f"{name}.webp", quality=92, method=6)
        print(f"{folder / name}.webp", flush=True)
