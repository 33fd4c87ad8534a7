"""Params in, images out: no disk, no user interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from modules import infotext
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.conditioning import Part, TextCache, TextConditioner, pad_parts
from modules.errors import Cancelled
from modules.extension import Host
from modules.params import GenerationParams
from modules.pipeline.generate import generate
from modules.pipeline.plan import Batch, Plan, make_plan
from modules.pixels import to_images
from modules.previews import LinearPreview, fit
from modules.prompt.chunks import Emphasis
from modules.prompt.schedule import Pass
from modules.prompt.tokens import default_tokenizer
from modules.recipe import File, Recipe, pixel_hash


@dataclass(frozen=True)
class Progress:
    """One step of one batch. ``preview()`` draws the first image of the batch as it looks now."""

    first_image: int
    """Number of the batch's first image within the request, from 0."""
    images: int
    """Of the whole request."""
    step: int
    """Steps done in this batch."""
    steps: int
    fraction: float
    """Of the whole request, above 0 and at most 1."""
    preview: Callable[[], Image.Image]


@dataclass(frozen=True)
class Result:
    """A finished image and what made it."""

    image: Image.Image
    infotext: str
    recipe: Recipe


@dataclass(frozen=True)
class Watcher:
    """Who wants to hear of a run while it goes on, and may stop it."""

    on_progress: Callable[[Progress], object] = lambda _: None
    on_note: Callable[[str], None] = lambda _: None
    """Sentences about what was changed in the request."""
    cancelled: Callable[[], bool] = lambda: False


class Engine:
    """Runs requests on the models of a store, with the samplers of a host. One at a time."""

    def __init__(self, store: ModelStore, host: Host, *, version: str):
        self.store = store
        self.host = host
        self.program = f"Reprise {version}"
        self._tokenizer = default_tokenizer()
        self._previews: dict[str, LinearPreview] = {}
        self._texts = TextCache()

    def warm_up(self) -> LatentDiffusion:
        """Load the default model and take one step and a preview with it, so that the first request need not."""
        model = self.store.load()
        side = model.config.native_size
        once = GenerationParams(steps=1, width=side, height=side, seed=0, subseed=0)
        self.run(once, lambda _: None, Watcher(on_progress=lambda progress: progress.preview()))
        return model

    @torch.inference_mode()
    def run(
        self,
        params: GenerationParams,
        on_result: Callable[[Result], None],
        watcher: Watcher = Watcher(),
        *,
        made: int = 0,
    ) -> None:
        """Make the images of ``params``, handing each to ``on_result`` as soon as it is finished.

        The first ``made`` images exist already and are left out. Raises `UserError` before anything is computed when
        the request cannot be done, and `Cancelled` at the next step once ``watcher.cancelled()`` is true; images
        handed over before stay made.
        """
        if params.kernels == "auto":
            params = params.changed(kernels=self.store.device.kernels)
        plan = make_plan(params, self.host)
        for note in plan.notes:
            watcher.on_note(note)
        model = self.store.load(plan.params.checkpoint)
        for batch in plan.batches:
            if batch.first_image + len(batch.seeds) <= made:
                continue
            latents, told = self._sample(model, batch, plan, watcher)
            for i in range(max(made - batch.first_image, 0), len(batch.seeds)):
                (image,) = to_images(model.decode(latents[i : i + 1]), floor=batch.profile.floor_pixels)
                on_result(self._result(model, batch, told, i, image))

    def _sample(
        self, model: LatentDiffusion, batch: Batch, plan: Plan, watcher: Watcher
    ) -> tuple[Tensor, GenerationParams]:
        """The latents, and the request as the generation text tells it."""
        if watcher.cancelled():
            raise Cancelled
        positive, negative, told = self._texts_of(model, batch)

        def on_step(step: int, x: Tensor, sigma: float, denoised: Tensor) -> None:
            if watcher.cancelled():
                raise Cancelled
            done = batch.first_image + len(batch.seeds) * (step + 1) / batch.params.steps
            watcher.on_progress(
                Progress(
                    first_image=batch.first_image,
                    images=plan.images,
                    step=step + 1,
                    steps=batch.params.steps,
                    fraction=min(done / plan.images, 1.0),
                    preview=lambda: self._preview(model, denoised[0]),
                )
            )

        return generate(model, batch, positive, negative, on_step=on_step), told

    def _texts_of(self, model: LatentDiffusion, batch: Batch) -> tuple[tuple[Part, ...], Part, GenerationParams]:
        """Both prompts' conditions, and the request without paddings that changed nothing."""
        params, steps = batch.params, batch.schedule_steps
        conditioner = self._conditioner(model, batch)
        run = Pass(steps, steps, old=params.use_old_scheduling)
        positive, negative = conditioner.prompt(params.prompt, run), conditioner.negative(params.negative_prompt, run)
        padded = params.pad_cond_uncond or params.pad_cond_uncond_v0
        if padded:
            empty, v0 = conditioner.empty(), params.pad_cond_uncond_v0
            positive, negative, padded = pad_parts(positive, negative, empty, v0=v0)
        told = params if padded else params.changed(pad_cond_uncond=False, pad_cond_uncond_v0=False)
        return positive, negative, told

    def _conditioner(self, model: LatentDiffusion, batch: Batch) -> TextConditioner:
        clip_skip = batch.params.clip_skip
        return TextConditioner(
            lambda ids, inserted: model.encode_text(ids, inserted, clip_skip),
            self._tokenizer,
            emphasis=cast(Emphasis, batch.params.emphasis),
            profile=batch.profile,
            cache=self._texts,
            scope=(model.sha256, model.device, clip_skip),
        )

    def _preview(self, model: LatentDiffusion, latent: Tensor) -> Image.Image:
        if model.sha256 not in self._previews:
            self._previews[model.sha256] = fit(model.decode)
        return Image.fromarray(self._previews[model.sha256](latent))

    def _result(
        self, model: LatentDiffusion, batch: Batch, told: GenerationParams, i: int, image: Image.Image
    ) -> Result:
        text = infotext.write(
            told,
            seed=batch.seeds[i],
            subseed=batch.subseeds[i],
            sampler=batch.sampler,
            scheduler=batch.scheduler.label,
            model_name=model.name,
            model_hash=model.short_hash,
            version=self.program,
        )
        recipe = Recipe(
            request=batch.params,
            index=batch.first_image + i,
            seed=batch.seeds[i],
            subseed=batch.subseeds[i],
            files=(File("checkpoint", model.path.name, model.sha256),),
            program=self.program,
            torch=torch.__version__,
            device=model.device.kind,
            dtype=str(model.device.dtype).removeprefix("torch."),
            kernels=batch.params.kernels,
            pixels=pixel_hash(image),
            processor=model.device.processor(),
        )
        return Result(image, text, recipe)
