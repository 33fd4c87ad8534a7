"""Reprise: a web UI for Stable Diffusion with reproducible images. This file is the entry point and the composition
root.

This file is the one place where objects are built and handed to each other. What it imports at the top is the standard
library and what needs no more than that: the rest is imported once `bootstrap` has seen to the environment.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 -- said before an import fails; this file itself parses from 3.7 on
    sys.exit("error: Reprise needs Python 3.11 or newer, and this is {}.{}".format(*sys.version_info))

import argparse
import getpass
import ipaddress
import json
import logging
import os
import shlex
import socket
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modules import bootstrap, machine
from modules.cli import a1111_flags as flags
from modules.cli import parser as commandline
from modules.errors import Cancelled, NotFound, OutputError, RepriseError, UserError
from modules.extension.manifest import flags_in
from modules.params.generation import TO, ExtrasParams, GenerationParams, wrapped
from modules.params.options import flat_of, from_flat, options_of

if TYPE_CHECKING:
    from modules.checkpoints.catalogue import CheckpointCatalogue
    from modules.checkpoints.places import ModelFolders
    from modules.devices import Device
    from modules.engine import Engine, Progress, Result
    from modules.extension.host import Host
    from modules.extension.loader import Loader
    from modules.gallery.inputs import InputStore
    from modules.jobs.queue import JobQueue
    from modules.jobs.runners.script import Scripts
    from modules.jobs.worker import Runner
    from modules.params.settings import SettingsFile
    from modules.pipeline.hooks import Watch
    from modules.pipeline.limits import Limits
    from webui.policy import ApiPolicy
    from webui.server import Services

ROOT = Path(__file__).resolve().parent
VERSION = "0.1.0"
DEFAULT_MODEL = "reprise-mini"
SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
"""Suffixes of the image formats that we write."""
TEST_FILES = ("requirements.txt", "tests/requirements.txt")


# ---------------------------------------------------------------------------------------------------- the objects


def build_host(args: argparse.Namespace) -> Host:
    """Create the host: the tables of samplers, schedulers and upscalers, with the extensions' additions."""
    return build_loader(args, "command").host


def build_loader(args: argparse.Namespace, process: Literal["server", "worker", "command"]) -> Loader:
    """Create the extension loader and fill a host with built-in parts and extensions; the server's host has tabs
    too.
    """
    from modules import builtin
    from modules.checkpoints.networks.shelf import NetworkShelf
    from modules.extension.host import Host
    from modules.extension.loader import Loader
    from modules.metadata import infotext
    from modules.restoration import faces, upscale

    def device() -> Device:
        from modules import devices

        return devices.choose(args.device, "float32", args.device_id)

    places = model_places(args)
    host = Host(reserved=infotext.RESERVED, models=places.root)
    shelf = NetworkShelf(places.root, args.data_dir, extra=places.loras, hypernetworks=places.hypernetworks)
    builtin.register(host, shelf)
    for upscaler in upscale.file_upscalers(places.root, upscale.Networks(device), places.upscalers):
        host.add_upscaler(upscaler)
    networks = faces.FaceNetworks(device)
    restorers, host.absent_face_restorers = faces.file_restorers(places.root, networks, places.restorers)
    for restorer in restorers:
        host.add_face_restorer(restorer.name, restorer.restore, restorer.files)
    if process == "server" and not args.api_only:
        from webui import tabs as builtin_tabs

        builtin_tabs.register(host)
    name = args.worker_name if process == "worker" else process
    flags = commandline.extension_flags(args)
    folders = () if args.no_extensions else extension_folders(args)
    loader = Loader(folders, args.data_dir, ROOT, process=process, name=name, flags=flags)
    loader.load_all(host)
    return loader


def extension_folders(args: argparse.Namespace) -> tuple[Path, ...]:
    """The folders of extensions: the shipped ones, then the owner's, which may take their names."""
    return tuple(dict.fromkeys((ROOT / "extensions", args.extensions_dir)))


def model_places(args: argparse.Namespace) -> ModelFolders:
    """Where models lie, as the command line has it."""
    from modules.checkpoints.places import model_folders

    given = {kind: getattr(args, commandline.dest_of(flag)) or () for flag, (kind, _) in commandline.FOLDERS.items()}
    file = Path(args.ckpt).expanduser().resolve() if args.ckpt else None
    if file and file.is_file():
        given["checkpoints"] = (*given["checkpoints"], file)  # where it lies in one of the folders it is listed there
    return model_folders(args.models_dir, installations=given.pop("installations"), **given)


