"""Params in, images out: no disk, no user interface."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from modules import infotext
from modules.checkpoints.embeddings import EmbeddingFile, EmbeddingFolder, Listing
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.checkpoints.vaes import AUTOMATIC
from modules.conditioning import Part, TextCache, TextConditioner, pad_parts
from modules.diffusion.types import Enough
from modules.errors import Cancelled, UserError, out_of_memory
from modules.extension import Host
from modules.inputs import InputStore
from modules.params import Chosen, GenerationParams
from modules.pipeline.generate import Refinement, Start, generate, sees_picture
from modules.pipeline.hires import LATENT_MODES
from modules.pipeline.hooks import HookFailed, Hooks, NoWatch, Watch, with_tags
from modules.pipeline.named import named, unheeded
from modules.pipeline.passes import encode, enlarge, mask_weight, moved, seen_beside
from modules.pipeline.picture import Picture, prepare
from modules.pipeline.plan import Batch, Plan, check_extensions, make_plan
from modules.pipeline.texts import text_encoders, text_vector
from modules.pipeline.tiled import Tiled, rounds, tiled
from modules.pixels import to_images
from modules.previews import LinearPreview, fit
from modules.prompt.chunks import Emphasis
from modules.prompt.schedule import Pass
from modules.prompt.tokens import default_tokenizer
from modules.recipe import File, Recipe, UsedExtension, pixel_hash
from modules.resize import Enlarge
from modules.upscale import Work, upscale

EMBEDDING, VAE = "embedding", "vae"
"""Roles of files in a recipe."""
MOST_NAMED = 8
"""In one note."""
log = logging.getLogger(__name__)


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
class Used:
    """What a run takes from the disk: as recipes record it, and what generation texts say of it."""

    files: tuple[File, ...]
    told: Mapping[str, object]


@dataclass(frozen=True)
class Watcher:
    """Who wants to hear of a run while it goes on, and may stop it."""

    on_progress: Callable[[Progress], object] = lambda _: None
    on_note: Callable[[str], None] = lambda _: None
    """Sentences about what was changed in the request."""
    cancelled: Callable[[], bool] = lambda: False
    skips: Callable[[], int] = lambda: 0
    """How often it was asked to make the image at hand from what there is; looked at after each step was told."""

    def from_now(self) -> Watcher:
        """The same for one batch: what was asked of an earlier one is done with."""
        before, skips = self.skips(), self.skips
        return replace(self, skips=lambda: skips() - before)


@dataclass(frozen=True)
class Made:
    """An image of a batch, and how it came about."""

    number: int
    """In the batch, from 0."""
    image: Image.Image
    told: GenerationParams
    """The request as the generation text tells it."""
    skipped: int = 0
    """Steps after which it was cut short; 0: it was not."""


@dataclass(frozen=True)
class _Task:
    """What is at hand while a batch is made."""

    model: LatentDiffusion
    plan: Plan
    watcher: Watcher
    hooks: Hooks
    done: int = 0
    """Of the ``parts`` that one picture is made in, those that are made."""
    parts: int = 1


class Engine:
    """Runs requests on the models of a store, with the samplers of a host. One at a time."""

    def __init__(
        self,
        store: ModelStore,
        host: Host,
        *,
        version: str,
        inputs: InputStore | None = None,
        embeddings: EmbeddingFolder | None = None,
        absent: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ):
        """``inputs``: where the pictures lie that requests start from. ``absent``: modifiers that requests may ask for
        and that are not at work now, with the reason; requests are done without them. ``watch`` hears of hooks.
        """
        self.store = store
        self.host = host
        self.inputs = inputs
        self.embeddings = embeddings
        self.absent = absent or {}
        self.watch = watch or NoWatch()
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
        embeddings: Listing | None = None,
        without: Mapping[str, str] | None = None,
    ) -> None:
        """Make the images of ``params``, handing each to ``on_result`` as soon as it is finished.

        The first ``made`` images exist already and are left out. Prompts may name ``embeddings``, or else what lies in
        the folder. Raises `UserError` before anything is computed when the request cannot be done, and `Cancelled` at
        the next step once ``watcher.cancelled()`` is true; images handed over before stay made. Where
        ``watcher.skips()`` grows, the batch at hand is made from what there is. What extensions in ``without`` would do
        is left out, and so is from then on what one does that fails; notes and recipes say so.
        """
        if params.kernels == "auto":
            params = params.changed(kernels=self.store.device.kernels)
        absent = {**self.absent, **self.watch.fallen(), **(without or {})}
        for name in params.extensions:
            if name in absent:
                watcher.on_note(f"made without extension {name}: {absent[name]}")
        told: set[str] = set()

        def tell(note: str) -> None:
            """Once, however often it is tried."""
            if note not in told:
                told.add(note)
                watcher.on_note(note)

        while True:
            try:
                # Closed at once, whatever happens: a model must not stay patched while a traceback holds this.
                with contextlib.closing(self._results(params, tell, watcher, made, absent, embeddings)) as results:
                    for result in results:
                        made += 1
                        on_result(result)
                return
            except HookFailed as failure:
                log.warning("%s", failure, exc_info=failure.error)
                self.watch.failed(failure)
                absent[failure.name] = str(failure)
                watcher.on_note(f"{failure}; the job goes on without it")
            except (MemoryError, RuntimeError) as error:
                if short := out_of_memory(error):
                    log.warning("%s", error)
                    raise short from error
                raise

    def _results(
        self,
        params: GenerationParams,
        tell: Callable[[str], None],
        watcher: Watcher,
        made: int,
        absent: Mapping[str, str],
        embeddings: Listing | None,
    ) -> Generator[Result, None, None]:
        """The images behind the first ``made``, as those extensions make them that are not ``absent``."""
        able = Chosen({name: options for name, options in params.extensions.items() if name not in absent})
        chosen = with_tags(params.prompt, check_extensions(able, self.host), self.host, absent)
        hooks = Hooks(self.host, chosen, self.watch)
        revise = hooks.revise if hooks.has("revise") else None
        plan = make_plan(params.changed(extensions=able), self.host, revise)
        for note in plan.notes:
            tell(note)
        if embeddings is None:
            embeddings = self.embeddings.list() if self.embeddings else Listing()
        request = plan.params.changed(extensions=Chosen({**params.extensions, **plan.params.extensions}))
        wanted = {*params.extensions, *with_tags(params.prompt, Chosen(), self.host)}
        failed = {name: reason for name, reason in absent.items() if name in wanted}
        ready: dict[object, Sequence[Picture] | Tiled] = {}
        for batch in plan.batches:
            if batch.first_image + len(batch.seeds) <= made:
                continue
            rest = range(max(made - batch.first_image, 0), len(batch.seeds))
            with hooks.patching(lambda model, name: self._spoilt(model, name, watcher)):
                start = batch.params.init, batch.params.width, batch.params.height  # extensions may change it
                ready = {start: ready[start] if start in ready else self._sources(batch.params, watcher)}
                loaded = self.store.load(batch.params.checkpoint, batch.params.vae)
                model = hooks.patched(replace(loaded, embeddings=embeddings))
                for note in self._left_out(model, batch):
                    tell(note)
                used = self._used(model, batch)
                part = self._part(request, batch, hooks, failed)
                for one in self._batch(_Task(model, plan, watcher.from_now(), hooks), batch, ready[start], rest):
                    one = replace(one, image=hooks.finish(one.image))
                    yield self._result(model, batch, one, used, request, part)

    def _part(
        self, request: GenerationParams, batch: Batch, hooks: Hooks, failed: Mapping[str, str]
    ) -> tuple[UsedExtension, ...]:
        """Extensions that have part in a batch, in their order, and those that should have had."""
        used = [
            UsedExtension(one.spec.name, one.version, dict(one.options), dict(batch.changed.get(one.spec.name, {})))
            for one in hooks.active
        ]
        hires = batch.params.hires
        names = [("sampler", batch.sampler.name), ("scheduler", batch.scheduler.label)]
        if batch.hires and hires:
            names += [("sampler", batch.hires.sampler.name), ("scheduler", batch.hires.scheduler.label)]
            names += [("upscaler", hires.upscaler)]
        if batch.params.restore_faces:
            names += [("face_restorer", batch.params.face_restorer)]
        owners = dict.fromkeys(owner for key in names if (owner := self.host.owner_of(*key)))
        used += [UsedExtension(name, version) for name, version in owners]
        for name, reason in failed.items():
            used.append(
                UsedExtension(name, self.host.version_of("modifier", name), request.extensions.get(name), failed=reason)
            )
        return tuple(used)

    def _spoilt(self, model: LatentDiffusion, name: str, watcher: Watcher) -> None:
        """An extension left the model changed: it is let go, and loaded anew when it is asked for again."""
        self.store.forget(model)
        self.watch.failed(HookFailed(name, "patch", ValueError("it did not put the model's weights back")))
        watcher.on_note(f"extension {name} did not put the model's weights back; the model is loaded anew")

    def extensions(self) -> set[str]:
        """The names of those whose part in a picture can be made again."""
        owners = {owner.name for owner in self.host.owners.values()}
        return owners | {spec.name for spec in self.host.modifiers} - self.absent.keys()

    def _sources(self, params: GenerationParams, watcher: Watcher) -> Sequence[Picture] | Tiled:
        """The start pictures made ready: one for all images or one each, or the tiles of one."""
        init, size = params.init, (params.width, params.height)
        if init is None:
            return ()
        if self.inputs is None:
            raise UserError("there is no place for start pictures here", field="init.image")
        if init.tiled:
            spec, work = self.host.upscalers.get(init.tiled.upscaler), Work(cancelled=watcher.cancelled)
            image = self.inputs.open(init.images[0])
            return tiled(init, init.tiled, image, size, lambda image, factor: upscale(spec, image, factor, work))
        mask = self.inputs.open(init.mask.image, field="init.mask.image") if init.mask else None
        return [prepare(init, self.inputs.open(image), mask, *size) for image in init.images]

    def _batch(
        self, task: _Task, batch: Batch, sources: Sequence[Picture] | Tiled, wanted: Iterable[int]
    ) -> Iterator[Made]:
        """The images of a batch that are ``wanted``."""
        if task.watcher.cancelled():
            raise Cancelled
        if isinstance(sources, Tiled):
            yield self._tiled(task, batch, sources)
            return
        own = [sources[(batch.first_image + i) % len(sources)] for i in range(len(batch.seeds))] if sources else []
        init = batch.params.init
        if init and (init.denoising_strength == 0 or all(picture.is_protected for picture in own)):
            yield from (Made(i, own[i].unchanged, batch.params) for i in wanted)
        else:
            yield from self._images(task, batch, own[:1] if len(sources) == 1 else own, wanted)

    def _tiled(self, task: _Task, batch: Batch, source: Tiled) -> Made:
        """SD upscale: the one picture of a batch. Where it is cut short, so are the tiles that follow."""
        init = batch.params.init
        assert init
        if init.denoising_strength == 0:
            return Made(0, source.image, batch.params)
        parts, made = list(rounds(batch, source.pictures(init))), list[Made]()
        for i, (part, pictures) in enumerate(parts):
            task = replace(task, done=i, parts=len(parts))
            made += self._images(task, part, pictures, range(len(pictures)))
        skipped = next((tile.skipped for tile in made if tile.skipped), 0)
        return Made(0, source.joined(tile.image for tile in made), made[0].told, skipped)

    def _images(self, task: _Task, batch: Batch, pictures: Sequence[Picture], wanted: Iterable[int]) -> Iterator[Made]:
        """The same, sampled: from text, over one picture for all, or over one each."""
        model, init = task.model, batch.params.init
        start = encode(model, batch, pictures, init) if pictures and init else None
        seen = seen_beside(model, batch, pictures) if sees_picture(model) else None
        latents, told, skipped = self._sample(task, batch, start=start, seen=seen)
        if batch.hires and not skipped:
            model, latents, skipped = self._second_pass(task, batch, latents)
        for i in wanted:
            (image,) = to_images(model.decode(latents[i : i + 1]), floor=batch.profile.floor_pixels)
            image = self._with_faces(image, batch.params, task.watcher)
            if start:
                image = pictures[i % len(pictures)].finished(image, moved(latents, start, i))
            yield Made(i, image, told, skipped)

    def _with_faces(self, image: Image.Image, params: GenerationParams, watcher: Watcher) -> Image.Image:
        """``image`` with its faces restored, where that was asked for."""
        if not params.restore_faces:
            return image
        restored = self.host.face_restorer(params.face_restorer).restore(image, params.code_former_weight)
        if restored is image:
            watcher.on_note(f"{params.face_restorer} found no face in the picture")
        return restored

    def _second_pass(self, task: _Task, batch: Batch, latents: Tensor) -> tuple[LatentDiffusion, Tensor, int]:
        """Hires fix: the latents enlarged, and sampled again as a picture."""
        second, hires, again = batch.hires, batch.params.hires, batch.again
        assert second and hires and again
        larger = enlarge(task.model, batch, second, latents, self._enlarge(hires.upscaler, task.watcher))
        model = task.hooks.patched(self._fellow(task.model, second.params.checkpoint))
        task = replace(task, model=model)
        start = Start(larger, hires.denoising_strength, exact_steps=True, extra_noise=hires.extra_noise)
        run = Pass(again.schedule_steps, batch.schedule_steps, second=True, old=batch.params.use_old_scheduling)
        seen = seen_beside(model, again, ()) if sees_picture(model) else None
        latents, _, skipped = self._sample(task, again, start=start, seen=seen, run=run, done=batch.announced_steps)
        return model, latents, skipped

    def _fellow(self, model: LatentDiffusion, checkpoint: str) -> LatentDiffusion:
        """Another checkpoint for the same request; a VAE that is not ``model``'s own holds for both."""
        return replace(self.store.load(checkpoint, model.vae_name), embeddings=model.embeddings)

    def _enlarge(self, name: str, watcher: Watcher) -> Enlarge | None:
        """None for those that work on latents, and for the one that leaves the work to Lanczos."""
        if name in (*LATENT_MODES, "None"):
            return None
        spec, work = self.host.upscalers.get(name), Work(cancelled=watcher.cancelled)
        return lambda image, factor: upscale(spec, image, factor, work)

    def _sample(
        self,
        task: _Task,
        batch: Batch,
        *,
        start: Start | None = None,
        seen: Tensor | None = None,
        run: Pass | None = None,
        done: int = 0,
    ) -> tuple[Tensor, GenerationParams, int]:
        """One pass: the latents, the request as the generation text tells it, and where it was cut short the step.

        ``done``: steps that came before.
        """
        counted = run or Pass(batch.schedule_steps, batch.schedule_steps, old=batch.params.use_old_scheduling)
        refiner, model, watcher, hooks = batch.params.refiner, task.model, task.watcher, task.hooks

        def load() -> tuple[LatentDiffusion, Sequence[Part], Part]:
            assert refiner
            other = hooks.patched(self._fellow(model, refiner.checkpoint))
            return other, *self._texts_of(other, batch, counted, hooks)[:2]

        positive, negative, told = self._texts_of(model, batch, counted, hooks)
        own = done + batch.announced_steps + (batch.hires.params.steps if batch.hires else 0)
        before, steps = task.done * own + done, task.parts * own
        pictures = 1 if batch.params.init and batch.params.init.tiled else len(batch.seeds)
        skipped = 0

        def on_step(step: int, x: Tensor, sigma: float, denoised: Tensor) -> None:
            nonlocal skipped
            if watcher.cancelled():
                raise Cancelled
            part = batch.first_image + pictures * (before + step + 1) / steps
            watcher.on_progress(
                Progress(
                    first_image=batch.first_image,
                    images=task.plan.images,
                    step=before + step + 1,
                    steps=steps,
                    fraction=min(part / task.plan.images, 1.0),
                    preview=lambda: self._preview(model, denoised[0]),
                )
            )
            if watcher.skips():
                skipped = before + step + 1
                raise Enough

        refinement = Refinement(load, refiner.switch_at) if refiner else None
        latents = generate(
            model,
            batch,
            positive,
            negative,
            on_step=on_step,
            start=start,
            seen=seen,
            refinement=refinement,
            hooks=hooks,
        )
        return latents, told, skipped

    def _texts_of(
        self, model: LatentDiffusion, batch: Batch, run: Pass, hooks: Hooks
    ) -> tuple[tuple[Part, ...], Part, GenerationParams]:
        """Both prompts' conditions, and the request without paddings that changed nothing."""
        params, conditioner = batch.params, self._conditioner(model, batch, hooks.scope())
        positive, negative = conditioner.prompt(params.prompt, run), conditioner.negative(params.negative_prompt, run)
        padded = params.pad_cond_uncond or params.pad_cond_uncond_v0
        if padded:
            empty, v0 = conditioner.empty(), params.pad_cond_uncond_v0
            positive, negative, padded = pad_parts(positive, negative, empty, v0=v0)
        told = params if padded else params.changed(pad_cond_uncond=False, pad_cond_uncond_v0=False)
        return positive, negative, told

    def carried(self, recipe: Recipe) -> list[bytes]:
        """The files of the pictures that ``recipe`` was followed from, to be embedded in the result."""
        return [self.inputs.read(name) for name in recipe.inputs] if self.inputs else []

    def has(self, file: File) -> bool:
        """Whether a file of a recipe is at hand."""
        if file.role in ("image", "mask"):
            return self.inputs is not None and file.sha256 in self.inputs
        if file.role == EMBEDDING:
            return bool(self.recorded_embeddings((file,)).files)
        if file.role == VAE:
            return self.store.vae_with_sha256(file.sha256) is not None
        faces = [path for spec in self.host.face_restorers for role, path in spec.files if role == file.role]
        if faces:
            return any(self.store.sha256(path) == file.sha256 for path in faces)
        return self.store.with_sha256(file.sha256) is not None

    def recorded_embeddings(self, files: Iterable[File]) -> Listing:
        """The embeddings among a recipe's files by their content, under the names that they had."""
        wanted = [file for file in files if file.role == EMBEDDING]
        here = self.embeddings.list().files if self.embeddings and wanted else ()
        found = {self.store.sha256(embedding.path): embedding for embedding in here}
        return Listing(tuple(found[f.sha256].named_after(f.name) for f in wanted if f.sha256 in found))

    def _left_out(self, model: LatentDiffusion, batch: Batch) -> Iterator[str]:
        """What was asked for or stands ready and cannot be used: a VAE's pickle, what prompts name."""
        if batch.params.vae == AUTOMATIC and (pickle := self.store.unconverted_vae(model)):
            yield f"{pickle} was not used: it is a pickle, and python3 app.py convert {pickle} makes a safe copy of it"
        skipped = model.own_embeddings.skipped
        for name in named(batch, [(name, 1) for name in skipped], self._tokenizer):
            yield f"the embedding {name} was left out: {skipped[name]}"
        if names := unheeded(batch, [spec.name for spec in self.host.tags]):
            listed = ", ".join(names[:MOST_NAMED]) + ", …" * (len(names) > MOST_NAMED)
            yield f"these networks of the prompt were not applied, as nothing here handles their kind: {listed}"

    def _used(self, model: LatentDiffusion, batch: Batch) -> Used:
        """Everything on the disk that the pictures depend on."""
        params = batch.params
        files = [File("checkpoint", model.path.name, model.sha256)]
        told: dict[str, object] = {}
        if model.vae_path:
            files.append(File(VAE, model.vae_path.name, model.vae_sha256))
            told = {"VAE hash": model.vae_sha256[:10], "VAE": model.vae_path.name}
        embeddings = self._named(model, batch)
        files += (File(EMBEDDING, found.path.name, sha256) for found, sha256 in embeddings)
        hashes = ", ".join(f"{re.sub('[:,]', '', found.name)}: {sha256[:12]}" for found, sha256 in embeddings)
        if init := params.init:
            files += [File("image", f"{image[:12]}.png", image) for image in dict.fromkeys(init.images)]
            if init.mask:
                files.append(File("mask", f"{init.mask.image[:12]}.png", init.mask.image))
        others = {
            "refiner": params.refiner and params.refiner.checkpoint,
            "hires checkpoint": params.hires and params.hires.checkpoint,
        }
        for role, name in others.items():
            if name:
                path = self.store.find(name).path
                files.append(File(role, path.name, self.store.sha256(path)))
        if params.restore_faces:
            for role, path in self.host.face_restorer(params.face_restorer).files:
                files.append(File(role, path.name, self.store.sha256(path)))
        return Used(tuple(files), told | {"TI hashes": hashes or None})

    def _named(self, model: LatentDiffusion, batch: Batch) -> list[tuple[EmbeddingFile, str]]:
        """The embeddings that the prompts name, each with its SHA-256."""
        own = {embedding.name: embedding for embedding in model.own_embeddings.files}
        names = named(batch, [(e.name, e.count) for e in own.values()], self._tokenizer)
        return [(own[name], self.store.sha256(own[name].path)) for name in names]

    def _conditioner(self, model: LatentDiffusion, batch: Batch, patches: Hashable) -> TextConditioner:
        params, asked = batch.params, batch.params.sdxl_clip_l_skip
        return TextConditioner(
            text_encoders(model, params),
            embeddings=model.own_embeddings.files,
            emphasis=cast(Emphasis, params.emphasis),
            profile=batch.profile,
            cache=self._texts,
            scope=(model.sha256, model.device, params.clip_skip, asked, patches),
            vector=text_vector(model.config.family, params, batch.shown_size),
        )

    def _preview(self, model: LatentDiffusion, latent: Tensor) -> Image.Image:
        key = model.sha256 + model.vae_sha256
        if key not in self._previews:
            self._previews[key] = fit(model.decode)
        return Image.fromarray(self._previews[key](latent))

    def _result(
        self,
        model: LatentDiffusion,
        batch: Batch,
        made: Made,
        used: Used,
        request: GenerationParams,
        part: tuple[UsedExtension, ...],
    ) -> Result:
        i, image = made.number, made.image
        extra: dict[str, object] = {"Conditional mask weight": mask_weight(batch.params)} if sees_picture(model) else {}
        text = infotext.write(
            made.told,
            seed=batch.seeds[i],
            subseed=batch.subseeds[i],
            sampler=batch.sampler,
            scheduler=batch.scheduler.label,
            model_name=model.name,
            model_hash=model.short_hash,
            version=self.program,
            extra={**extra, **used.told},
            modifiers=self.host.modifiers,
        )
        recipe = Recipe(
            request=request,
            index=batch.first_image + i,
            seed=batch.seeds[i],
            subseed=batch.subseeds[i],
            files=used.files,
            program=self.program,
            torch=torch.__version__,
            device=model.device.kind,
            dtype=str(model.device.dtype).removeprefix("torch."),
            kernels=batch.params.kernels,
            pixels=pixel_hash(image),
            processor=model.device.processor(),
            skipped=made.skipped,
            extensions=part,
        )
        return Result(image, text, recipe)
