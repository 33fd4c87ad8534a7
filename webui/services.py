"""The services that the front end receives from the composition root; it builds none itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from modules.accounts import LOCAL, Accounts
from modules.checkpoints.catalogue import Card
from modules.checkpoints.choices import Choices
from modules.checkpoints.embeddings import Suited
from modules.checkpoints.networks.library import Library
from modules.checkpoints.networks.metadata import family_named
from modules.checkpoints.vaes import AUTOMATIC, OWN
from modules.errors import UserError
from modules.extension.host import Host
from modules.extension.loader import Loader
from modules.extension.option_values import FILE
from modules.extension.script import axis_names
from modules.gallery.inputs import InputStore
from modules.jobs.protocol import ExtrasSpec, GenerateSpec, JobSpec, Json, ScriptSpec
from modules.jobs.submit import Queue as Submissions
from modules.jobs.submit import Submitter, submit
from modules.params.generation import GenerationParams
from modules.params.settings import FORM, SettingsFile
from modules.pipeline.plan import hires_upscalers
from webui.policy import NOTHING_MORE, ApiPolicy

Tables = Mapping[str, Callable[[], Sequence[str]]]


class JobView(Protocol):
    """The fields of a `modules.jobs` job that the page reads."""

    @property
    def id(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def spec(self) -> Json: ...
    @property
    def state(self) -> str: ...
    @property
    def created(self) -> float: ...
    @property
    def progress(self) -> Json | None: ...
    @property
    def error(self) -> Json | None: ...
    @property
    def output(self) -> Json | None: ...


class HistoryImageView(Protocol):
    """An image as the database lists it."""

    @property
    def number(self) -> int: ...
    @property
    def job(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def created(self) -> float:
        """Seconds since the epoch."""
        ...


class WorkerView(Protocol):
    @property
    def state(self) -> str:
        """starting, loading, ready, busy or dead."""
        ...

    @property
    def detail(self) -> str: ...


class Queue(Submissions, Protocol):
    """The part of `modules.jobs.JobQueue` that the page uses. Another owner's jobs are `NotFound`; owner None means
    everybody's.
    """

    def cancel(self, owner: str | None, job_id: str, *, keep: bool = ...) -> object: ...
    def skip(self, owner: str, job_id: str) -> object: ...
    def finish(self, owner: str, job_id: str) -> object: ...
    def get(self, job_id: str, owner: str) -> JobView: ...
    def list(self, owner: str | None, limit: int = ..., states: Iterable[str] | None = ...) -> Sequence[JobView]: ...
    def position(self, job_id: str) -> int: ...
    def heard(self, job_id: str, after: int = 0) -> Sequence[Json]: ...
    def follow(self, owner: str, job_id: str, after: int = 0, *, end_only: bool = ...) -> AsyncIterator[Json]: ...
    def status(self) -> WorkerView: ...
    def restart_worker(self) -> None: ...


class ScriptsView(Protocol):
    """The part of `modules.jobs.runners.script.Scripts` that the page uses."""

    def prepare(self, name: str, options: Mapping[str, Any], params: GenerationParams) -> int:
        """The number of requests of a script; raises `UserError` for invalid options."""
        ...


class History(Protocol):
    """The part of `modules.jobs.history.History` that the page uses. Another owner's images are `NotFound`."""

    def page(
        self, owner: str, *, before: int = ..., after: int = ..., limit: int = ..., words: Sequence[str] = ...
    ) -> Sequence[HistoryImageView]: ...
    def count(self, owner: str) -> int: ...
    def owns(self, owner: str, path: Path) -> bool: ...
    def find(self, owner: str, number: int) -> HistoryImageView: ...
    def file(self, owner: str, number: int) -> Path: ...
    def thumbnail(self, owner: str, number: int) -> Path: ...
    def delete(self, owner: str, number: int) -> None: ...


class CardKeeper(Protocol):
    """The part of `modules.checkpoints.catalogue.CheckpointCatalogue` that changes files beside checkpoints."""

    def choose(self, checkpoint: str, chosen: Choices) -> None: ...
    def illustrate(self, checkpoint: str, image: Image, infotext: str = "") -> None: ...
    def convert(self, checkpoint: str) -> Path: ...


