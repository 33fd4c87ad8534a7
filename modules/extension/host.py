"""The host: tables of samplers, upscalers, tabs and more, filled by extensions and by the built-in parts alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from modules.checkpoints.networks.cards import FilePage
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.errors import UserError
from modules.extension import named
from modules.extension.checks import check_asset, check_options, check_spec
from modules.extension.manifest import NAME, Refused
from modules.extension.modifier import ModifierSpec, ReadKey, in_order, keys_of
from modules.extension.option_values import FILE, SUFFIXES, model_files
from modules.extension.page import PLACES, CardsSpec, ExtrasStepSpec, SlotSpec
from modules.extension.script import Axis, ScriptSpec, axes_of_params
from modules.params.generation import GenerationParams, Value
from modules.params.options import Option, options_of
from modules.prompt.tree import NetworkTag
from modules.registry import Registry
from modules.restoration.faces import FaceRestorer, FaceRestorerSpec
from modules.restoration.upscale import UpscalerSpec

T = TypeVar("T")


class TabPage(Protocol):
    """The page context given to ``TabSpec.build`` of an extension."""

    def form(self, cls: type, /) -> Any:
        """Create a form for a frozen dataclass of ``option(...)`` fields. ``form.add(name)`` places one control
        here, ``form.options`` lists the names.
        """

    def params(self, **changes: Any) -> GenerationParams:
        """A request at the default model's native size, with ``changes``."""

    def generate(self, form: Any, request: Callable[[Any], GenerationParams], *, label: str = "Generate") -> None:
        """Add a button and a result area: a click submits what ``request`` returns for the form's values, as a job
        of whoever clicked. It may raise `UserError`.
        """

    def load(self, fill: Callable[..., Any], outputs: Sequence[Any], inputs: Sequence[Any] = ()) -> None:
        """Whenever the page is opened, put what ``fill(*inputs)`` returns into ``outputs``: the value itself for one,
        a sequence of values for several.
        """


@dataclass(frozen=True)
class TabSpec:
    """A tab of the page. ``build`` receives a `TabPage` and creates the components."""

    name: str
    label: str
    build: Callable[[Any], None]


@dataclass(frozen=True)
class RouteSpec:
    """An HTTP route below ``/api/ext/NAME/``, behind the same guard as all others."""

    path: str
    """ "colours": small letters, digits, - and _."""
    answer: Callable[..., Any]
    """``(values, owner) -> answer``, JSON both: the query's values, for POST the body's object; and whose request it
    is. A `UserError` becomes its status and sentence. The answer may be a `FileAnswer` or a `StreamAnswer` as well."""
    method: Literal["GET", "POST"] = "GET"
    caller: bool = False
    """``answer`` takes a `modules.extension.page.RouteCall` instead, which can submit jobs for whoever asks."""
    rooted: bool = False
    """It is answered at ``/NAME/PATH`` too, where clients of A1111's extension of that name ask."""


@dataclass(frozen=True)
class TagSpec:
    """A kind of prompt tag, ``<name:...>``, that activates a modifier."""

    name: str
    modifier: str
    options: Callable[[Sequence[NetworkTag]], Mapping[str, Value]]
    """The modifier's options, given all tags of that name in the prompt, in their order."""


@dataclass(frozen=True)
class Owner:
    """The extension that fills a host, and its permissions."""

    name: str
    version: str
    folder: Path = Path()
    permissions: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The extension's part of the settings file."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Command line values, by the flag names of the manifest."""
    api: int = 2
    """The version of the interface that it was written for."""
    data_dir: Path = Path()
    """Where it may write: ``DATA/extensions/NAME``."""


RELABEL = "give it another label"
_PATH = re.compile(r"[a-z0-9_-]{1,60}")


