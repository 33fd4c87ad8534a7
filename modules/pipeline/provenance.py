"""Provenance: the files and facts of a batch for recipe and infotext, named by whoever uses a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from modules.checkpoints.model import LatentDiffusion
from modules.extension.host import Host
from modules.extension.modifier import Report
from modules.metadata import infotext
from modules.metadata.recipe import File, InnerGeneration, Recipe, UsedExtension, pixel_hash
from modules.params.generation import GenerationParams
from modules.pipeline.hooks import Hooks, called_by
from modules.pipeline.plan import Batch
from modules.pipeline.results import BatchImage, Result

CHECKPOINT, VAE, EMBEDDING, IMAGE, MASK = "checkpoint", "vae", "embedding", "image", "mask"
"""Roles of files in a recipe."""


@dataclass(frozen=True)
class Provenance:
    """Files for the recipe, and further infotext keys. Instances can be added."""

    files: tuple[File, ...] = ()
    infotext: Mapping[str, object] = field(default_factory=dict)

    def __add__(self, other: Provenance) -> Provenance:
        return Provenance(tuple(dict.fromkeys((*self.files, *other.files))), {**self.infotext, **other.infotext})


NamesFiles = Callable[[LatentDiffusion, Batch], Provenance]
"""Names the files that one user of files reads for a batch on a model, before the batch is generated."""


def provenance_of(users: Iterable[NamesFiles], model: LatentDiffusion, batch: Batch) -> Provenance:
    """The sum of what all ``users`` name, in their order."""
    return sum((names(model, batch) for names in users), Provenance())


def reported(reports: Iterable[Report]) -> Provenance:
    """What modifiers tell of a batch."""
    files = [File(used.role, used.name, used.sha256) for report in reports for used in report.files]
    facts = {key: value for report in reports for key, value in report.told.items()}
    return Provenance(tuple(files), facts)


def model_files(model: LatentDiffusion, batch: Batch) -> Provenance:
    """The checkpoint, and the VAE if it is a separate file."""
    checkpoint = Provenance((File(CHECKPOINT, model.path.name, model.sha256),))
    if model.vae_path is None:
        return checkpoint
    name, sha256 = model.vae_path.name, model.vae_sha256
    return checkpoint + Provenance((File(VAE, name, sha256),), {"VAE hash": sha256[:10], "VAE": name})


def input_files(model: LatentDiffusion, batch: Batch) -> Provenance:
    """The init images of a batch, and its mask."""
    init = batch.params.init
    if init is None:
        return Provenance()
    files = [File(IMAGE, f"{image[:12]}.png", image) for image in dict.fromkeys(init.images)]
    if init.mask:
        files.append(File(MASK, f"{init.mask.image[:12]}.png", init.mask.image))
    return Provenance(tuple(files))


def used_extensions(
    host: Host, request: GenerationParams, batch: Batch, passes: Sequence[Hooks], absent: Mapping[str, str]
) -> tuple[UsedExtension, ...]:
    """The extensions that take part in a batch, in order, and those that should have.

    ``passes``: the hooks of each pass; what a modifier is made with in the first one counts. ``absent``: why those
    that are not at work are not.
    """
    active = {one.spec.name: one for hooks in reversed(passes) for one in hooks.active}
    used = [
        UsedExtension(one.spec.name, one.version, dict(one.options), dict(batch.changed.get(one.spec.name, {})))
        for one in (active[spec.name] for spec in host.modifiers_in_order() if spec.name in active)
        if not one.spec.by_tag
    ]
    used += [UsedExtension(name, version) for name, version in _owners(host, batch)]
    tags = [tag for each in batch.passes for tag in each.prompts.networks]
    wanted = {*request.extensions, *(modifier.name for modifier, *_ in called_by(tags, host))}
    for name, reason in absent.items():
        if name in wanted:
            version = host.version_of("modifier", name)
            used.append(UsedExtension(name, version, request.extensions.get(name), failed=reason))
    return tuple(used)


def _owners(host: Host, batch: Batch) -> Iterable[tuple[str, str]]:
    """Name and version of the extensions whose samplers, schedulers, upscalers and face restorers are used."""
    names = [(kind, name) for each in batch.passes for kind, name in _tables(each)]
    if batch.hires and batch.params.hires:
        names.append(("upscaler", batch.params.hires.upscaler))
    if batch.params.restore_faces:
        names.append(("face_restorer", batch.params.face_restorer))
    return dict.fromkeys(owner for key in names if (owner := host.owner_of(*key)))


def _tables(batch: Batch) -> tuple[tuple[str, str], ...]:
    return ("sampler", batch.sampler.name), ("scheduler", batch.scheduler.label)


@dataclass(frozen=True)
class Recorder:
    """Writes the infotext and recipe of each image in one batch."""

    host: Host
    program: str
    """Its name and version."""
    request: GenerationParams
    """The request as recorded: before extensions revised it."""
    model: LatentDiffusion
    batch: Batch
    provenance: Provenance
    extensions: tuple[UsedExtension, ...]

    def result(
        self,
        generated: BatchImage,
        facts: Mapping[str, object] | None = None,
        inner: Sequence[InnerGeneration] = (),
        files: Sequence[File] = (),
    ) -> Result:
        """``facts``: further keys of the infotext. ``inner``: the generations within this one, and their ``files``."""
        told = {"Inner generations": "; ".join(map(str, inner)) or None, **(facts or {})}
        recipe = replace(
            self._recipe(generated),
            inner=tuple(inner),
            files=tuple(dict.fromkeys((*self.provenance.files, *files))),
        )
        return Result(generated.image, self._infotext(generated, told), recipe)

    def _infotext(self, generated: BatchImage, facts: Mapping[str, object]) -> str:
        batch = self.batch
        return infotext.write(
            generated.infotext_params,
            seed=batch.seeds[generated.number],
            subseed=batch.subseeds[generated.number],
            sampler=batch.sampler,
            scheduler=batch.scheduler.label,
            model_name=self.model.name,
            model_hash=self.model.short_hash,
            version=self.program,
            extra={**self.provenance.infotext, **facts},
            modifiers=self.host.modifiers,
        )

    def _recipe(self, generated: BatchImage) -> Recipe:
        batch, device = self.batch, self.model.device
        return Recipe(
            request=self.request,
            index=batch.first_image + generated.number,
            seed=batch.seeds[generated.number],
            subseed=batch.subseeds[generated.number],
            files=self.provenance.files,
            program=self.program,
            torch=torch.__version__,
            device=device.kind,
            dtype=str(device.dtype).removeprefix("torch."),
            kernels=batch.params.kernels,
            pixels=pixel_hash(generated.image),
            processor=device.processor(),
            skipped=generated.skipped,
            extensions=self.extensions,
            memory=self.model.memory.way.to_json(),
        )