@dataclass(frozen=True)
class Services:
    """Everything a tab may need. ``queue`` is started and closed by its owner, not by the front end."""

    queue: Queue
    host: Host
    data_dir: Path
    """The data folder, in which a private temporary folder may be made."""
    outputs_dir: Path
    """The only folder whose files the page serves."""
    inputs: InputStore
    """The store of init images."""
    scripts: ScriptsView
    """Runs scripts; asked before a job is made of one."""
    history: History
    """The images that were made."""
    settings: SettingsFile
    """The owner's settings."""
    version: str
    checkpoints: Callable[[], Sequence[str]]
    """The names of the models that can be chosen now, the default first."""
    native_size: Callable[[str], int]
    """Side in pixels that a checkpoint was trained for; ``""``: the default model's."""
    vaes: Callable[[], Sequence[str]] = tuple
    """The file names of the VAEs that can be chosen now."""
    vae_sha256: Callable[[str], str] = lambda name: ""
    """SHA-256 of a VAE; empty until the worker has read the file."""
    embeddings: Callable[[str], Suited] = lambda checkpoint: Suited()
    """The textual inversions that a checkpoint can use, and why not the others."""
    card: Callable[[str], Card] = Card
    """The model card of a checkpoint."""
    check_files: Callable[[GenerationParams], None] = lambda params: None
    """Raises `UserError` for a request whose model files are not here or cannot be loaded."""
    networks: Library | None = None
    """LoRAs, hypernetworks, embeddings and checkpoints as cards; None: there are none here."""
    text_encoders: Callable[[], Sequence[str]] = tuple
    """The file names of the text encoders that can be chosen now."""
    keeper: CardKeeper | None = None
    """Changes model cards; None: they cannot be changed here."""
    extensions: Loader | None = None
    """The extensions with their states; None: there are none here."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names besides this machine's own under which the server is reached."""
    accounts: Accounts | None = None
    """Who may log in; None, or an empty one: everybody is the person at this machine, unless ``login`` is set."""
    login: bool = False
    """Nobody gets in without an account, even as long as there is none: the server can be reached from elsewhere."""

    api: ApiPolicy = NOTHING_MORE
    """What programs may do that use the HTTP APIs."""
    styles_file: Path | None = None
    """The styles, where they do not lie in ``data_dir``."""
    subpath: str = ""
    """The path below which a reverse proxy serves this server."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies that are believed about the visitor's address, scheme and host name."""

    @property
    def styles_path(self) -> Path:
        """The file of the styles."""
        return self.styles_file or self.data_dir / "styles.csv"

    def network_family(self, checkpoint: str) -> str:
        """The family of networks that fit a checkpoint; empty: none is known."""
        return family_named(self.card(checkpoint).family)

    def begin(self, checkpoint: str) -> dict[str, Any]:
        """What a form begins with for a checkpoint: the owner's settings, and over them what the model's card says."""
        settings = self.settings.current()
        found: dict[str, Any] = {name: getattr(settings, setting) for setting, name in FORM.items()}
        found |= {"vae": AUTOMATIC, "clip_skip": 1}
        tables = self.tables()
        known = {"sampler": tables["samplers"](), "scheduler": tables["schedulers"](), "vae": tables["vaes"]()}
        said = self.card(checkpoint).preset.values()
        found |= {name: value for name, value in said.items() if name not in known or value in known[name]}
        return found

    def is_admin(self, owner: str) -> bool:
        """Whether a visitor, as named by `Page.owner`, may change what affects everybody."""
        if owner == LOCAL:
            return True  # the guard lets nobody in under this name once there are accounts
        account = self.accounts.find(owner) if self.accounts else None
        return account is not None and account.is_admin

    def submit(self, owner: str, spec: JobSpec, job_id: str = "") -> JobView:
        """Check a request and queue it as it was checked; raises `UserError` for what cannot be done. A ``job_id`` that
        the owner has already gives that job, and nothing is queued."""
        return submit(self.queue, owner, self.prepared(spec), job_id)

    def prepared(self, spec: JobSpec) -> JobSpec:
        """``spec`` as it would be queued."""
        limits = self.api.limits
        if isinstance(spec, (GenerateSpec, ScriptSpec)):
            limits.check(spec.params, self.inputs.size)
            self._check_at_work(spec.params.extensions)
        if isinstance(spec, ExtrasSpec) and limits.max_pixels:
            for image in spec.inputs:
                limits.check_extras(spec.params, self.inputs.size(image.key, field="inputs"))
        return Submitter(self.queue, self.host, self.inputs, self.scripts, self.check_files).prepared(spec)

    def _check_at_work(self, asked: Iterable[str]) -> None:
        """Tell a modifier that is known and not at work from one that nobody knows."""
        absent = self.extensions.absent() if self.extensions else {}
        if name := next((name for name in asked if name in absent and name not in self.host.modifiers), None):
            raise UserError(
                f"{name} takes no part now: {absent[name]}",
                hint="leave it out, or look at the Extensions tab",
                field=f"extensions.{name}",
            )

    def tables(self) -> Tables:
        """The tables of choices that options refer to."""
        return tables_of(self.host, self.checkpoints, self.vaes, self.text_encoders)


def tables_of(
    host: Host,
    checkpoints: Callable[[], Sequence[str]],
    vaes: Callable[[], Sequence[str]] = tuple,
    text_encoders: Callable[[], Sequence[str]] = tuple,
) -> Tables:
    """The tables of choices that options refer to. An empty choice means that the second pass uses the first pass's
    value.
    """
    return _Tables(
        host,
        {
            "samplers": host.samplers.names,
            "schedulers": host.schedulers.names,
            "upscalers": host.upscalers.names,
            "face_restorers": lambda: (*host.face_restorers.names(), *host.absent_face_restorers),
            "checkpoints": checkpoints,
            "vaes": lambda: (AUTOMATIC, OWN, *vaes()),
            "text_encoders": lambda: (AUTOMATIC, *text_encoders()),
            "hires_upscalers": hires_upscalers(host).names,
            "hires_samplers": lambda: ("", *host.samplers.names()),
            "hires_schedulers": lambda: ("", *host.schedulers.names()),
            "hires_checkpoints": lambda: ("", *checkpoints()),
            "axes": lambda: axis_names(host.axes()),
        },
    )


class _Tables(dict[str, Callable[[], Sequence[str]]]):
    """With a table of the files of each models folder that an option names, as "file:detectors"."""

    def __init__(self, host: Host, tables: Mapping[str, Callable[[], Sequence[str]]]):
        super().__init__(tables)
        self._host = host

    def __missing__(self, name: str) -> Callable[[], Sequence[str]]:
        if not name.startswith(FILE):
            raise KeyError(name)
        return lambda: ("", *self._host.model_files(name.removeprefix(FILE)))