def default_model(args: argparse.Namespace) -> str:
    """The checkpoint of those who choose none, by its name."""
    if not args.ckpt:
        return DEFAULT_MODEL
    from modules.checkpoints.files import list_models

    file = Path(args.ckpt).expanduser().resolve()
    models = list_models(model_places(args).checkpoints)
    return next((model.name for model in models if model.path == file or model.path.resolve() == file), file.stem)


def limits_of(args: argparse.Namespace) -> Limits:
    """The largest request that is made here."""
    from modules.pipeline.limits import Limits

    return Limits(round(args.max_megapixels * 1_000_000), args.max_steps)


def build_engine(args: argparse.Namespace, loader: Loader | None = None, watch: Watch | None = None) -> Engine:
    """Create the engine on the chosen device. Imports torch."""
    from modules import devices
    from modules.checkpoints import memory
    from modules.checkpoints.embeddings import EmbeddingFolder
    from modules.checkpoints.files import Hashes
    from modules.checkpoints.store import ModelStore
    from modules.checkpoints.text_encoders import TextEncoders
    from modules.checkpoints.vaes import VaeFolders
    from modules.engine import Engine
    from modules.gallery.inputs import InputStore

    if args.deterministic:
        devices.make_deterministic()
    device = devices.choose(args.device, args.dtype, args.device_id)
    budget = memory.find_budget(device, args.ram_budget, args.vram_budget)
    offload = memory.LOWVRAM if args.lowvram else memory.MEDVRAM if args.medvram else memory.AUTO
    logging.info("%s: %s", device.describe(), budget)
    flags = {"medvram": args.medvram, "lowvram": args.lowvram, "vram_budget": args.vram_budget}
    idle = memory.said_for_nothing(device, **flags)
    if idle:
        logging.warning(idle)
    hashes = Hashes(args.data_dir / "hashes.json")
    places = model_places(args)
    vaes = VaeFolders(places.vaes, places.checkpoints)
    store = ModelStore(
        places.checkpoints,
        device,
        hashes,
        default=default_model(args),
        vaes=vaes,
        residence=memory.Residence(device, budget, offload),
        approximations=places.approximations,
        text_encoders=TextEncoders(places.text_encoders),
    )
    loader = loader or build_loader(args, "command")
    inputs, embeddings = InputStore(args.data_dir / "inputs"), EmbeddingFolder(places.embeddings)
    return Engine(
        store,
        loader.host,
        version=VERSION,
        inputs=inputs,
        embeddings=embeddings,
        absent=loader.absent(),
        watch=watch,
        limits=limits_of(args),
    )


def build_runner(args: argparse.Namespace) -> Runner:
    """Create the worker's runner. Loads the default model at once, so that the first request is fast."""
    from modules.gallery.filenames import Names
    from modules.gallery.inputs import InputStore
    from modules.gallery.outputs import Gallery
    from modules.jobs.protocol import EXTRAS, REPLAY, Json
    from modules.jobs.runners.extras import ExtrasRunner
    from modules.jobs.runners.generate import GenerationRunner, noted
    from modules.jobs.runners.grids import with_grid
    from modules.jobs.runners.replay import ReplayRunner
    from modules.jobs.watchdog import HookWatch
    from modules.jobs.worker import by_kind
    from modules.metadata.image_text import Encoding
    from modules.params import settings

    chosen, message = settings.load(args.data_dir / "settings.json")
    if message:
        logging.warning("%s (%s)", message, args.data_dir / "settings.json")
    loader = build_loader(args, "worker")
    watch = HookWatch(args.data_dir / "extensions", args.worker_name)
    engine = build_engine(args, loader, watch)
    try:
        if chosen.warm_up:
            model = engine.warm_up()
            logging.info("%s is ready on %s", model.name, model.device.describe())
    except RepriseError as error:
        logging.warning("no model is loaded yet: %s", error.with_place)
    whole = Gallery(args.data_dir / "outputs")
    whole.sweep()

    def generation(*job: Any) -> Json:
        """With the settings as they are when a job begins."""
        now, trouble = settings.load(args.data_dir / "settings.json")
        encoding = Encoding(now.image_format, now.image_quality, now.webp_lossless)
        gallery = replace(whole, encoding=encoding, names=Names(now.file_name, now.folder_name))
        run: Runner = GenerationRunner(
            engine,
            gallery,
            preview_every=now.preview_every,
            preview_type=now.show_progress_type,
            embed_inputs=now.embed_inputs,
        )
        if now.save_grid:
            run = with_grid(run, replace(whole, encoding=encoding), now.grid_rows)
        return (noted(run, trouble) if trouble else run)(*job)

    runners: dict[str, Runner] = {
        REPLAY: ReplayRunner(engine, whole, preview_every=chosen.preview_every),
        EXTRAS: ExtrasRunner(engine.host, whole, InputStore(args.data_dir / "inputs")),
    }
    loader.started()
    return watch.watched(by_kind(runners, generation))


