"""Runs a planned batch: prepares init images, samples each pass, decodes, and pastes results back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image
from torch import Tensor

from modules.checkpoints.approximation_files import DECODER, ENCODER, TAESD, parts_asked
from modules.checkpoints.detect import yaml_of
from modules.checkpoints.families.base import INPAINTING, PIX2PIX
from modules.checkpoints.model import LatentDiffusion, through
from modules.checkpoints.store import ModelStore
from modules.checkpoints.way import SamplingRanOut
from modules.devices import Snapshot
from modules.diffusion.guidance import Seeing, WeightedCond
from modules.diffusion.types import StopSampling
from modules.errors import Cancelled, CheckpointError, NoNumbers, OutOfMemory, UserError, out_of_memory
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.imaging.latent_preview import TAESD as PREVIEW_TAESD
from modules.imaging.latent_preview import Latents, Previews
from modules.imaging.resize import Enlarge
from modules.imaging.tensors import to_images
from modules.metadata.recipe import File
from modules.params.generation import GenerationParams
from modules.pipeline.hires import LATENT_MODES
from modules.pipeline.hooks import Hooks, LeftModified
from modules.pipeline.image_conditioning import encode, enlarge, image_conditioning, latent_distance, mask_weight
from modules.pipeline.init_image import InitImage, prepare
from modules.pipeline.plan import Batch
from modules.pipeline.prompt_encoder import PromptEncoder
from modules.pipeline.provenance import Provenance
from modules.pipeline.results import BatchImage, Progress, RunCallbacks
from modules.pipeline.sample import Refinement, Start, generate
from modules.pipeline.tiled_upscale import Tiled, rounds, tiled
from modules.restoration.upscale import Work, upscale

TEXT_ENCODER = "text encoder"
"""Role of a text encoder's own file in a recipe."""
CONFIGURATION = "configuration"
"""Role of A1111's yaml beside a checkpoint, where an image depends on it."""
TINY = {ENCODER: "tiny encoder", DECODER: "tiny decoder"}
TINY_ROLES = tuple(TINY.values())
"""Roles of TAESD's files in a recipe."""
InitImages = Sequence[InitImage] | Tiled
"""Prepared init images: none, one for all images of a request or one each; or the tiles of one."""


@dataclass(frozen=True)
class Task:
    """The model, hooks and callbacks while a batch is generated."""

    model: LatentDiffusion
    """Patched by ``hooks``."""
    images: int
    """The number of images of the whole request."""
    callbacks: RunCallbacks
    hooks: Hooks
    """The hooks of the first pass; those of hires fix are ``hires_hooks``."""
    hires_hooks: Hooks
    left_modified: LeftModified
    """Hears of what an extension did not restore."""
    done: int = 0
    """Of the ``parts`` (tiles) in which one image is made, the number finished."""
    parts: int = 1


