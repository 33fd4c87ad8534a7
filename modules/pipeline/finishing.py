"""From a sampled image to the result that is handed over: the last hooks, inner generations, and the record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from modules.errors import NotFound
from modules.extension.contexts import BatchRun, ImageContext, MadeImage
from modules.gallery.inputs import InputStore
from modules.imaging.files import png_bytes
from modules.metadata.recipe import File, InnerGeneration
from modules.params.generation import GenerationParams, Init, Mask
from modules.pipeline.hooks import Border, Hooks
from modules.pipeline.plan import Batch
from modules.pipeline.provenance import IMAGE, MASK, Recorder
from modules.pipeline.results import BatchImage, Result

MOST_INNER = 50
"""Generations within one image."""


@dataclass(frozen=True)
class InnerInputs(InputStore):
    """An `InputStore` that knows some images of this moment besides, by the same names; they are not written."""

    images: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def over(cls, store: InputStore | None, *images: Image.Image) -> InnerInputs:
        """``images``, upright and without metadata, over those of a store."""
        found = [png_bytes(image) for image in images]
        folder = store.folder if store else Path("no-inputs")
        return cls(folder, {hashlib.sha256(data).hexdigest(): data for data in found})

    def read(self, sha256: str, *, field: str = "init.image") -> bytes:
        if sha256 in self.images:
            return self.images[sha256]
        return super().read(sha256, field=field)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self.images or super().__contains__(sha256)

    def path(self, sha256: str, *, field: str = "init.image") -> Path:
        if sha256 in self.images:
            raise NotFound(f"the picture {sha256[:12]} is in no file", hint="open it instead", field=field)
        return super().path(sha256, field=field)


RunInner = Callable[[GenerationParams, InnerInputs], Result]
"""Makes the one image of a request within another."""


@dataclass
class InnerRuns:
    """The generations within one image, as they are made."""

    run: RunInner
    inputs: InputStore | None
    border: Border
    note: Callable[[str], None]
    made: list[InnerGeneration] = field(default_factory=list)
    files: list[File] = field(default_factory=list)

    def context(self, name: str, made: MadeImage) -> ImageContext:
        """What the modifier ``name`` may ask for."""
        return _Context(name, made, self)


@dataclass(frozen=True)
class _Context:
    """`modules.extension.contexts.ImageContext`."""

    name: str
    made: MadeImage
    runs: InnerRuns

    @property
    def params(self) -> GenerationParams:
        return self.made.params

    @property
    def seed(self) -> int:
        return self.made.seed

    @property
    def subseed(self) -> int:
        return self.made.subseed

    @property
    def number(self) -> int:
        return self.made.number

    def note(self, text: str) -> None:
        self.runs.note(text)

    def generate(self, params: GenerationParams, *, image: Image.Image | None = None) -> Image.Image:
        return self._made("generate", params, image, None)

    def inpaint(self, image: Image.Image, mask: Image.Image, params: GenerationParams) -> Image.Image:
        if mask.size != image.size:
            raise ValueError(f"the mask has {mask.size} pixels and the image {image.size}")
        return self._made("inpaint", params, image, mask.convert("L"))

    def _made(
        self, kind: str, params: GenerationParams, image: Image.Image | None, mask: Image.Image | None
    ) -> Image.Image:
        if len(self.runs.made) >= MOST_INNER:
            raise ValueError(f"it asks for more than {MOST_INNER} generations within one image")
        inputs = InnerInputs.over(self.runs.inputs, *filter(None, (image, mask)))
        params = self._request(params, image is not None, mask is not None, tuple(inputs.images))
        result = self.runs.border.outside(self.runs.run)(params, inputs)
        self.runs.made.append(InnerGeneration(self.name, kind, params))
        self.runs.files += [file for file in result.recipe.files if file.role not in (IMAGE, MASK)]
        return result.image

    def _request(self, params: GenerationParams, image: bool, mask: bool, names: Sequence[str]) -> GenerationParams:
        """One image, with this image's seeds where none are given, without the modifier that asks."""
        init = params.init
        if image:
            init = replace(init or Init(), image=names[0])
            own = replace(init.mask or Mask(), image=names[-1]) if mask else None
            init = replace(init, mask=own)
        return params.changed(
            init=init,
            hires=None if init else params.hires,
            batch_size=1,
            batch_count=1,
            seed=self.seed if params.seed == -1 else params.seed,
            subseed=self.subseed if params.subseed == -1 else params.subseed,
            kernels=self.params.kernels,
            extensions=params.extensions.without(self.name),
        )


@dataclass(frozen=True)
class Finisher:
    """Finishes the images of one batch."""

    batch: Batch
    hooks: Sequence[Hooks]
    """Those of each pass. An image has the hooks of the last one that it went through."""
    recorder: Recorder
    inner: Callable[[], InnerRuns]
    """The generations within an image, of which there are none yet."""

    @property
    def waits(self) -> bool:
        """Whether it takes the whole batch, and a model that is not patched."""
        return any(hooks.has("after_batch", "after_image") for hooks in self.hooks)

    def results(self, images: Sequence[BatchImage]) -> Iterator[Result]:
        """The results of all images of a batch."""
        if not images:
            return
        numbers = [self.batch.first_image + image.number for image in images]
        seeds = tuple(self.batch.seeds[image.number] for image in images)
        run = BatchRun(self.batch.params, seeds, tuple(numbers))
        whole = images[0].hooks.after_batch(run, [image.image for image in images])
        for generated, image in zip(images, whole, strict=True):
            yield self.result(replace(generated, image=image))

    def result(self, generated: BatchImage) -> Result:
        batch, hooks, number = self.batch, generated.hooks, generated.number
        made = MadeImage(batch.params, batch.seeds[number], batch.subseeds[number], batch.first_image + number)
        runs = self.inner()
        image = hooks.finish(generated.image)
        image = hooks.after_image(image, lambda name: runs.context(name, made))
        saving = hooks.before_save(image, made)
        result = self.recorder.result(replace(generated, image=saving.image), saving.facts, runs.made, runs.files)

        def saved(path: Path) -> None:
            hooks.on_saved(path, replace(made, infotext=result.infotext, recipe=str(result.recipe)))

        return replace(result, name=saving.name, saved=saved)