def build_scripts(args: argparse.Namespace, host: Host, models: CheckpointCatalogue) -> Scripts:
    """Create the runner of scripts, which turn one request into many."""
    from modules.extension.script import ScriptContext
    from modules.gallery.inputs import InputStore
    from modules.gallery.outputs import Gallery
    from modules.jobs.runners.script import Scripts
    from webui.services import tables_of

    tables = tables_of(host, models.checkpoints, models.vaes, models.text_encoders)
    inputs, limits = InputStore(args.data_dir / "inputs"), limits_of(args)
    context = ScriptContext(host.axes, lambda name: tables[name](), inputs.put)
    gallery = Gallery(args.data_dir / "outputs")
    return Scripts(host, gallery, context, lambda params: limits.check(params, inputs.size))


def build_catalogue(args: argparse.Namespace) -> CheckpointCatalogue:
    """Create the catalogue of the models folder, which needs no torch."""
    from modules.checkpoints.catalogue import CheckpointCatalogue
    from modules.checkpoints.files import Hashes

    return CheckpointCatalogue(model_places(args), Hashes(args.data_dir / "hashes.json"), default=default_model(args))


def build_queue(args: argparse.Namespace, scripts: Scripts) -> JobQueue:
    """Create the durable queue and the worker process behind it."""
    from modules.jobs.events import EventHub
    from modules.jobs.executors.process import LocalExecutor
    from modules.jobs.queue import JobQueue
    from modules.jobs.store import JobStore

    folders = ("data", "models", "extensions")
    places = [word for name in folders for word in (f"--{name}-dir", str(getattr(args, f"{name}_dir")))]
    places += commandline.said_places(args)
    places += ["--no-extensions"] if args.no_extensions else []
    own_flags = {} if args.no_extensions else commandline.extension_flags(args)
    for name, own in own_flags.items():
        places += [f"--{name}-{flag}".replace("_", "-") + f"={said}" for flag, said in own.items()]
    command = (sys.executable, str(ROOT / "app.py"), "worker", *places, *commandline.said_of_device(args))
    command += commandline.said_limits(args)
    executor = LocalExecutor((*command, "--worker-name", "worker"))  # further ones need names of their own
    return JobQueue(JobStore(args.data_dir / "reprise.db"), executor, EventHub(), scripts=scripts)


def build_settings(args: argparse.Namespace) -> SettingsFile:
    """Read the owner's settings, before a worker starts, so that a broken file is reported on the page."""
    from modules.params.settings import SettingsFile

    fixed = {"theme": args.theme} if args.theme else {}
    locked, _ = flags.locked_settings(args.lock_a1111_settings, args.lock_a1111_sections)
    settings = SettingsFile(args.data_dir / "settings.json", fixed=fixed, locked=(*args.lock_settings, *locked))
    if settings.trouble:
        logging.warning(settings.trouble)
    return settings


def build_policy(args: argparse.Namespace) -> ApiPolicy:
    """What programs may do that use the HTTP APIs."""
    from webui.policy import ApiPolicy, allowed_origins

    origins, pattern, notes = allowed_origins(args.cors_allow_origins, args.cors_allow_origins_regex)
    for note in notes:
        logging.warning(note)
    return ApiPolicy(
        origins=origins,
        origins_pattern=pattern,
        webhook_hosts=tuple(args.webhook_host),
        image_hosts=tuple(args.image_host),
        requests_per_minute=args.rate_limit,
        limits=limits_of(args),
        can_stop=args.api_server_stop,
        frozen=frozenset(flags.locked_settings(args.lock_a1111_settings, args.lock_a1111_sections)[1]),
    )


def build_services(
    args: argparse.Namespace,
    queue: JobQueue,
    loader: Loader,
    scripts: Scripts,
    settings: SettingsFile,
    models: CheckpointCatalogue,
    *,
    login: bool = False,
) -> Services:
    """Create the services of the front end. ``login``: nobody gets in without an account."""
    from modules.accounts import Accounts
    from modules.checkpoints.networks.library import Library, Naming
    from modules.gallery.inputs import InputStore
    from modules.jobs.history import History
    from webui.server import Services

    def naming() -> Naming:
        now = settings.current()
        return Naming(now.network_weight, now.network_names == "Filename")

    for sentence in models.told_at_start():
        logging.warning(sentence)
    return Services(
        queue=queue,
        host=loader.host,
        extensions=loader,
        scripts=scripts,
        data_dir=args.data_dir,
        outputs_dir=args.data_dir / "outputs",
        inputs=InputStore(args.data_dir / "inputs"),
        settings=settings,
        history=History(queue.store, args.data_dir / "outputs", args.data_dir / "thumbnails"),
        text_encoders=models.text_encoders,
        keeper=models,
        version=VERSION,
        checkpoints=models.checkpoints,
        native_size=models.native_size,
        vaes=models.vaes,
        vae_sha256=models.vae_sha256,
        embeddings=models.embeddings,
        card=models.card,
        check_files=models.check,
        networks=Library(
            loader.host.shelf, model_places(args), args.data_dir, naming=naming, pages=loader.host.file_pages
        ),
        allowed_hosts=(*args.allowed_host, *_names(args)),
        accounts=Accounts(args.data_dir / "users.db"),
        login=login,
        styles_file=args.styles_file,
        api=build_policy(args),
        subpath=args.subpath,
        trusted_proxies=tuple(args.trusted_proxy),
    )