class BatchRunner:
    """Generates the images of batches on the models of a store."""

    def __init__(
        self,
        store: ModelStore,
        host: Host,
        encoder: PromptEncoder,
        previews: Previews,
        inputs: InputStore | None = None,
    ):
        self._store = store
        self._host = host
        self._encoder = encoder
        self._previews = previews
        self.inputs = inputs

    def init_images(self, params: GenerationParams, cancelled: Callable[[], bool] = lambda: False) -> InitImages:
        """Open and prepare the init images of a request."""
        init, size = params.init, (params.width, params.height)
        if init is None:
            return ()
        if self.inputs is None:
            raise UserError("there is no place for start pictures here", field="init.image")
        if init.tiled:
            spec, work = self._host.upscalers.get(init.tiled.upscaler), Work(cancelled=cancelled)
            image = self.inputs.open(init.images[0])
            return tiled(init, init.tiled, image, size, lambda image, factor: upscale(spec, image, factor, work))
        mask = self.inputs.open(init.mask.image, field="init.mask.image") if init.mask else None
        return [prepare(init, self.inputs.open(image), mask, *size) for image in init.images]

    def images(self, task: Task, batch: Batch, init_images: InitImages, numbers: Iterable[int]) -> Iterator[BatchImage]:
        """The images of a batch that have these ``numbers`` in it."""
        if task.callbacks.cancelled() or task.callbacks.interrupted():
            raise Cancelled
        if isinstance(init_images, Tiled):
            yield self._tiled(task, batch, init_images)
            return
        count = len(init_images)
        own = [init_images[(batch.first_image + i) % count] for i in range(len(batch.seeds))] if count else []
        init = batch.params.init
        if init and (init.denoising_strength == 0 or all(image.is_protected for image in own)):
            yield from (BatchImage(i, own[i].unchanged, batch.params, task.hooks) for i in numbers)
        else:
            yield from self._sampled(task, batch, own[:1] if count == 1 else own, numbers)

    def provenance(self, model: LatentDiffusion, batch: Batch) -> Provenance:
        """The files of further checkpoints (hires fix, refiner) and of face restorers."""
        params = batch.params
        checkpoints = {
            "refiner": params.refiner and params.refiner.checkpoint,
            "hires checkpoint": params.hires and params.hires.checkpoint,
        }
        paths = [(role, self._store.find(name).path) for role, name in checkpoints.items() if name]
        paths += [(TEXT_ENCODER, path) for path in model.text_files]
        if model.config.from_yaml:
            paths.append((CONFIGURATION, yaml_of(model.path)))
        others = [self._store.configuration(name) for name in checkpoints.values() if name]
        paths += [(CONFIGURATION, path) for path in others if path and (CONFIGURATION, path) not in paths]
        if params.restore_faces:
            paths += self._host.face_restorer(params.face_restorer).files
        for part in parts_asked(params):
            paths.append((TINY[part], self._store.approximations.load(model.config, part)[1]))
        files = [File(role, path.name, self._store.sha256(path)) for role, path in paths]
        return Provenance(tuple(files))

    def _tiled(self, task: Task, batch: Batch, source: Tiled) -> BatchImage:
        """SD upscale: the one image of a batch. Where it is cut short, so are the tiles that follow."""
        init = batch.params.init
        assert init
        if init.denoising_strength == 0:
            return BatchImage(0, source.image, batch.params, task.hooks)
        parts, tiles = list(rounds(batch, source.init_images(init))), list[BatchImage]()
        for i, (part, images) in enumerate(parts):
            task = replace(task, done=i, parts=len(parts))
            tiles += self._sampled(task, part, images, range(len(images)))
        skipped = next((tile.skipped for tile in tiles if tile.skipped), 0)
        return replace(tiles[0], number=0, image=source.joined(tile.image for tile in tiles), skipped=skipped)

    def _sampled(
        self, task: Task, batch: Batch, init_images: Sequence[InitImage], numbers: Iterable[int]
    ) -> Iterator[BatchImage]:
        """Sampled images: from text, over one start image for all, or over one each."""
        model, init = task.model, batch.params.init
        start = encode(model, batch, init_images, init) if init_images and init else None
        with _sampling():
            latents, params, skipped = self._sample(task, batch, init_images, start)
        with contextlib.ExitStack() as patched:  # by the second pass, until its images are decoded
            if batch.hires and not skipped:
                task, latents, skipped = self._hires_pass(task, batch, latents, patched)
            for i, image in _decoded(task.model, batch, latents, list(numbers)):
                image = self._with_faces(image, batch.params, task.callbacks)
                if start:
                    image = init_images[i % len(init_images)].finished(image, latent_distance(latents, start, i))
                yield BatchImage(i, image, params, task.hooks, skipped)

    def _with_faces(self, image: Image.Image, params: GenerationParams, callbacks: RunCallbacks) -> Image.Image:
        """``image`` with its faces restored, if requested."""
        if not params.restore_faces:
            return image
        restored = self._host.face_restorer(params.face_restorer).restore(image, params.code_former_weight)
        if restored is image:
            callbacks.on_note(f"{params.face_restorer} found no face in the picture")
        return restored

    def _hires_pass(
        self, task: Task, batch: Batch, latents: Tensor, patched: contextlib.ExitStack
    ) -> tuple[Task, Tensor, int]:
        """Hires fix: resize the latents and sample again over them; ``patched`` undoes its patches in between."""
        second, hires, hires_batch, hooks = batch.hires, batch.params.hires, batch.hires_batch, task.hires_hooks
        assert second and hires and hires_batch
        larger = enlarge(task.model, batch, second, latents, self._enlarge(hires.upscaler, task.callbacks))
        if hooks is not task.hooks:
            # A modifier may be in both with other options, so one pass's patches never lie over the other's.
            task.hooks.unpatch()
            patched.enter_context(hooks.patching(task.left_modified))
        other = self._load_sibling(task.model, second.params.checkpoint, second.params)
        other = replace(other, config=other.config.predicting(second.params.prediction))
        task = replace(task, model=hooks.patched(other), hooks=hooks)
        start = Start(larger, hires.denoising_strength, exact_steps=True, extra_noise=hires.extra_noise)
        with _sampling():
            latents, _, skipped = self._sample(task, hires_batch, (), start, done=batch.announced_steps)
        return task, latents, skipped

    def _load_sibling(self, model: LatentDiffusion, checkpoint: str, params: GenerationParams) -> LatentDiffusion:
        """Load another checkpoint for the same request, with the VAE of ``model`` if that is a separate file."""
        other = self._store.load(checkpoint, model.vae_name, params.text_encoder, params.fp8_storage)
        other = replace(other, embeddings=model.embeddings, memory=model.memory)
        theirs, ours = other.config.latent, model.config.latent
        if (theirs.channels, theirs.factor) != (ours.channels, ours.factor):
            raise UserError(
                f"{other.name} cannot go on where {model.name} ends, because their latents have other shapes",
                hint="choose another checkpoint",
                field="checkpoint",
            )
        return self.approximated(other, params)

    def approximated(self, model: LatentDiffusion, params: GenerationParams) -> LatentDiffusion:
        """``model`` with the tiny autoencoders that a request asks for."""
        encoder, decoder = (method == TAESD for method in (params.sd_vae_encode_method, params.sd_vae_decode_method))
        return self._store.approximated(model, encoder=encoder, decoder=decoder) if encoder or decoder else model

    def _preview(self, model: LatentDiffusion, latent: Tensor, callbacks: RunCallbacks) -> Image.Image:
        """The preview of one image's latents, made with what a run asks for."""
        latents, kind = model.config.latent, callbacks.preview_type
        decode: Callable[[Tensor], Tensor] | None = None
        if kind == PREVIEW_TAESD:
            try:
                decode = partial(through, self._store.approximations.load(model.config, DECODER)[0])
            except CheckpointError as error:
                callbacks.on_note(f"previews are made as Approx cheap: {error}")
        return self._previews.draw(
            model, latent, kind, Latents(latents.channels, latents.factor, latents.rgb or None, decode)
        )

    def _enlarge(self, name: str, callbacks: RunCallbacks) -> Enlarge | None:
        """The upscaling function of an upscaler; None for latent upscalers and for plain Lanczos."""
        if name in (*LATENT_MODES, "None"):
            return None
        spec, work = self._host.upscalers.get(name), Work(cancelled=callbacks.cancelled)
        return lambda image, factor: upscale(spec, image, factor, work)

    def _sample(
        self, task: Task, batch: Batch, init_images: Sequence[InitImage], start: Start | None, done: int = 0
    ) -> tuple[Tensor, GenerationParams, int]:
        """Sample one pass: returns the latents, the request for the infotext, and the step at which it was cut
        short.

        ``done``: steps that came before.
        """
        refiner, model, hooks = batch.params.refiner, task.model, task.hooks
        hooks.begin(batch.sampling_pass)

        used = [model]

        def load() -> tuple[LatentDiffusion, Sequence[WeightedCond], WeightedCond]:
            assert refiner
            other = hooks.patched(self._load_sibling(model, refiner.checkpoint, batch.params))
            used.append(other)
            positive, negative, _ = self._encoder.encode(other, batch, hooks.scope())
            if (seen := image_conditioning(other, batch, init_images)) is None:
                return other, positive, negative
            return other, [Seeing(part, seen) for part in positive], Seeing(negative, seen)

        positive, negative, params = self._encoder.encode(model, batch, hooks.scope())
        reporter = StepReporter(task, batch, lambda latent: self._preview(model, latent, task.callbacks), done)
        latents = generate(
            model,
            batch,
            positive,
            negative,
            on_step=reporter,
            start=start,
            image_cond=image_conditioning(model, batch, init_images),
            refinement=Refinement(load, refiner.switch_at) if refiner else None,
            hooks=hooks,
            init_images=init_images,
        )
        widens = any(each.device.wider() for each in used)
        if (widens or hooks.suspects) and not latents.isfinite().all():
            if hooks.suspects:  # before another format is tried, which would not help
                raise NoNumbers("the model answered with values that are no numbers", hint="lower the CFG scale")
            raise Overflow(used)
        return latents, params, reporter.skipped


