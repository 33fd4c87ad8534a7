"""The engine: params in, images out, without disk or user interface. It composes the parts in `pipeline/`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

import torch

from modules.checkpoints.embeddings import EmbeddingFolder, Listing
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.networks.shelf import ROLES
from modules.checkpoints.store import ModelStore
from modules.errors import out_of_memory
from modules.extension.host import Host
from modules.extension.modifier import UsedFile
from modules.gallery.inputs import InputStore
from modules.imaging.latent_preview import Previews
from modules.metadata.recipe import File
from modules.params.generation import GenerationParams, ModifierOptions
from modules.pipeline.hooks import HookFailed, NoWatch, RequestHooks, Watch
from modules.pipeline.inventory import Inventory
from modules.pipeline.notes import notes_on
from modules.pipeline.plan import check_extensions, make_plan
from modules.pipeline.prompt_encoder import PromptEncoder
from modules.pipeline.prompts import PromptParser
from modules.pipeline.provenance import Recorder, input_files, model_files, provenance_of, reported, used_extensions
from modules.pipeline.results import Progress as Progress
from modules.pipeline.results import Result as Result
from modules.pipeline.results import RunCallbacks as RunCallbacks
from modules.pipeline.run import BatchRunner, InitImages, Task, image_conditioning_facts

log = logging.getLogger(__name__)


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
    ):
        """Compose the engine. ``inputs``: the store of init images. ``absent``: modifiers that requests may name and
        that are unavailable, with the reason; requests run without them. ``watch`` is told when hooks run.
        """
        self.store = store
        self.host = host
        self.inputs = inputs
        self.embeddings = embeddings
        self.absent = absent or {}
        self.watch = watch or NoWatch()
        self.program = f"Reprise {version}"
        self.encoder = PromptEncoder(store)
        self.runner = BatchRunner(store, host, self.encoder, Previews(), inputs)
        networks = dict.fromkeys(ROLES, self._has_network)
        self.inventory = Inventory(store, host, inputs, embeddings, self.absent, networks)
        self.file_users = [
            image_conditioning_facts,
            model_files,
            self.encoder.provenance,
            input_files,
            self.runner.provenance,
        ]
        """Functions that name the files a batch uses; extend it with every new user of files."""

    def _has_network(self, file: File) -> bool:
        return bool(self.host.shelf.recorded(file.role, [(file.name, file.sha256)]).files)

    def warm_up(self) -> LatentDiffusion:
        """Load the default model and run one step and a preview with it, so that the first request is fast."""
        model = self.store.load()
        side = model.config.native_size
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
    ) -> None:
        """Make the images of ``params``, handing each to ``on_result`` as soon as it is finished.

        The first ``made`` images exist already and are left out. Prompts may name ``embeddings``, or else what lies in
        the folder; in a replay they mean the networks among the ``recorded`` files. Raises `UserError` before anything
        is computed when the request cannot be done, and `Cancelled` at the next step once ``callbacks.cancelled()`` is
        true; images handed over before stay made. Where ``callbacks.skips()`` grows, the batch at hand is made from
        what there is. What extensions in ``without`` would do is left out, and so is from then on what one does that
        fails; notes and recipes say so.
        """
        if params.kernels == "auto":
            params = params.changed(kernels=self.store.device.kernels)
        absent = {**self.absent, **self.watch.crashed(), **(without or {})}
        for name in params.extensions:
            if name in absent:
                callbacks.on_note(f"made without extension {name}: {absent[name]}")
        note_once = callbacks.note_once()
        while True:
            try:
                # Closed at once, whatever happens: a model must not stay patched while a traceback holds this.
                with contextlib.closing(
                    self._results(params, callbacks, note_once, made, absent, embeddings, recorded)
                ) as results:
                    for result in results:
                        made += 1
                        on_result(result)
                return
            except HookFailed as failure:
                log.warning("%s", failure, exc_info=failure.error)
                self.watch.failed(failure)
                absent[failure.name] = str(failure)
                callbacks.on_note(f"{failure}; the job goes on without it")
            except (MemoryError, RuntimeError) as error:
                if short := out_of_memory(error):
                    log.warning("%s", error)
                    raise short from error
                raise

    def _results(
        self,
        params: GenerationParams,
        callbacks: RunCallbacks,
        note_once: Callable[[str], None],
        made: int,
        absent: Mapping[str, str],
        embeddings: Listing | None,
        recorded: Sequence[File],
    ) -> Generator[Result, None, None]:
        """The images behind the first ``made``, as those extensions make them that are not ``absent``."""
        able = ModifierOptions({name: options for name, options in params.extensions.items() if name not in absent})
        parser = PromptParser()
        modifiers = RequestHooks(self.host, check_extensions(able, self.host), self.watch, absent=absent, parser=parser)
        plan = make_plan(params.changed(extensions=able), self.host, modifiers.reviser(params.prompt), parser)
        for note in plan.notes:
            note_once(note)
        if embeddings is None:
            embeddings = self.embeddings.list() if self.embeddings else Listing()
        request = plan.params.changed(extensions=ModifierOptions({**params.extensions, **plan.params.extensions}))
        ready: dict[object, InitImages] = {}
        for batch in plan.batches:
            if batch.first_image + len(batch.seeds) <= made:
                continue
            rest = range(max(made - batch.first_image, 0), len(batch.seeds))
            passes = modifiers.passes(batch)
            left_modified = self._reloading(callbacks)
            with passes[0].patching(left_modified):
                start = batch.params.init, batch.params.width, batch.params.height  # extensions may change it
                if start not in ready:
                    ready = {start: self.runner.init_images(batch.params, callbacks.cancelled)}
                loaded = self.store.load(batch.params.checkpoint, batch.params.vae)
                config = loaded.config.predicting(batch.params.prediction)
                model = replace(loaded, embeddings=embeddings, config=config)
                reports = modifiers.prepare(batch, model, [UsedFile(f.role, f.name, f.sha256) for f in recorded])
                model = passes[0].patched(model)
                for note in notes_on(batch, model, self.store, self.host, self.encoder):
                    note_once(note)
                provenance = provenance_of(self.file_users, model, batch) + reported(reports)
                extensions = used_extensions(self.host, request, batch, passes, absent)
                recorder = Recorder(self.host, self.program, request, model, batch, provenance, extensions)
                task = Task(model, plan.images, callbacks.from_now(), passes[0], passes[-1], left_modified)
                for image in self.runner.images(task, batch, ready[start], rest):
                    for note in (note for hooks in passes for note in hooks.notes()):
                        note_once(note)
                    yield recorder.result(replace(image, image=image.hooks.finish(image.image)))

    def _reloading(self, callbacks: RunCallbacks) -> Callable[[LatentDiffusion, str], None]:
        """A callback for a model that an extension left modified: drops it, so that it is reloaded at its next use."""

        def left_modified(model: LatentDiffusion, name: str) -> None:
            self.store.forget(model)
            self.watch.failed(HookFailed(name, "patch", ValueError("it did not put the model's weights back")))
            callbacks.on_note(f"extension {name} did not put the model's weights back; the model is loaded anew")

        return left_modified