# ---------------------------------------------------------------------------------------------------- the commands


def serve(args: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    address = "0.0.0.0" if args.listen else args.host
    opening = _opening(args, address)
    if opening and not args.list_routes:
        _check_accounts(args, opening)
    bootstrap.ensure(ROOT, torch_index=args.torch_index)
    bootstrap.keep_private(args.data_dir)
    _check_folder(args.data_dir / "outputs")
    if args.dump_sysinfo:
        return dump_sysinfo(args)
    if args.api_only:
        os.environ["REPRISE_API_ONLY"] = "1"  # before anything of webui is imported, which imports Gradio at once
    from modules.extension.autoreload import AutoReload
    from webui import server
    from webui.security import proxy, routes
    from webui.security.tls import tls_of

    tls, below = tls_of(args.tls_keyfile, args.tls_certfile), proxy.subpath_of(args.subpath)
    settings = build_settings(args)
    listener = None if args.list_routes else server.listen(address, args.port)
    loader = build_loader(args, "server")
    models = build_catalogue(args)
    scripts = build_scripts(args, loader.host, models)
    queue = build_queue(args, scripts)
    if listener is None:
        services = build_services(args, queue, loader, scripts, settings, models)
        print(routes.table(server.create_app(services, page=not args.api_only)))
        loader.started()  # it came to an end, and counts as no start that did not
        return 0
    days = settings.current().keep_jobs_days
    if days:
        queue.store.forget(time.time() - 86400 * days)
    queue.start()
    watch = AutoReload(loader, queue.restart_worker) if args.reload_extensions else None
    try:
        services = build_services(args, queue, loader, scripts, settings, models, login=bool(opening))
        app = server.create_app(services, page=not args.api_only)
        loader.started()
        url = f"{'https' if tls else 'http'}://{_shown(address)}:{args.port}{below}"
        print(f"Reprise {VERSION} serves {url}", flush=True)
        if watch:
            watch.start()
        if args.autolaunch:
            webbrowser.open(url)
        server.serve(app, listener, tls, trusted=args.trusted_proxy)
    finally:
        if watch:
            watch.close()
        queue.close()
    return 0


def dump_sysinfo(args: argparse.Namespace) -> int:
    """Write a report for bug reports into the folder at hand, as A1111 does."""
    from modules.cli import sysinfo
    from modules.extension.manifest import folders_in

    models = build_catalogue(args)
    counts = {"checkpoints": len(models.checkpoints()), "VAEs": len(models.vaes())}
    names = [folder.name for folder in folders_in(*extension_folders(args))]
    told = sysinfo.report(VERSION, sys.argv[1:], counts, names)
    try:
        path = sysinfo.write(Path.cwd(), told)
    except OSError as error:
        raise OutputError(f"no report can be written here: {error.strerror}", hint="go to another folder") from error
    print(path)
    return 0


def _opening(args: argparse.Namespace, address: str) -> str:
    """The flag or address that lets other machines reach the server; "" if there is none."""
    if not _is_loopback(address):
        return f"listening on {address}"
    flags = {"--allowed-host": args.allowed_host, "--subpath": args.subpath, "--trusted-proxy": args.trusted_proxy}
    return next((flag for flag, value in flags.items() if value), "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(args: argparse.Namespace) -> tuple[str, ...]:
    """The names under which this machine is known to others."""
    if not args.listen and args.host not in ("0.0.0.0", "::"):
        return (args.host,)
    name = socket.gethostname()
    return name, f"{name}.local"


def _check_accounts(args: argparse.Namespace, opening: str) -> None:
    """Refuse to serve other machines as long as there are no accounts."""
    from modules.accounts import Accounts

    path = args.data_dir / "users.db"
    if path.is_file() and Accounts(path).any():
        return
    place = "" if args.data_dir == ROOT / "data" else f"--data-dir {shlex.quote(str(args.data_dir))} "
    raise UserError(
        f"{opening} would open this server to others, and it has no accounts yet",
        hint=f"make the first with: python3 app.py {place}user add NAME",
    )


def _shown(host: str) -> str:
    """An address for messages: this machine's name instead of "all addresses"."""
    return socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host


def _check_folder(folder: Path, flag: str = "--data-dir") -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror})", hint=f"choose another folder with {flag}"
        ) from error