class Host:
    """The tables of everything that can be registered. Filled once at startup, then only read."""

    def __init__(self, owner: Owner | None = None, reserved: Collection[str] = (), models: Path | None = None) -> None:
        """``owner``: the extension that fills this host; None: the program itself, which may add everything.
        ``reserved``: labels that no modifier may have, because infotext uses them. ``models``: the models folder.
        """
        self.models = models
        self.owner = owner
        self.reserved = reserved
        self.samplers: Registry[SamplerSpec] = Registry("sampler")
        self.schedulers: Registry[SchedulerSpec] = Registry("schedule type", field="scheduler")
        self.upscalers: Registry[UpscalerSpec] = Registry("upscaler")
        self.face_restorers: Registry[FaceRestorerSpec] = Registry("face restorer")
        self.absent_face_restorers: dict[str, str] = {}
        """Those that would be there if their files were: by name, what is missing."""
        self.shelf = NetworkShelf()
        """The LoRAs and hypernetworks that prompts may name."""
        self.tabs: Registry[TabSpec] = Registry("tab")
        self.scripts: Registry[ScriptSpec] = Registry("script")
        self.modifiers: Registry[ModifierSpec] = Registry("modifier", field="extensions")
        self.tags: Registry[TagSpec] = Registry("tag")
        self.settings: Registry[type] = Registry("group of settings")
        self.routes: Registry[RouteSpec] = Registry("route")
        self.assets: Registry[Path] = Registry("asset")
        self.slots: Registry[SlotSpec] = Registry("slot")
        self.cards: Registry[CardsSpec] = Registry("page of cards")
        self.extras_steps: Registry[ExtrasStepSpec] = Registry("step of Extras", field="steps")
        self.owners: dict[tuple[str, str], Owner] = {}
        """The extension that added each entry, by table and name; built-in entries are not in it."""

    def tables(self) -> dict[str, Registry[Any]]:
        """The tables by the permission names of a manifest (`modules.extension.manifest.PERMISSIONS`)."""
        return {
            "sampler": self.samplers,
            "scheduler": self.schedulers,
            "upscaler": self.upscalers,
            "face_restorer": self.face_restorers,
            "tab": self.tabs,
            "script": self.scripts,
            "modifier": self.modifiers,
            "tag": self.tags,
            "setting": self.settings,
            "route": self.routes,
            "asset": self.assets,
            "slot": self.slots,
            "cards": self.cards,
            "extras_step": self.extras_steps,
        }

    # -- what register() calls

    def add_sampler(self, spec: SamplerSpec) -> None:
        check_spec("sampler", spec.name, spec)
        self._add("sampler", spec.name, named.sampler(spec, self.owner.name) if self.owner else spec, spec.aliases)

    def add_scheduler(self, spec: SchedulerSpec) -> None:
        check_spec("scheduler", spec.label, spec)
        own = named.scheduler(spec, self.owner.name) if self.owner else spec
        self._add("scheduler", spec.label, own, (spec.name, *spec.aliases))

    def add_upscaler(self, spec: UpscalerSpec) -> None:
        check_spec("upscaler", spec.name, spec)
        self._add("upscaler", spec.name, named.upscaler(spec, self.owner.name) if self.owner else spec, spec.aliases)

    def add_face_restorer(self, name: str, restorer: FaceRestorer, files: tuple[tuple[str, Path], ...] = ()) -> None:
        """Register a face restorer. ``files``: the files it reads, each with its role in a recipe."""
        spec = FaceRestorerSpec(name, restorer, files)
        check_spec("face_restorer", name, spec)
        self._add("face_restorer", name, named.face_restorer(spec, self.owner.name) if self.owner else spec)

    def face_restorer(self, name: str, *, field: str = "face_restorer") -> FaceRestorerSpec:
        """The face restorer called ``name``; raises a `UserError` that says which file is missing."""
        if name in self.face_restorers:
            return self.face_restorers.get(name)
        if name in self.absent_face_restorers:
            missing = self.absent_face_restorers[name]
            raise UserError(f"{name} is not installed: {missing}", hint="put it there and start again", field=field)
        error = self.face_restorers.unknown(name)
        raise type(error)(error.message, hint=error.hint, field=field)

    def add_tab(self, spec: TabSpec) -> None:
        self._add("tab", spec.name, spec)

    def add_modifier(self, spec: ModifierSpec) -> None:
        check_spec("modifier", spec.name, spec)
        check_options(spec.options, f"the modifier {spec.name!r}")
        spec = spec.flat()
        if not NAME.fullmatch(spec.name):
            raise Refused(f"the modifier name {spec.name!r} is not of small letters, digits and _", hint="rename it")
        keys = keys_of(spec)
        if len(keys[0]) < 2 or _same(keys[0], self.reserved):
            raise Refused(f"the generation text cannot say {spec.label!r} of a modifier", hint="give it another label")
        if taken := [key for key in keys if _same(key, self.reserved)]:
            raise Refused(f"its modifier {spec.label!r} would write the program's own key {taken[0]!r}", hint=RELABEL)
        if twice := [key for i, key in enumerate(keys) if _same(key, keys[:i])]:
            raise Refused(f"its modifier {spec.label!r} would write the key {twice[0]!r} twice", hint=RELABEL)
        self._not_taken(spec, self.modifiers)
        self._add("modifier", spec.name, spec)

    def reads_key(self, key: str, modifier: str, option: str = "", read: Callable[[str], Value] = str) -> None:
        """Read a key that another program writes, as "ADetailer model", into an option of a modifier that was added
        before. Pasting a text with it switches the modifier on.
        """
        if modifier not in self.modifiers or self.modifiers.canonical(modifier) != modifier:
            raise Refused(f"it reads the key {key!r} into {modifier!r}, which it did not add", hint="add it first")
        spec = self.modifiers.get(modifier)
        if option and option not in options_of(cast(Hashable, spec.options)):
            raise Refused(f"its modifier {modifier!r} has no option {option!r} for the key {key!r}")
        if _same(key, self.reserved) or _same(key, (one for other in self.modifiers for one in _read_by(other))):
            raise Refused(f"the key {key!r} is read already", hint="leave it out")
        changed = replace(spec, reads={**spec.reads, key: ReadKey(option, read)})
        self.modifiers.replace(modifier, changed)

    def _not_taken(self, spec: ModifierSpec, others: Iterable[ModifierSpec]) -> None:
        """Labels and keys are one namespace each: two that are written alike could not be told apart."""
        for other in others:
            whose = self.owners.get(("modifier", other.name))
            by = f"the modifier {other.name!r}" + (f" of extension {whose.name}" if whose else "")
            if other.name != spec.name and _same(spec.label, (other.label,)):
                raise Refused(f"its modifier has the label {spec.label!r}, as {by}", hint=RELABEL)
            if taken := [key for key in (*keys_of(spec), *spec.reads) if _same(key, _read_by(other))]:
                raise Refused(f"its modifier {spec.label!r} has the key {taken[0]!r}, as {by}", hint=RELABEL)

    def add_tag(self, spec: TagSpec) -> None:
        self._add("tag", spec.name, spec)

    def add_settings(self, cls: type[T]) -> T:
        """Declare the extension's settings, a frozen dataclass of ``option(...)`` fields, and return the current
        values. They are read when the extension is loaded, so a change takes effect at the next start.
        """
        owner = self.owner or Owner("", "")
        check_options(cls, "its settings", kinds=False)
        self._add("setting", owner.name, cls)
        good = {}
        for name, declared in options_of(cast(Hashable, cls)).items():
            try:
                good[name] = declared.cast(owner.settings[name]) if name in owner.settings else declared.default
            except UserError:
                good[name] = declared.default
        return cls(**good)

    def add_route(self, spec: RouteSpec) -> None:
        if not _PATH.fullmatch(spec.path):
            raise Refused(f"the route {spec.path!r} is not of small letters, digits, - and _", hint="rename it")
        self._add("route", f"{self.owner.name if self.owner else ''}/{spec.path} {spec.method}", spec)

    def add_asset(self, file: str) -> None:
        """Register a script or style sheet in the extension's folder, to be loaded by the page; or a folder in it,
        whose files are served below ``/api/ext/NAME/FOLDER/``.
        """
        folder = self.owner.folder if self.owner else Path()
        path = (folder / file).resolve()
        inside = path.is_relative_to(folder.resolve()) and path != folder.resolve()
        is_folder = path.is_dir() and _PATH.fullmatch(file) is not None
        if not inside or not (is_folder or (path.suffix in (".js", ".css") and path.is_file())):
            raise Refused(f"the asset {file!r} is no .js or .css file of its folder", hint="check the name")
        if not is_folder:
            check_asset(path, file)
        self._add("asset", f"{self.owner.name if self.owner else ''}/{file}", path)

    def slot(self, place: str, build: Callable[[Any], None]) -> None:
        """Create components at a place of the page; ``build`` receives a `modules.extension.page.SlotPage`."""
        if place not in PLACES:
            raise Refused(f"the page has no place {place!r}", hint=f"there are {', '.join(PLACES)}")
        self._add("slot", f"{self.owner.name if self.owner else ''}/{place}", SlotSpec(place, build))

    def add_cards(self, spec: CardsSpec) -> None:
        check_spec("cards", spec.name, spec)
        if (spec.cards is None) is (not spec.folder):
            raise Refused(f"its page of cards {spec.name!r} needs cards or a folder", hint="give one of the two")
        if spec.folder and not all(map(_PATH.fullmatch, (spec.name, *spec.folder.lower().split("/")))):
            raise Refused(f"its page of cards {spec.name!r} has no plain name or folder", hint="rename them")
        modifier, _, option = spec.option.partition(".")
        if spec.option and self._kind_of(modifier, option) != f"{FILE}{spec.folder}":
            raise Refused(
                f"its page of cards {spec.name!r} chooses files for {spec.option!r}, which takes none of {spec.folder}",
                hint=f'add the modifier before, with an option of the kind "{FILE}{spec.folder}"',
            )
        self._add("cards", spec.name, spec)

    def _kind_of(self, modifier: str, option: str) -> str:
        if modifier not in self.modifiers:
            return ""
        found = options_of(cast(Hashable, self.modifiers.get(modifier).options)).get(option)
        return found.kind if found else ""

    def add_extras_step(self, spec: ExtrasStepSpec) -> None:
        if not NAME.fullmatch(spec.name):
            raise Refused(f"the step's name {spec.name!r} is not of small letters, digits and _", hint="rename it")
        check_spec("extras_step", spec.name, spec)
        check_options(spec.options, f"the step {spec.name!r}", kinds=False)
        self._add("extras_step", spec.name, spec)

    @property
    def data_dir(self) -> Path:
        """A folder of the extension's own to write to, made when it is asked for."""
        folder = self.owner.data_dir if self.owner else Path()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def model_files(self, folder: str) -> dict[str, Path]:
        """The files of models below ``models/FOLDER``, by the names under which options list them."""
        return model_files(self.models, folder)

    def flag(self, name: str) -> str:
        """The command line value of a flag of the manifest."""
        if self.owner is None or name not in self.owner.flags:
            raise Refused(f"there is no flag {name!r} in its manifest", hint="declare it under [[flags]]")
        return self.owner.flags[name]

    def _add(self, kind: str, name: str, value: Any, aliases: Iterable[str] = ()) -> None:
        if self.owner is not None:
            if kind not in self.owner.permissions:
                raise Refused(
                    f"it adds a {kind}, which its manifest does not name",
                    hint=f'write "{kind}" into permissions in extension.toml',
                )
            self.owners[kind, name] = self.owner
        check_spec(kind, name, value)
        if name in self.tables()[kind]:
            raise Refused(f"it adds the {kind} {name!r} twice", hint="rename one of them")
        self.tables()[kind].add(name, value, aliases)

    # -- what the program does with it

    def take(self, part: Host) -> None:
        """Merge everything that an extension added, or nothing: raises `Refused` if a name is taken."""
        tables, parts = self.tables(), part.tables()
        for kind, table in parts.items():
            for name in table.names():
                if name in tables[kind]:
                    owner = self.owners.get((kind, tables[kind].canonical(name)))
                    whose = f"extension {owner.name}" if owner else "the program"
                    raise Refused(f"it adds the {kind} {name!r}, which {whose} has already", hint="rename it")
        for spec in part.modifiers:
            self._not_taken(spec, self.modifiers)
        for kind, table in parts.items():
            tables[kind].take(table)
        self.owners |= part.owners

    def drop(self, extension: str) -> None:
        """Remove everything that an extension added."""
        tables = self.tables()
        for kind, name in [key for key, owner in self.owners.items() if owner.name == extension]:
            tables[kind].remove(name)
            del self.owners[kind, name]

    def owner_of(self, kind: str, name: str) -> tuple[str, str] | None:
        """Name and version of the extension that added an entry; None for built-in ones."""
        owner = self.owners.get((kind, name))
        return (owner.name, owner.version) if owner else None

    def version_of(self, kind: str, name: str) -> str:
        """Version of the extension that added an entry; empty for built-in ones."""
        owner = self.owners.get((kind, name))
        return owner.version if owner else ""

    def axes(self) -> dict[str, Axis]:
        """Every declared option as a grid axis, by label: those of a request, then those of modifiers, as "Do twice:
        amount".
        """
        found = axes_of_params()
        for spec in self.modifiers_in_order():
            for name, option in options_of(cast(Hashable, spec.options)).items():
                label = f"{spec.label}: {option.label[:1].lower()}{option.label[1:]}"
                found[label] = Axis(label, option, _setter(spec, name, option))
        return found

    def file_pages(self) -> list[FilePage]:
        """The pages of cards that show files, for the panel of networks."""
        found = [spec for spec in self.cards if spec.folder]
        models = self.models or Path()
        return [
            FilePage(f"cards_{s.name}", s.label, s.folder, models / s.folder, SUFFIXES, s.insert, s.option)
            for s in found
        ]

    def modifiers_in_order(self) -> list[ModifierSpec]:
        return in_order(self.modifiers)

    def add_script(self, spec: ScriptSpec) -> None:
        check_options(spec.options, f"the script {spec.name!r}")
        self._add("script", spec.name, spec.flat(), (spec.label,))


def _same(text: str, others: Iterable[str]) -> bool:
    return text.casefold() in {other.casefold() for other in others}


def _read_by(spec: ModifierSpec) -> list[str]:
    return [*keys_of(spec), *spec.reads]


def _setter(spec: ModifierSpec, name: str, option: Option) -> Callable[[GenerationParams, Any], GenerationParams]:
    def changed(params: GenerationParams, value: Any) -> GenerationParams:
        """The request with this option set and the modifier active; its other options are kept."""
        options = {**params.extensions.get(spec.name, {}), name: option.cast(value)}
        return params.changed(extensions=params.extensions.having(spec.name, spec.chosen(options)))

    return changed