@contextlib.contextmanager
def _sampling() -> Iterator[None]:
    """Tells want of memory within it from that of other parts of a run."""
    try:
        yield
    except (MemoryError, RuntimeError, OutOfMemory) as error:
        if short := out_of_memory(error):
            raise SamplingRanOut(short.message, hint=short.hint) from error
        raise


class Overflow(Exception):
    """Numbers left the range of the format of ``models``, of which some have a wider one."""

    def __init__(self, models: Sequence[LatentDiffusion]):
        super().__init__("the model answered with values that are no numbers")
        self.models = models


def _decoded(
    model: LatentDiffusion, batch: Batch, latents: Tensor, numbers: Sequence[int]
) -> Iterator[tuple[int, Image.Image]]:
    """The images of a batch that have these ``numbers`` in it: as many at a time as the device has room for, or one by
    one where none may depend on its company.
    """
    together = model.device.gains_by_company and batch.params.kernels != "exact" and len(numbers) > 1
    together = together and not model.memory.tiles("tiled_decode", latents.shape[2] * latents.shape[3])
    size = model.decodes_at_once(latents) if together else 1
    rest = list(numbers)
    while rest:
        chosen = rest[:size]
        try:
            decoded = (model.decode_together if together else model.decode)(latents[chosen])
        except RuntimeError as error:
            if size == 1 or not out_of_memory(error):
                raise
            size = 1  # the room was estimated
            continue
        yield from zip(chosen, to_images(decoded, floor=batch.profile.floor_pixels), strict=True)
        rest = rest[size:]