def generate(args: argparse.Namespace) -> int:
    """Make images without a server."""
    chosen = _chosen(args)
    params = GenerationParams.from_json(chosen)
    if params.init and not params.init.image:
        raise UserError("there is no start picture", hint="give it with --init", field="init")
    if params.init is None and (args.loopback > 1 or args.outpaint):
        raise UserError("--loopback and --outpaint need a picture", hint="give it with --init", field="init")
    if args.output is not None and args.output.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{args.output} does not end in {', '.join(SUFFIXES)}", hint="choose one of these", field="output"
        )
    if args.server:
        if args.loopback > 1 or args.outpaint:
            raise UserError("--loopback and --outpaint are done without a server", hint="leave --server out")
        from modules.cli import remote

        return remote.generate(args.server, params, chosen, args.output, args.data_dir / "outputs" / "from-server")
    bootstrap.ensure(ROOT, torch_index=args.torch_index)
    if args.output is None:  # a picture that is put elsewhere has the mode that its owner's others have
        bootstrap.keep_private(args.data_dir)
    _check_folder(args.data_dir / "outputs" if args.output is None else args.output.parent, "--data-dir or -o")
    from modules.checkpoints.detect import native_size
    from modules.checkpoints.source import open_source
    from modules.engine import RunCallbacks
    from modules.gallery.filenames import Names
    from modules.gallery.inputs import InputStore
    from modules.gallery.outputs import Gallery
    from modules.jobs.runners.generate import folder_for
    from modules.jobs.submit import canonical
    from modules.metadata.image_text import Encoding, encode
    from modules.params import settings
    from modules.storage import atomic

    engine = build_engine(args)
    path = engine.store.find(params.checkpoint).path
    size = native_size(open_source(path).header, path)
    params = params.changed(**{side: size for side in ("width", "height") if side not in chosen})

    wanted, message = settings.load(args.data_dir / "settings.json")
    if message:
        logging.warning("%s (%s)", message, args.data_dir / "settings.json")
    suffix = SUFFIXES[args.output.suffix.lower()] if args.output else wanted.image_format
    encoding = Encoding(suffix, wanted.image_quality, wanted.webp_lossless)
    name = ""
    made: list[Result] = []

    def save(result: Result) -> None:
        made.append(result)
        carried = engine.inventory.carried(result.recipe) if wanted.embed_inputs else ()
        if args.output is None:
            gallery = Gallery(args.data_dir / "outputs", encoding, Names(wanted.file_name, wanted.folder_name))
            recipe = result.recipe
            saved = gallery.save(
                result.image,
                folder=folder_for(params),
                seed=recipe.seed,
                infotext=result.infotext,
                recipe=str(recipe),
                carried=carried,
            )
            path, note = saved.path, saved.note
        else:
            path = _numbered(args.output.with_stem(args.output.stem + name), result.recipe.index)
            data, note = encode(result.image, result.infotext, str(result.recipe), encoding, carried=carried)
            try:
                atomic.write(path, data)
            except OSError as error:
                raise OutputError(
                    f"{path} cannot be written ({error.strerror})", hint="choose another with -o"
                ) from error
        if note:
            print(note, file=sys.stderr)
        print(f"\r{path}  seed {result.recipe.seed}\x1b[K" if sys.stderr.isatty() else path, flush=True)

    inputs = InputStore(args.data_dir / "inputs")
    watcher = RunCallbacks(_tell_progress, lambda note: print(note, file=sys.stderr))
    for stem, one in _starts(_with_option_images(params, engine.host, inputs)):
        stored = _stored(one, inputs, args.outpaint)
        for turn in range(args.loopback):
            name = f"{stem}-turn{turn + 1}" if turn else stem
            request, notes = canonical(stored, engine.host, absent=True)
            for note in notes:
                watcher.on_note(note)
            engine.run(request, save, watcher)
            stored = _next_turn(stored, made[-1], inputs, args.loopback_decay)
    return 0


def _chosen(args: argparse.Namespace) -> dict[str, Any]:
    """The request given on the command line."""
    said = {name: value for name, value in vars(args).items() if name in flat_of(GenerationParams)}
    if "mask_image" in said and "image" not in said:
        raise UserError("--mask needs a picture to lie on", hint="give it with --init", field="mask")
    return from_flat(GenerationParams, said) | {"extensions": _modifiers(getattr(args, "ext", ()))}


