"""``<lora:...>``, ``<lyco:...>`` and ``<hypernet:...>`` of a prompt at work: a modifier like those of extensions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from modules.checkpoints.embeddings import Listing
from modules.checkpoints.networks.arguments import HYPERNET_TAG, LORA_TAGS, BadTag, Use, strength_at, uses
from modules.checkpoints.networks.blocks import factors
from modules.checkpoints.networks.listing import NetworkFile, NetworkListing, Unusable, hashes_text
from modules.checkpoints.networks.metadata import SD1, SD2, SDXL
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA, NetworkShelf
from modules.diffusion.types import Denoiser
from modules.errors import CheckpointError, UserError
from modules.extension.contexts import SamplingPass
from modules.extension.host import TagSpec
from modules.extension.modifier import Modifier, ModifierSpec, Report, UsedFile
from modules.params.profile import EXACT

if TYPE_CHECKING:
    from torch import Tensor

    from modules.checkpoints.model import LatentDiffusion
    from modules.checkpoints.networks.hypernetworks import Hypernetwork
    from modules.checkpoints.networks.memory import NetworkMemory
    from modules.checkpoints.networks.merging import Applied, Patch

NAME = "networks"
MOST_NOTES = 20
FAMILIES = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}
"""Families of models, as the files of networks are told apart."""
WORDS = {LORA: "LoRA", HYPERNETWORK: "hypernetwork"}


@dataclass(frozen=True)
class Options:
    """The prompt says all."""


def spec(shelf: NetworkShelf) -> ModifierSpec:
    """The modifier that the tags call. What it has read and patched stays between requests."""

    @cache
    def memory() -> NetworkMemory:
        from modules.checkpoints.networks.memory import NetworkMemory

        return NetworkMemory()

    help = "LoRA files and hypernetworks that the prompt names"
    make = lambda _: PromptNetworks(shelf, memory)  # noqa: E731
    return ModifierSpec(NAME, "Extra networks", Options, make, order=0, help=help, by_tag=True)


TAGS = tuple(TagSpec(name, NAME, lambda tags: {}) for name in (*LORA_TAGS, HYPERNET_TAG))


@dataclass(frozen=True)
class _Found:
    """A network that a tag asks for, and its file."""

    use: Use
    file: NetworkFile

    @property
    def role(self) -> str:
        return HYPERNETWORK if self.use.kind == HYPERNET_TAG else LORA

    @property
    def key(self) -> tuple[Hashable, ...]:
        return self.file.path, self.file.mtime_ns


@dataclass
class _Patched:
    """A model with networks on it."""

    model: LatentDiffusion
    patch: Patch
    hooks: ExitStack = field(default_factory=ExitStack)
    hooked: tuple[Hashable, ...] = ()

    def unhook(self) -> None:
        self.hooks.close()


class PromptNetworks(Modifier):
    """The networks of one request's prompts."""

    def __init__(self, shelf: NetworkShelf, memory: Callable[[], NetworkMemory]):
        self._shelf = shelf
        self._memory = memory
        self._passes: dict[int, tuple[_Found, ...]] = {}
        self._run: SamplingPass | None = None
        self._at = 0, 0
        """The network's call and the sampler's step that are at hand."""
        self._patched: list[_Patched] = []
        self._refused: dict[tuple[int, Hashable], bool] = {}
        """Whether a model, by its UNet's id, cannot use a network."""
        self._notes: dict[str, None] = {}
        self._used: dict[tuple[str, str], _Found] = {}

    # -- what the prompts ask for

    def prepare(self, passes: Sequence[SamplingPass], model: LatentDiffusion, recorded: Sequence[UsedFile]) -> None:
        self._notes, self._used, self._refused = {}, {}, {}
        listings: dict[str, NetworkListing] = {}
        for role in (LORA, HYPERNETWORK):
            own = [(file.name, file.sha256) for file in recorded if file.role == role]
            listings[role] = self._shelf.recorded(role, own) if recorded else self._shelf.read(role)
        self._passes = {run.number: tuple(self._found(run, listings)) for run in passes}
        self._run, self._at = passes[0], (0, 0)
        for found in self._all():
            if not self._refuses(model, found):
                self._used.setdefault((found.role, found.use.name), found)

    def _all(self) -> list[_Found]:
        return [found for networks in self._passes.values() for found in networks]

    def _own(self, model: LatentDiffusion, role: str) -> list[_Found]:
        """Those of the pass that is at hand which a model can use."""
        networks = self._passes.get(self._run.number, ()) if self._run else ()
        return [found for found in networks if found.role == role and not self._refuses(model, found)]

    def _found(self, run: SamplingPass, listings: Mapping[str, NetworkListing]) -> Iterator[_Found]:
        """Those of a pass that are here, in the prompt's order."""
        wanted = list[Use]()
        for kinds in (LORA_TAGS, (HYPERNET_TAG,)):
            try:
                wanted += uses(run.prompt, run.clock, kinds)
            except BadTag as error:
                if run.clock.profile == EXACT:
                    raise UserError(str(error), hint="write a number there", field="prompt") from error
                self._note(f"{error}; so no {kinds[0]} of this prompt was applied, as in A1111")
        for use in wanted:
            if use.passed_over:
                self._note(use.passed_over)
            role = HYPERNETWORK if use.kind == HYPERNET_TAG else LORA
            file = listings[role].find(use.name)
            if file is None:
                self._note(self._missing(role, use.name, listings[role]))
            elif file.described.problem:
                self._note(f"the {WORDS[role]} {use.name} was left out: {file.described.problem}")
            else:
                yield _Found(use, file)

    def _missing(self, role: str, name: str, listing: NetworkListing) -> str:
        if len(self._notes) >= MOST_NOTES:  # which looking around costs too much for
            return f"there is no {WORDS[role]} named {name[:60]}, so it was left out"
        if dead := self._shelf.dead_link(role, name):
            return f"the {WORDS[role]} {name[:60]} was left out: {dead}"
        near = listing.near(name)
        meant = f"; did you mean {near}?" if near else ""
        return f"there is no {WORDS[role]} named {name[:60]}, so it was left out{meant}"

    def _note(self, sentence: str) -> None:
        if len(self._notes) < MOST_NOTES:
            self._notes[sentence] = None

    # -- on a model

    @contextmanager
    def patch(self, model: LatentDiffusion) -> Iterator[None]:
        with self._memory().patching(model) as patch, ExitStack() as undo:
            one = _Patched(model, patch)
            undo.callback(setattr, model, "embeddings", model.embeddings)
            model.embeddings = self._with_bundled(model)
            self._patched.append(one)
            undo.callback(self._patched.remove, one)
            undo.callback(one.unhook)
            self._apply(one)
            yield

    def _refuses(self, model: LatentDiffusion, found: _Found) -> bool:
        """Whether a network can do nothing for a model; the reason is noted."""
        key = id(model.unet), found.key
        if key not in self._refused:
            try:
                self._look_at(model, found)
                self._refused[key] = False
            except (_Refused, CheckpointError) as error:
                reason = error.message if isinstance(error, CheckpointError) else str(error)
                self._refused[key] = True
                if isinstance(error, Unusable):
                    self._shelf.remember(found.role, found.file, error.message)
                self._note(f"the {WORDS[found.role]} {found.use.name} was left out: {reason}")
        return self._refused[key]

    def _look_at(self, model: LatentDiffusion, found: _Found) -> None:
        """Read a network; raises where it can do nothing for the model."""
        theirs, family = found.file.described.family, FAMILIES.get(model.config.family.name, "")
        if theirs and family and theirs != family:
            raise _Refused(f"it is for {theirs}, and {model.name} is {family}")
        if found.role == HYPERNETWORK:
            self._look_at_widths(model, self._memory().hypernetwork(found.file))
            return
        network = self._memory().network(found.file)
        touched, layers = self._memory().patch(model).touched(network), len(network.changes) + len(network.unknown)
        if not touched and not network.embeddings:
            raise _Refused(f"none of its layers is one of {model.name}")
        if touched < layers:
            self._note(f"{layers - touched} of the {layers} layers of {found.use.name} have no place in {model.name}")

    def _look_at_widths(self, model: LatentDiffusion, network: Hypernetwork) -> None:
        from modules.checkpoints.networks.hypernetworks import widths

        if not widths(model.unet) & network.nets.keys():
            own = ", ".join(map(str, sorted(network.nets))) or "none"
            raise _Refused(f"none of its widths ({own}) is one of {model.name}")

    def _with_bundled(self, model: LatentDiffusion) -> Listing:
        """The embeddings that prompts may name, with those that came along in networks; files of their own go first."""
        usable = [found for found in self._all() if found.role == LORA and not self._refuses(model, found)]
        more = {one.name.casefold(): one for found in usable for one in self._memory().network(found.file).embeddings}
        own = model.embeddings
        taken = {file.name.casefold() for file in own.files}
        return replace(own, files=(*own.files, *(file for name, file in more.items() if name not in taken)))

    def _apply(self, one: _Patched) -> None:
        """The strengths that hold now."""
        loras = self._own(one.model, LORA)
        changed = one.patch.put([self._applied(found) for found in loras])
        changed |= self._hook(one, self._own(one.model, HYPERNETWORK))
        if changed:
            one.model.unet.changes += 1
        names = {found.key: found.use.name for found in loras}
        for key, layers in one.patch.misfits.items():
            if key in names:
                self._note(f"{len(layers)} of the layers of {names[key]} have another shape in {one.model.name}")

    def _applied(self, found: _Found) -> Applied:
        from modules.checkpoints.networks.merging import Applied

        assert self._run is not None
        unet = strength_at(found.use.unet, self._run.clock, *self._at)
        use, network = found.use, self._memory().network(found.file)
        return Applied(found.key, network, use.te, unet, use.dyn, factors(use.blocks))

    def _hook(self, one: _Patched, found: Sequence[_Found]) -> bool:
        """Hypernetworks of the pass before the UNet's attentions; whether they are others than before."""
        from modules.checkpoints.networks.hypernetworks import hooked

        wanted = tuple((hyper.key, hyper.use.unet) for hyper in found)
        if wanted == one.hooked:
            return False
        one.unhook()
        used = [(self._memory().hypernetwork(hyper.file), float(hyper.use.unet)) for hyper in found]  # type: ignore[arg-type]
        one.hooks.enter_context(hooked(one.model.unet, used))
        one.hooked = wanted
        return True

    # -- over the passes

    def begin(self, run: SamplingPass) -> None:
        self._run, self._at = run, (0, 0)
        for one in self._patched:
            self._apply(one)

    def denoiser(self, denoiser: Denoiser) -> Denoiser:
        """Strengths that change do so before the network is called."""
        assert self._run is not None
        if all(isinstance(found.use.unet, float) for found in self._passes.get(self._run.number, ())):
            return denoiser
        calls = 0

        def denoise(x: Tensor, sigma: float, step: int) -> Tensor:
            nonlocal calls
            self._at = calls, step
            for one in self._patched:
                self._apply(one)
            calls += 1
            return denoiser(x, sigma, step)

        return denoise

    def state(self) -> Hashable:
        """Text encoders answer by the networks on them."""
        own = self._passes.get(self._run.number, ()) if self._run else ()
        loras = (found for found in own if found.role == LORA)
        return tuple((found.key, found.use.te, found.use.dyn, found.use.blocks) for found in loras)

    # -- what is told

    def report(self) -> Report:
        loras = [found for found in self._used.values() if found.role == LORA]
        hashes = hashes_text((found.use.name, self._shelf.network_hash(found.file)) for found in loras)
        files = {
            UsedFile(found.role, f"{found.file.stem}{found.file.path.suffix}", self._shelf.sha256(found.file)): None
            for found in self._used.values()
        }
        return Report(tuple(self._notes), tuple(files), {"Lora hashes": hashes or None})


class _Refused(ValueError):
    """Why a network cannot be used on a model."""
