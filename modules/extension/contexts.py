"""What hooks of ``api = 2`` are given: the step, the pass, the batch, the image at hand.

Each is a frozen dataclass that only the program creates, so that facts can be added without changing an extension.
Torch is imported for type checkers alone: the server reads this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from modules.diffusion.types import Cond, Part, Row
from modules.params.generation import GenerationParams
from modules.prompt.clock import Clock

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from modules.checkpoints.model import LatentDiffusion


@dataclass(frozen=True)
class SamplingPass:
    """One pass of a batch, decided."""

    number: int
    """0, or 1 for that of hires fix."""
    prompt: str
    """The positive one, network tags and all."""
    clock: Clock


# ------------------------------------------------------------------------------------------------- layers of a UNet


@dataclass(frozen=True)
class Layer:
    """An attention or a block of a UNet."""

    name: str
    """ "input.4.0.self": place, block, depth and kind of an attention; "input.4": a block."""
    place: Literal["input", "middle", "output"]
    block: int
    """Number within its place; the middle has one, 0."""
    level: int
    """How often the latents are halved where it works."""
    kind: Literal["self", "cross", "block"]
    depth: int = 0
    """Of an attention: the number of its transformer block within the block."""
    heads: int = 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of its feature map, whose pixels are the tokens of an attention, for latents of that size.

        >>> Layer("input.7", "input", 7, 2, "block").size(9, 16)
        (3, 4)
        """
        half = 2**self.level
        return -(-height // half), -(-width // half)


class Attention(Protocol):
    """``(q, k, v) -> out``, each (rows, heads, tokens, head_dim)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


AttentionFunction = Callable[["Step", Layer, "Tensor", "Tensor", "Tensor", Attention], "Tensor"]
"""``(step, layer, q, k, v, attention) -> out``."""
BlockFunction = Callable[["Step", Layer, "Tensor"], "Tensor"]
"""``(step, layer, h) -> h`` for a feature map (rows, channels, h, w)."""
SkipFunction = Callable[["Step", Layer, "Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
"""``(step, layer, h, skip) -> (h, skip)``, before an output block joins them."""


class Evaluate(Protocol):
    """``(x, sigma, cond) -> x0``: the network, with what extensions do to it. The functions of ``attention``, by the
    names of layers, hold for this evaluation alone."""

    def __call__(
        self, x: Tensor, sigma: float, cond: Cond, *, attention: Mapping[str, AttentionFunction] = ...
    ) -> Tensor: ...


# ------------------------------------------------------------------------------------------------ steps and passes


@dataclass(frozen=True)
class Step:
    """One call of the denoiser by the sampler."""

    x: Tensor
    """The noisy latents (n, c, h, w) of the batch, float32."""
    sigma: float
    step: int
    """The sampler's, from 0."""
    steps: int
    """How many the sampler will take in this pass."""
    call: int
    """Calls of this pass before this one: samplers of second order make two a step."""
    pass_: SamplingPass
    cond: tuple[Part, ...]
    """The AND parts of the positive prompt that hold now, each with its weight."""
    uncond: Cond | None
    """The negative prompt; None where it is not evaluated (CFG 1, skipped steps)."""
    seeds: tuple[int, ...]
    image_numbers: tuple[int, ...]
    """Of each image of the batch within the request, from 0."""
    network: Evaluate
    """Evaluates the network under a condition, image by image in exact batches. Not for use within `on_network`."""
    timestep: Callable[[float], float]
    """The model's timestep for a noise level, 0 to 999 and what lies between: networks beside the model's take it."""
    rows: tuple[Row, ...] = ()
    """While the network is called: what each row of its input belongs to."""

    def masked(self, kind: Literal["positive", "negative", "other"]) -> list[int]:
        """The numbers of the rows of that kind."""
        return [i for i, row in enumerate(self.rows) if row.kind == kind]


@dataclass(frozen=True)
class PassRun:
    """A pass whose texts are encoded and whose noise is drawn."""

    pass_: SamplingPass
    params: GenerationParams
    """The request of this pass, as extensions revised it."""
    model: LatentDiffusion
    sigmas: tuple[float, ...]
    """From high to low; the last is usually 0."""
    seeds: tuple[int, ...]
    image_numbers: tuple[int, ...]
    start_images: tuple[Image, ...] = ()
    """What the pass starts from, in its size and cropped as it is: one for all images, or one each; none in txt2img and
    in the second pass of hires fix."""
    start_masks: tuple[Image, ...] = ()
    """The mask of each, mode L; white is repainted."""
    subseeds: tuple[int, ...] = ()


# ------------------------------------------------------------------------------------------------ images and jobs


@dataclass(frozen=True)
class BatchRun:
    """A batch whose images are made."""

    params: GenerationParams
    seeds: tuple[int, ...]
    image_numbers: tuple[int, ...]


@dataclass(frozen=True)
class MadeImage:
    """An image, and what it was made of."""

    params: GenerationParams
    """The request, as extensions revised it."""
    seed: int
    subseed: int
    number: int
    """Within the request, from 0."""
    infotext: str = ""
    """The generation text; empty before the image is saved."""
    recipe: str = ""
    """Canonical JSON; empty before the image is saved."""


@dataclass(frozen=True)
class Saving:
    """How an image is to be saved."""

    image: Image
    name: str = ""
    """What the file's name ends with; empty: nothing."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Further keys of the generation text."""


@dataclass(frozen=True)
class JobEnd:
    """How a request ended."""

    params: GenerationParams
    images: int
    """How many were made."""
    state: Literal["done", "cancelled", "failed"]
    error: str = ""


class ImageContext(Protocol):
    """What `after_image` may ask for beside the image."""

    @property
    def made(self) -> MadeImage: ...

    @property
    def params(self) -> GenerationParams:
        """The request of this image, as extensions revised it."""
        ...

    def generate(self, params: GenerationParams, *, image: Image | None = None) -> Image:
        """Make one image within this one. ``image``: the start picture, to whose `Init` ``params.init`` adds the rest.

        Seeds of -1 are this image's own. It is part of the recipe, and cancelled with the job.
        """
        ...

    def inpaint(self, image: Image, mask: Image, params: GenerationParams) -> Image:
        """Repaint the white of ``mask`` (mode L, of the image's size); ``params.init.mask`` says how."""
        ...

    def note(self, text: str) -> None:
        """A sentence for the job."""
        ...


Saved = Callable[[Path], None]