def _modifiers(said: Sequence[str], flag: str = "--ext") -> dict[str, dict[str, str]]:
    """Parse ``--ext``: ``twice.amount=2``, or ``twice`` for its defaults."""
    found: dict[str, dict[str, str]] = {}
    for text in said:
        path, equals, value = text.partition("=")
        name, dot, option = path.partition(".")
        if bool(dot) != bool(equals) or not name:
            raise UserError(f"{flag} {text} is not understood", hint="write NAME or NAME.OPTION=VALUE", field=flag[2:])
        found.setdefault(name, {}).update({option: value} if dot else {})
    return found


def _with_option_images(params: GenerationParams, host: Host, inputs: InputStore) -> GenerationParams:
    """The request with the files stored that options of modifiers name as pictures."""
    from modules.extension.option_values import check_there, stored

    def put(path: str, field: str) -> str:
        try:
            return inputs.put(Path(path))
        except UserError as error:
            raise type(error)(error.message, hint=error.hint, field=field) from None

    specs = tuple(host.modifiers)
    chosen = stored(specs, params.extensions, put)
    check_there(specs, chosen, lambda sha256, field: inputs.path(sha256, field=field), host.models)
    return params.changed(extensions=chosen)


def _stored(params: GenerationParams, inputs: InputStore, outpaint: Sequence[int] = ()) -> GenerationParams:
    """The request with its files stored and named by content; outpainting replaces both image and mask."""
    if params.init is None:
        return params
    mask = params.init.mask
    if any(outpaint):
        from modules.imaging.files import open_image
        from modules.imaging.masks import outpainted
        from modules.imaging.resize import request_size
        from modules.params.generation import Mask

        sheet, white = outpainted(open_image(Path(params.init.image)), *outpaint)
        width, height = request_size(sheet.size)
        start = replace(params.init, image=inputs.put(sheet), mask=replace(mask or Mask(), image=inputs.put(white)))
        return params.changed(init=start, width=width, height=height)
    mask = replace(mask, image=inputs.put(Path(mask.image))) if mask else None
    return params.changed(init=replace(params.init, image=inputs.put(Path(params.init.image)), mask=mask))


def _next_turn(params: GenerationParams, result: Result, inputs: InputStore, decay: float) -> GenerationParams:
    """The next request of a loopback: the result as init image, the next seed, and a decayed denoising strength."""
    if params.init is None:
        return params
    strength = params.init.denoising_strength * decay
    start = replace(params.init, image=inputs.put(result.image), denoising_strength=strength)
    return params.changed(init=start, seed=-1 if params.seed == -1 else wrapped(result.recipe.seed + 1))


def _starts(params: GenerationParams) -> list[tuple[str, GenerationParams]]:
    """The requests to run: one or, if the init image is a folder, one for each image there, with its name."""
    folder = Path(params.init.image) if params.init else Path()
    if params.init is None or not folder.is_dir():
        return [("", params)]
    from modules.imaging import files as images

    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in images.SUFFIXES]
    if not files:
        raise NotFound(f"there is no picture in {folder}", hint=images.ACCEPTED, field="init")
    stems = [path.stem.casefold() for path in files]  # some file systems know no capitals
    names = [path.stem if stems.count(path.stem.casefold()) == 1 else path.name.replace(".", "-") for path in files]
    return [
        (f"-{name}", params.changed(init=replace(params.init, image=str(path))))
        for name, path in zip(names, files, strict=True)
    ]


def _numbered(path: Path, index: int) -> Path:
    """File names fox.png, fox-2.png, fox-3.png ..."""
    return path if index == 0 else path.with_stem(f"{path.stem}-{index + 1}")


def _tell_progress(progress: Progress) -> None:
    if sys.stderr.isatty():
        count = f"image {progress.first_image + 1} of {progress.images}, step {progress.step} of {progress.steps}"
        print(f"\r{count}\x1b[K", end="", file=sys.stderr, flush=True)


def replay(args: argparse.Namespace) -> int:
    """Replay a recorded image. Exit status 0: identical, 1: it differs or cannot be made."""
    bootstrap.ensure(ROOT, torch_index=args.torch_index)
    from modules.engine import RunCallbacks
    from modules.metadata.recipe import Recipe
    from modules.replay import recorded_in
    from modules.replay import replay as replayed

    if not args.file.is_file():
        raise NotFound(f"there is no file {args.file}", hint="check the name", field="file")
    verdict = recorded_in(args.file)
    if isinstance(verdict, Recipe):  # else it is known, before a model is loaded, that there is nothing to replay
        verdict = replayed(build_engine(args), args.file, RunCallbacks(_tell_progress)).verdict
    print(f"\r\x1b[K{verdict}" if sys.stderr.isatty() else verdict)
    return 0 if verdict.kind == "identical" else 1


