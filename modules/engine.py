"""The engine: params in, images out, without disk or user interface. It composes the parts in `pipeline/`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from modules.checkpoints.embeddings import EmbeddingFolder, Listing
from modules.checkpoints.fingerprint import PatchChecks
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.networks.shelf import ROLES
from modules.checkpoints.store import ModelStore
from modules.checkpoints.way import Memory, SamplingRanOut, Way
from modules.errors import Cancelled, DamagedCheckpoint, NoNumbers, OutOfMemory, UserError, out_of_memory
from modules.extension.contexts import JobEnd
from modules.extension.host import Host
from modules.extension.modifier import UsedFile
from modules.extension.option_values import bound, used_files
from modules.gallery.inputs import InputStore
from modules.imaging.latent_preview import Previews
from modules.metadata.recipe import File
from modules.params.generation import GenerationParams, ModifierOptions
from modules.params.options import Option
from modules.pipeline.finishing import Finisher, InnerInputs, InnerRuns
from modules.pipeline.hooks import Border, HookFailed, LeftModified, NoWatch, RequestHooks, Watch
from modules.pipeline.inventory import Inventory
from modules.pipeline.limits import NO_LIMITS, Limits
from modules.pipeline.notes import notes_on
from modules.pipeline.plan import Batch, check_extensions, check_sides, make_plan
from modules.pipeline.prompt_encoder import PromptEncoder
from modules.pipeline.prompts import PromptParser
from modules.pipeline.provenance import (
    Provenance,
    Recorder,
    input_files,
    model_files,
    provenance_of,
    reported,
    used_extensions,
)
from modules.pipeline.results import BatchImage
from modules.pipeline.results import Progress as Progress
from modules.pipeline.results import Result as Result
from modules.pipeline.results import RunCallbacks as RunCallbacks
from modules.pipeline.run import (
    CONFIGURATION,
    TEXT_ENCODER,
    TINY_ROLES,
    BatchRunner,
    InitImages,
    Overflow,
    Task,
    image_conditioning_facts,
)
from modules.pipeline.sampling_options import said_beside

log = logging.getLogger(__name__)

NOWHERE = InputStore(Path("no-inputs"))
"""For requests that are made where no pictures are kept."""


@dataclass
class _Run:
    """One request on its way."""

    callbacks: RunCallbacks
    note_once: Callable[[str], None]
    absent: dict[str, str]
    """Modifiers that take no part, with the reason; who fails is added."""
    embeddings: Listing
    recorded: Sequence[File]
    """In a replay, the files of the recipe."""
    runner: BatchRunner
    memory: Memory
    """The way it is made in, as memory allows."""
    made: int = 0
    modifiers: RequestHooks | None = None
    """Those of the last attempt."""
    closely: bool = False
    """Whether every answer of an extension is looked at, because the last attempt ended in what is no number."""


class Engine:
    """Runs requests on the models of a `ModelStore`, with the samplers of a `Host`. One at a time."""

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
        limits: Limits = NO_LIMITS,
    ):
        """Compose the engine. ``inputs``: the store of init images. ``absent``: modifiers that requests may name and
        that are unavailable, with the reason; requests run without them. ``watch`` is told when hooks run. ``limits``
        hold for every request, those that extensions change and those within an image too.
        """
        self.store = store
        self.host = host
        self.inputs = inputs
        self.embeddings = embeddings
        self.absent = absent or {}
        self.watch = watch or NoWatch()
        self.limits = limits
        self.patch_checks = PatchChecks()
        self.program = f"Reprise {version}"
        self.encoder = PromptEncoder(store)
        self.runner = BatchRunner(store, host, self.encoder, Previews(), inputs)
        others = {**dict.fromkeys(ROLES, self._has_network), **dict.fromkeys(TINY_ROLES, self._has_tiny)}
        others |= {TEXT_ENCODER: self._has_text_encoder, CONFIGURATION: self._has_configuration}
        self.inventory = Inventory(store, host, inputs, embeddings, self.absent, others)
        self.file_users = [
            image_conditioning_facts,
            model_files,
            self.encoder.provenance,
            input_files,
            self.runner.provenance,
            self._option_files,
        ]
        """Functions that name the files a batch uses; extend it with every new user of files."""

    def _has_network(self, file: File) -> bool:
        return bool(self.host.shelf.recorded(file.role, [(file.name, file.sha256)]).files)

    def _has_text_encoder(self, file: File) -> bool:
        return any(self.store.sha256(path) == file.sha256 for path in self.store.text_encoders.names().values())

    def _has_configuration(self, file: File) -> bool:
        return any(self.store.sha256(path) == file.sha256 for path in self.store.configurations())

    def _has_tiny(self, file: File) -> bool:
        return any(self.store.sha256(path) == file.sha256 for path in self.store.approximations.files())

    def warm_up(self) -> LatentDiffusion:
        """Load the default model and run one step and a preview with it, so that the first request is fast."""
        model = self.store.load()
        side = self.limits.side(model.config.native_size)
        once = GenerationParams(steps=1, width=side, height=side, seed=0, subseed=0)
        self.run(once, lambda _: None, RunCallbacks(on_progress=lambda progress: progress.preview()))
        return model

    @torch.inference_mode()
    def run(
        self,
        params: GenerationParams,
        on_result: Callable[[Result], None],
        callbacks: RunCallbacks = RunCallbacks(),
        *,
        made: int = 0,
        embeddings: Listing | None = None,
        recorded: Sequence[File] = (),
        without: Mapping[str, str] | None = None,
        way: Way = Way(),
    ) -> None:
        """Make the images of ``params``, handing each to ``on_result`` as soon as it is finished.

        The first ``made`` images exist already and are left out. Prompts may name ``embeddings``, or else what lies in
        the folder; in a replay they mean the networks among the ``recorded`` files. Raises `UserError` before anything
        is computed when the request cannot be done, and `Cancelled` at the next step once ``callbacks.cancelled()`` is
        true; images handed over before stay made. Where ``callbacks.skips()`` grows, the batch at hand is made from
        what there is, and so it is once ``callbacks.interrupted()`` is true, which ends the run behind it. What
        extensions in ``without`` would do is left out, and so is from then on what one does that fails; notes and
        recipes say so. Where memory runs out the batch at hand is made in another way, beginning with ``way``; notes
        and recipes say that too.
        """
        if params.kernels == "auto":
            params = params.changed(kernels=self.store.device.kernels)
        absent = {**self.absent, **self.watch.crashed(), **(without or {})}
        for name in params.extensions:
            if name in absent:
                callbacks.on_note(f"made without extension {name}: {absent[name]}")
        if embeddings is None:
            embeddings = self.embeddings.list() if self.embeddings else Listing()
        if params.tiled_vae:
            way = replace(way, tiled_encode=1, tiled_decode=1)
        memory = Memory(way, relieve=self.store.relieve, can_stream=self.store.residence.moves)
        run, before = _Run(callbacks, callbacks.note_once(), absent, embeddings, recorded, self.runner, memory), made
        try:
            made = self._run(params, on_result, run, made)
        except BaseException as error:
            end = JobEnd(params, run.made - before, "failed", str(error))
            self._end(run, replace(end, state="cancelled", error="") if isinstance(error, Cancelled) else end)
            raise
        self._end(run, JobEnd(params, made - before, "done"))

    def _end(self, run: _Run, end: JobEnd) -> None:
        """Tell the modifiers of a request that it is over."""

        def failed(failure: HookFailed) -> None:
            log.warning("%s", failure, exc_info=failure.error)
            self.watch.failed(failure)
            run.note_once(str(failure))

        if run.modifiers:
            run.modifiers.ended(end, failed)

    def _run(self, params: GenerationParams, on_result: Callable[[Result], None], run: _Run, made: int) -> int:
        """Make the images behind the first ``made``, again and again without who fails, and count all."""
        run.made = made
        while True:
            self.store.residence.streaming, ran_out = run.memory.way.streamed, None
            try:
                # Closed at once, whatever happens: a model must not stay patched while a traceback holds this.
                with contextlib.closing(self._results(params, run, run.made)) as results:
                    for result in results:
                        run.made += 1
                        on_result(result)
                        if leak := self.watch.made():
                            run.note_once(leak)
                return run.made
            except HookFailed as failure:
                log.warning("%s", failure, exc_info=failure.error)
                self.watch.failed(failure)
                run.absent[failure.name] = str(failure)
                run.callbacks.on_note(f"{failure}; the job goes on without it")
            except NoNumbers as error:
                suspects = run.modifiers.suspects if run.modifiers else []
                if run.closely or not suspects:
                    raise _beside(error, [*suspects, *self._owners(params)]) from error
                log.warning("%s; once more, to see whether it is an extension's doing", error)
                run.closely = True
            except SamplingRanOut as error:
                log.warning("%s", error)
                ran_out = OutOfMemory(error.message, hint=error.hint)
            except Overflow as overflow:
                widened = [self.store.widen(model) for model in overflow.models]
                if not any(widened):
                    tried = "choose another sampler or a lower CFG scale"
                    raise overflow.models[-1].no_numbers(tried) from overflow
                name = overflow.models[-1].name
                run.note_once(f"{name} overflows in float16; the job goes on in a wider number format")
            except (MemoryError, RuntimeError) as error:
                if short := out_of_memory(error):
                    log.warning("%s", error)
                    raise short from error
                raise
            if ran_out:  # behind the except clause, whose traceback held what was computed so far
                if not (note := run.memory.climb(params.batch_size)):
                    raise ran_out
                run.note_once(note)
                self.store.relieve()

    def _owners(self, params: GenerationParams) -> list[str]:
        """The extensions whose sampler and schedule a request asks for."""
        asked = ("sampler", params.sampler), ("scheduler", params.scheduler)
        return [owner[0] for kind, name in asked if (owner := self.host.owner_of(kind, name))]

    def _results(self, params: GenerationParams, run: _Run, made: int) -> Generator[Result, None, None]:
        """The images behind the first ``made``, as those extensions make them that are not absent."""
        absent, callbacks = run.absent, run.callbacks
        able = ModifierOptions({name: options for name, options in params.extensions.items() if name not in absent})
        parser = PromptParser()
        chosen = check_extensions(able, self.host)
        modifiers = RequestHooks(
            self.host,
            chosen,
            self.watch,
            absent=absent,
            parser=parser,
            checks=self.patch_checks,
            bind=partial(self._bound, run.runner.inputs),
            closely=run.closely,
        )
        run.modifiers = modifiers
        plan = make_plan(params.changed(extensions=able), self.host, modifiers.reviser(params.prompt), parser)
        for batch in plan.batches:
            self.limits.check(batch.params, (run.runner.inputs or NOWHERE).size)
        for note in plan.notes:
            run.note_once(note)
        request = plan.params.changed(extensions=ModifierOptions({**params.extensions, **plan.params.extensions}))
        ready: dict[object, InitImages] = {}
        for batch in modifiers.apart(plan.batches):
            if batch.first_image + len(batch.seeds) <= made:
                continue
            rest = range(max(made - batch.first_image, 0), len(batch.seeds))
            passes = modifiers.passes(batch)
            left_modified = self._reloading(callbacks)
            waiting: list[BatchImage] = []
            with passes[0].patching(left_modified):
                start = batch.params.init, batch.params.width, batch.params.height  # extensions may change it
                if start not in ready:
                    ready = {start: run.runner.init_images(batch.params, callbacks.cancelled)}
                asked = batch.params
                loaded = self.store.load(asked.checkpoint, asked.vae, asked.text_encoder, asked.fp8_storage)
                beside = said_beside(loaded.config, batch.params)
                batch = replace(batch, params=batch.params.changed(**beside))
                config = loaded.config.predicting(batch.params.prediction)
                model = replace(loaded, embeddings=run.embeddings, config=config, memory=run.memory)
                check_sides(batch, model.name, config.latent)
                model = run.runner.approximated(model, batch.params)
                reports = modifiers.prepare(batch, model, [UsedFile(f.role, f.name, f.sha256) for f in run.recorded])
                model = passes[0].patched(model)
                for note in notes_on(batch, model, self.store, self.host, self.encoder):
                    run.note_once(note)
                provenance = provenance_of(self.file_users, model, batch) + reported(reports)
                extensions = used_extensions(self.host, request, batch, passes, absent)
                said = request.changed(**beside)
                recorder = Recorder(self.host, self.program, said, model, batch, provenance, extensions)
                finisher = Finisher(batch, passes, recorder, self._inner(modifiers.border, run, plan.images, batch))
                task = Task(model, plan.images, callbacks.from_now(), passes[0], passes[-1], left_modified)
                for image in run.runner.images(task, batch, ready[start], rest):
                    for note in (note for hooks in passes for note in hooks.notes()):
                        run.note_once(note)
                    if finisher.waits:
                        waiting.append(image)
                    else:
                        yield finisher.result(image)
            yield from finisher.results(waiting)

    def _bound(self, inputs: InputStore | None, option: Option, value: str) -> object:
        """The value of an option that stands for a picture or a file."""

        def read(sha256: str) -> Image.Image:
            if inputs is None:
                raise UserError("there is no place for stored pictures here", field=option.name)
            return inputs.open(sha256, field=option.name)

        return bound(option, value, read, self.host.models)

    def _option_files(self, model: LatentDiffusion, batch: Batch) -> Provenance:
        """The pictures and files that options of modifiers name."""
        used = used_files(self.host.modifiers, batch.params.extensions, self.host.models, self.store.sha256)
        return Provenance(tuple(File(file.role, file.name, file.sha256) for file in used))

    def _inner(self, border: Border, run: _Run, images: int, batch: Batch) -> Callable[[], InnerRuns]:
        """The generations within an image: each a request of its own, without the patches of this one."""
        done = (batch.first_image + len(batch.seeds)) / images

        def told(progress: Progress) -> None:
            run.callbacks.on_progress(replace(progress, first_image=batch.first_image, images=images, fraction=done))

        def make(params: GenerationParams, inputs: InnerInputs) -> Result:
            runner = BatchRunner(self.store, self.host, self.encoder, Previews(), inputs)
            within = replace(run, callbacks=replace(run.callbacks.from_now(), on_progress=told), runner=runner)
            with contextlib.closing(self._results(params, within, 0)) as results:
                return next(results)

        return lambda: InnerRuns(make, run.runner.inputs, border, run.note_once)

    def _reloading(self, callbacks: RunCallbacks) -> LeftModified:
        """A callback for what an extension left modified: such a model is dropped, and reloaded at its next use."""

        def left_modified(model: LatentDiffusion | None, name: str, what: str) -> None:
            self.watch.failed(HookFailed(name, "patch", ValueError(f"it did not put {what} back")))
            if model:
                self.store.forget(model)
            mended = "the model is loaded anew" if model else "the program did"
            callbacks.on_note(f"extension {name} did not put {what} back; {mended}")

        return left_modified


def _beside(error: NoNumbers, suspects: Sequence[str]) -> NoNumbers:
    """``error``, which nobody can be shown to have made, with the extensions that took part."""
    if not suspects or isinstance(error, DamagedCheckpoint):
        return error
    names = " and ".join(suspects)
    hint = " or ".join(filter(None, (f"make it without {names}", error.hint)))
    return NoNumbers(f"{error.message} while extension {names} took part", hint=hint)