class StepReporter:
    """Reports each step of a pass to a run's callbacks, and raises when they ask to end the pass or the run."""

    def __init__(self, task: Task, batch: Batch, preview: Callable[[Tensor], Image.Image], done: int = 0):
        """``done``: steps of the passes that came before."""
        self.skipped = 0
        """The step after which the pass was finished early; 0: it was not."""
        self._task = task
        self._batch = batch
        self._preview = preview
        own = done + batch.announced_steps + (batch.hires.params.steps if batch.hires else 0)
        self._before = task.done * own + done
        self._steps = task.parts * own
        self._images = 1 if batch.params.init and batch.params.init.tiled else len(batch.seeds)
        self._before_this: Snapshot | None = None

    def __call__(self, step: int, x: Tensor, sigma: float, denoised: Tensor) -> None:
        callbacks, taken = self._task.callbacks, self._before + step + 1
        if callbacks.cancelled():
            raise Cancelled
        # One step behind the card, which so never waits for the processor, and no step is reported before it is done.
        latest, now = self._before_this, self._task.model.device.snapshot(denoised[0])
        shown = latest.get() if latest and not now.arrived else now.get()
        self._before_this = now
        images = self._batch.first_image + self._images * taken / self._steps
        callbacks.on_progress(
            Progress(
                first_image=self._batch.first_image,
                images=self._task.images,
                step=taken,
                steps=self._steps,
                fraction=min(images / self._task.images, 1.0),
                preview=lambda: self._preview(shown),
            )
        )
        if callbacks.skips() or callbacks.interrupted():
            self.skipped = taken
            raise StopSampling


def image_conditioning_facts(model: LatentDiffusion, batch: Batch) -> Provenance:
    """The infotext keys of what an inpainting or pix2pix model sees beside the latents."""
    variant, init = model.config.variant, batch.params.init
    if variant == INPAINTING:
        return Provenance((), {"Conditional mask weight": mask_weight(batch.params)})
    return Provenance((), {"Image CFG scale": init.image_cfg_scale} if variant == PIX2PIX and init else {})