def upscale(args: argparse.Namespace) -> int:
    """Upscale an image without a server."""
    if args.output.suffix.lower() != ".png":
        raise UserError(f"{args.output} does not end in .png", hint="images are written as PNG", field="output")
    bootstrap.ensure(ROOT, torch_index=args.torch_index)
    if not args.file.is_file():
        raise NotFound(f"there is no file {args.file}", hint="check the name", field="file")
    _check_folder(args.output.parent, "-o")
    from modules.imaging.files import open_image, png_bytes
    from modules.metadata.image_text import read_metadata
    from modules.pipeline.postprocess import check, process
    from modules.restoration.upscale import Work
    from modules.storage import atomic

    known = {name: value for name, value in vars(args).items() if name in options_of(ExtrasParams)}
    steps = _modifiers(args.step, "--step")
    if {"width", "height"} & known.keys():
        known.setdefault("resize", TO)
    params, host = ExtrasParams.from_json({"upscaler": "Lanczos", **known, "steps": steps}), build_host(args)
    check(params, host)
    extra = process(open_image(args.file), params, host, Work(on_tile=_tell_tiles))
    texts = {"parameters": read_metadata(args.file)["infotext"] or "", "extras": extra.infotext}
    data = png_bytes(extra.image, {key: text for key, text in texts.items() if text})
    try:
        atomic.write(args.output, data)
    except OSError as error:
        raise OutputError(
            f"{args.output} cannot be written ({error.strerror})", hint="choose another with -o"
        ) from error
    size = f"{extra.image.width} x {extra.image.height}"
    print(f"\r{args.output}  {size}\x1b[K" if sys.stderr.isatty() else f"{args.output}  {size}")
    return 0


def _tell_tiles(done: int, tiles: int) -> None:
    if tiles and sys.stderr.isatty():
        print(f"\rtile {done} of {tiles}\x1b[K", end="", file=sys.stderr, flush=True)


def explain(args: argparse.Namespace) -> int:
    """Print what a prompt means, step by step, as JSON."""
    params = GenerationParams.from_json(_chosen(args))
    bootstrap.ensure(ROOT, torch_index=args.torch_index)
    from modules.checkpoints.networks.metadata import family_named
    from modules.pipeline.explain import explain_request

    catalogue, host = build_catalogue(args), build_host(args)
    host.shelf.read()
    embeddings, family = catalogue.embeddings(params.checkpoint), family_named(catalogue.card(params.checkpoint).family)
    print(json.dumps(explain_request(params, host, embeddings, family), indent=1, ensure_ascii=False))
    return 0


def convert(args: argparse.Namespace) -> int:
    """Convert a pickled checkpoint to safetensors, in a child process."""
    bootstrap.ensure(ROOT, torch_index=args.torch_index)
    from modules.checkpoints.convert import convert as converted

    places = model_places(args)
    print(converted(_in_models(args.file, [args.models_dir, *places.checkpoints, *places.vaes, *places.embeddings])))
    return 0


def _in_models(file: Path, folders: Sequence[Path]) -> Path:
    """``file``, or the file of that name in the models folders, since messages give names alone."""
    if file.exists() or file.name != str(file):
        return file
    from modules.checkpoints.folders import files_below

    there = sorted(files_below(folders, (file.name.lower(),)))
    return next((path for path in there if path.name == file.name), file)


def make_tiny_checkpoint(args: argparse.Namespace) -> int:
    """Write a random checkpoint of a megabyte or a few, for tests and for trying things."""
    bootstrap.ensure(ROOT, torch_index=args.torch_index)
    from modules.checkpoints.tiny import write_tiny_checkpoint

    written = write_tiny_checkpoint(
        args.path,
        args.family,
        args.seed,
        inpainting=args.inpainting,
        pix2pix=args.pix2pix,
        prediction=args.prediction,
    )
    print(written)
    return 0


def worker(args: argparse.Namespace) -> int:
    """Run the worker process, which owns the engine; started by the server."""
    from modules.jobs.worker import serve as serve_jobs

    bootstrap.keep_private(args.data_dir)
    return serve_jobs(lambda _report: build_runner(args))


def doctor(args: argparse.Namespace) -> int:
    """Print what this machine has, with a line of advice for each finding. Exit status 1: something does not work."""
    from modules.checkpoints.folders import survey
    from modules.cli import doctor as examination

    places = model_places(args)
    folders = {"checkpoints": places.checkpoints, "VAEs": places.vaes, "embeddings": places.embeddings}
    findings = examination.examine(
        ROOT, args.data_dir, folders, args.host, args.port, survey=survey, device=(args.device, args.device_id)
    )
    print(examination.report(findings))
    return int(any(finding.bad for finding in findings))


