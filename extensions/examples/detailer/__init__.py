"""Detailer: finds regions of a finished image and inpaints each at full size.

`find` is the only thing to replace for another detector, such as one of faces. This one needs no model: it takes the
places where the brightness changes most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules import GenerationParams, Host, ImageContext, Init, Mask, Modifier, ModifierSpec, option

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

CELLS = 8
"""Regions are sought on a grid of so many cells a side."""


@dataclass(frozen=True)
class Options:
    prompt: str = option("", "Prompt", help="empty: that of the image")
    regions: int = option(1, "Regions", lo=1, hi=8, step=1, help="at most so many, the most detailed first")
    size: float = option(0.25, "Size", lo=0.1, hi=0.5, step=0.05, help="of a region, as a part of the image's sides")
    strength: float = option(0.4, "Denoising strength", lo=0.0, hi=1.0, step=0.01)
    padding: int = option(32, "Padding", lo=0, hi=256, step=4, help="pixels around a region that are seen too")


class Detailer(Modifier):
    def __init__(self, options: Options):
        self.options = options

    def after_image(self, image: Image, context: ImageContext) -> Image:
        """Each region is inpainted on what the ones before it made."""
        boxes = find(image, self.options.regions, self.options.size)
        for box in boxes:
            image = context.inpaint(image, mask_of(image.size, box), self.request(context.params))
        context.note(f"the detailer painted {len(boxes)} regions anew")
        return image

    def request(self, params: GenerationParams) -> GenerationParams:
        mask = Mask(only_masked=True, padding=self.options.padding, blur=4)
        init = Init(denoising_strength=self.options.strength, mask=mask)
        prompt = self.options.prompt or params.prompt
        return params.changed(prompt=prompt, init=init, hires=None, batch_size=1, batch_count=1)


def find(image: Image, most: int, size: float) -> list[Box]:
    """The most detailed regions first, none over another."""
    from PIL import ImageFilter

    edges = image.convert("L").filter(ImageFilter.FIND_EDGES).crop((1, 1, image.width - 1, image.height - 1))
    cells = list(edges.resize((CELLS, CELLS), resample=4).getdata())  # 4: the mean of a cell
    width, height = int(image.width * size), int(image.height * size)
    boxes: list[Box] = []
    for cell in sorted(range(len(cells)), key=lambda i: (-cells[i], i)):
        if len(boxes) == most or not cells[cell]:
            break
        x, y = ((cell % CELLS + 0.5) * image.width / CELLS, (cell // CELLS + 0.5) * image.height / CELLS)
        left = min(max(int(x - width / 2), 0), image.width - width)
        top = min(max(int(y - height / 2), 0), image.height - height)
        box = (left, top, left + width, top + height)
        if not any(overlaps(box, other) for other in boxes):
            boxes.append(box)
    return boxes


def overlaps(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def mask_of(size: tuple[int, int], box: Box) -> Image:
    from PIL.Image import new

    mask = new("L", size)
    mask.paste(255, box)
    return mask


def register(host: Host) -> None:
    spec = ModifierSpec("detailer", "Detailer", Options, Detailer, order=200, help="Paint the finest places anew")
    host.add_modifier(spec)
