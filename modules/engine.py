"""Params in, images out: no disk, no user interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from modules import infotext
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.conditioning import Part, TextCache, TextConditioner, pad_parts
from modules.errors import Cancelled, UserError
from modules.extension import Host
from modules.inputs import InputStore
from modules.params import GenerationParams
from modules.pipeline.generate import Refinement, Start, generate, sees_picture
from modules.pipeline.hires import LATENT_MODES
from modules.pipeline.passes import encode, enlarge, mask_weight, seen_beside
from modules.pipeline.picture import Picture, prepare
from modules.pipeline.plan import Batch, Plan, make_plan
from modules.pixels import to_images
from modules.previews import LinearPreview, fit
from modules.prompt.chunks import Emphasis
from modules.prompt.schedule import Pass
from modules.prompt.tokens import default_tokenizer
from modules.recipe import File, Recipe, pixel_hash
from modules.resize import Enlarge
from modules.upscale import Work, upscale


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

    def __init__(self, store: ModelStore, host: Host, *, version: str, inputs: InputStore | None = None):
        """``inputs``: where the pictures lie that requests start from."""
        self.store = store
        self.host = host
        self.inputs = inputs
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
        picture = self._picture(plan.params)
        model = self.store.load(plan.params.checkpoint)
        used = self._files(model, plan)
        for batch in plan.batches:
            if batch.first_image + len(batch.seeds) <= made:
                continue
            rest = range(max(made - batch.first_image, 0), len(batch.seeds))
            for i, image, told in self._images(model, batch, plan, picture, watcher, rest):
                on_result(self._result(model, batch, told, i, image, used))

    def _picture(self, params: GenerationParams) -> Picture | None:
        """The start picture made ready, where there is one."""
        init = params.init
        if init is None:
            return None
        if self.inputs is None:
            raise UserError("there is no place for start pictures here", field="init.image")
        mask = self.inputs.open(init.mask.image, field="init.mask.image") if init.mask else None
        return prepare(init, self.inputs.open(init.image), mask, params.width, params.height)

    def _images(
        self,
        model: LatentDiffusion,
        batch: Batch,
        plan: Plan,
        picture: Picture | None,
        watcher: Watcher,
        wanted: Iterable[int],
    ) -> Iterator[tuple[int, Image.Image, GenerationParams]]:
        """The images of a batch that are ``wanted``: number in it, image, and the request as its text tells it."""
        if watcher.cancelled():
            raise Cancelled
        init = batch.params.init
        if picture and init and (init.denoising_strength == 0 or picture.is_protected):
            yield from ((i, picture.unchanged, batch.params) for i in wanted)
            return
        start = encode(model, batch, picture, init) if picture and init else None
        seen = seen_beside(model, batch, picture) if sees_picture(model) else None
        latents, told = self._sample(model, batch, plan, watcher, start=start, seen=seen)
        if batch.hires:
            model, latents = self._second_pass(model, batch, plan, watcher, latents)
        for i in wanted:
            (image,) = to_images(model.decode(latents[i : i + 1]), floor=batch.profile.floor_pixels)
            yield i, picture.finished(image) if picture else image, told

    def _second_pass(
        self, model: LatentDiffusion, batch: Batch, plan: Plan, watcher: Watcher, latents: Tensor
    ) -> tuple[LatentDiffusion, Tensor]:
        """Hires fix: the latents enlarged, and sampled again as a picture."""
        second, hires = batch.hires, batch.params.hires
        assert second and hires
        larger = enlarge(model, batch, second, latents, self._enlarge(hires.upscaler, watcher))
        model = self.store.load(second.params.checkpoint)
        start = Start(larger, hires.denoising_strength, exact_steps=True)
        again = dataclasses.replace(
            batch, params=second.params, sampler=second.sampler, scheduler=second.scheduler, hires=None
        )
        run = Pass(again.schedule_steps, batch.schedule_steps, second=True, old=batch.params.use_old_scheduling)
        seen = seen_beside(model, again, None) if sees_picture(model) else None
        done = batch.announced_steps
        latents, _ = self._sample(model, again, plan, watcher, start=start, seen=seen, run=run, done=done)
        return model, latents

    def _enlarge(self, name: str, watcher: Watcher) -> Enlarge | None:
        """None for those that work on latents, and for the one that leaves the work to Lanczos."""
        if name in (*LATENT_MODES, "None"):
            return None
        spec, work = self.host.upscalers.get(name), Work(cancelled=watcher.cancelled)
        return lambda image, factor: upscale(spec, image, factor, work)

    def _sample(
        self,
        model: LatentDiffusion,
        batch: Batch,
        plan: Plan,
        watcher: Watcher,
        *,
        start: Start | None = None,
        seen: Tensor | None = None,
        run: Pass | None = None,
        done: int = 0,
    ) -> tuple[Tensor, GenerationParams]:
        """One pass: the latents, and the request as the generation text tells it. ``done``: steps that came before."""
        counted = run or Pass(batch.schedule_steps, batch.schedule_steps, old=batch.params.use_old_scheduling)
        refiner = batch.params.refiner

        def load() -> tuple[LatentDiffusion, Sequence[Part], Part]:
            assert refiner
            other = self.store.load(refiner.checkpoint)
            return other, *self._texts_of(other, batch, counted)[:2]

        positive, negative, told = self._texts_of(model, batch, counted)
        steps = done + batch.announced_steps + (batch.hires.params.steps if batch.hires else 0)

        def on_step(step: int, x: Tensor, sigma: float, denoised: Tensor) -> None:
            if watcher.cancelled():
                raise Cancelled
            part = batch.first_image + len(batch.seeds) * (done + step + 1) / steps
            watcher.on_progress(
                Progress(
                    first_image=batch.first_image,
                    images=plan.images,
                    step=done + step + 1,
                    steps=steps,
                    fraction=min(part / plan.images, 1.0),
                    preview=lambda: self._preview(model, denoised[0]),
                )
            )

        refinement = Refinement(load, refiner.switch_at) if refiner else None
        latents = generate(
            model, batch, positive, negative, on_step=on_step, start=start, seen=seen, refinement=refinement
        )
        return latents, told

    def _texts_of(
        self, model: LatentDiffusion, batch: Batch, run: Pass
    ) -> tuple[tuple[Part, ...], Part, GenerationParams]:
        """Both prompts' conditions, and the request without paddings that changed nothing."""
        params, conditioner = batch.params, self._conditioner(model, batch)
        positive, negative = conditioner.prompt(params.prompt, run), conditioner.negative(params.negative_prompt, run)
        padded = params.pad_cond_uncond or params.pad_cond_uncond_v0
        if padded:
            empty, v0 = conditioner.empty(), params.pad_cond_uncond_v0
            positive, negative, padded = pad_parts(positive, negative, empty, v0=v0)
        told = params if padded else params.changed(pad_cond_uncond=False, pad_cond_uncond_v0=False)
        return positive, negative, told

    def has(self, file: File) -> bool:
        """Whether a file of a recipe is at hand."""
        if file.role in ("image", "mask"):
            return self.inputs is not None and file.sha256 in self.inputs
        return self.store.with_sha256(file.sha256) is not None

    def _files(self, model: LatentDiffusion, plan: Plan) -> tuple[File, ...]:
        """Everything on the disk that the pictures depend on."""
        files = [File("checkpoint", model.path.name, model.sha256)]
        if init := plan.params.init:
            files.append(File("image", f"{init.image[:12]}.png", init.image))
            if init.mask:
                files.append(File("mask", f"{init.mask.image[:12]}.png", init.mask.image))
        others = {
            "refiner": plan.params.refiner and plan.params.refiner.checkpoint,
            "hires checkpoint": plan.params.hires and plan.params.hires.checkpoint,
        }
        for role, name in others.items():
            if name:
                path = self.store.find(name).path
                files.append(File(role, path.name, self.store.sha256(path)))
        return tuple(files)

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
        self,
        model: LatentDiffusion,
        batch: Batch,
        told: GenerationParams,
        i: int,
        image: Image.Image,
        used: tuple[File, ...],
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
            extra={"Conditional mask weight": mask_weight(batch.params)} if sees_picture(model) else {},
        )
        recipe = Recipe(
            request=batch.params,
            index=batch.first_image + i,
            seed=batch.seeds[i],
            subseed=batch.subseeds[i],
            files=used,
            program=self.program,
            torch=torch.__version__,
            device=model.device.kind,
            dtype=str(model.device.dtype).removeprefix("torch."),
            kernels=batch.params.kernels,
            pixels=pixel_hash(image),
            processor=model.device.processor(),
        )
        return Result(image, text, recipe)