def user(args: argparse.Namespace) -> int:
    """Create, list, change and remove accounts."""
    from modules.accounts import ADMIN, LOCAL, USER, Accounts
    from modules.jobs.store import JobStore

    bootstrap.keep_private(args.data_dir)
    _check_folder(args.data_dir)
    accounts = Accounts(args.data_dir / "users.db")
    if args.action == "list":
        for account in accounts.all():
            print(f"{account.name}\t{account.role}")
    elif args.action == "add":
        first = not accounts.any()
        account = accounts.add(args.name, _password(), ADMIN if args.admin else USER)
        print(f"{account.name} can log in now, as {account.role}")
        if first and (args.data_dir / "reprise.db").is_file():
            adopted = JobStore(args.data_dir / "reprise.db").adopt(LOCAL, account.name)
            print(f"the {adopted} jobs made before there were accounts are {account.name}'s now")
    elif args.action == "remove":
        accounts.remove(args.name)
        print(f"{args.name} is logged out everywhere and cannot log in any more; the pictures stay where they are")
    elif args.action == "password":
        accounts.set_password(args.name, _password())
        print(f"{args.name} has a new password; all sessions and tokens have ended")
    else:
        print(accounts.new_token(args.name))
        print("This token is told once. Send it as: Authorization: Bearer TOKEN", file=sys.stderr)
    return 0


def _password() -> str:
    """Ask twice at a terminal; otherwise read the first line of stdin."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise UserError("the two passwords differ", hint="try again")
    return password


def new_extension(args: argparse.Namespace) -> int:
    """Write the skeleton of an extension."""
    from modules.extension.scaffold import write_skeleton

    print(write_skeleton(args.extensions_dir, args.name, args.kind, extension_folders(args)))
    return 0


def install_extension(args: argparse.Namespace) -> int:
    """Install an extension that lies on this machine, or the packages of one that is in its place."""
    bootstrap.ensure(ROOT)
    bootstrap.keep_private(args.data_dir)
    from modules.extension.installer import Installer

    installer = Installer(extension_folders(args), args.data_dir, ROOT)
    done = installer.install(args.what, replace=args.replace, on_step=lambda said: print(said, file=sys.stderr))
    print(f"{done.name} {done.version} is in {done.folder}")
    for name, version in done.packages.items():
        print(f"{name} {version} was installed for it")
    print("A server that is running takes it up when it is loaded anew in the Extensions tab.", file=sys.stderr)
    return 0


def test(arguments: Sequence[str]) -> int:
    """Run the tests with pytest, passing on ``arguments``; with ``--extension PATH`` the kit's tests of one
    extension. Unless ``arguments`` name a path, test files run in parallel, one process per core and at most four.
    """
    bootstrap.ensure(ROOT, TEST_FILES)
    import pytest

    if any(word.partition("=")[0] == "--extension" for word in arguments):
        arguments = [str(ROOT / "tests" / "kit"), *arguments]
    elif not any("/" in word or "::" in word or Path(word).exists() for word in arguments if word[:1] != "-"):
        workers = min(os.cpu_count() or 1, 4)
        arguments = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder", *(arguments or [str(ROOT)])]
    return int(pytest.main(["--rootdir", str(ROOT), *arguments]))


def build_parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build the argument parser, with the function of each command. ``given`` tells whose extensions have flags too."""
    places: dict[str, Any] = {f"{name}_dir": ROOT / name for name in ("data", "models", "extensions")}
    places |= commandline.MEMORY
    commands: list[commandline.Command] = [serve, generate, upscale, explain, replay, convert, make_tiny_checkpoint]
    commands += [doctor, user, new_extension, install_extension, worker]
    flags = flags_in(places["extensions_dir"], commandline.extensions_dir(given, places["extensions_dir"]))
    return commandline.build_parser(VERSION, places, {run.__name__.replace("_", "-"): run for run in commands}, flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error becomes one sentence on stderr and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    machine.ask_for_huge_pages()  # before torch is imported, here or in the worker
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        if given[:1] == ["test"]:
            return test(given[1:])
        given, notes = flags.translated(given)
        for note in notes:
            print(note, file=sys.stderr)
        args: Any = build_parser(given).parse_args(given)
        if args.run not in (serve, worker):  # what a command prints is its answer
            logging.getLogger().setLevel(logging.WARNING)
        return int(args.run(args))
    except Cancelled:
        return 130
    except RepriseError as error:
        print(f"error: {error.with_place}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
