"""python -m modules.training STAGE: makes the default model, stage by stage; every stage resumes where it stopped.

With ``--minutes`` the clock decides how long a stage learns, on whatever machine: a stage alone has all of them, in
``all`` the autoencoder ends after 40% and the diffusion model after 95%, so that the rest is there for the export.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from modules.gallery.inputs import InputStore
from modules.training import autoencoder, captions, config, evaluate, export, judge, latents, loop, sheet, unet
from modules.training.render import cache

STAGES = ("render", "text", "vae", "latents", "unet", "sharpen", "judge", "export", "evaluate", "sheet")
"""In the order in which ``all`` runs them."""
BY_THE_CLOCK = {"vae": 0.40, "unet": 0.95}
"""The stages of ``all --minutes`` that learn, and the part of the time after which each ends."""
CHECKPOINT = Path("models/Stable-diffusion/reprise-mini.safetensors")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modules.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, default=CHECKPOINT, help="what export writes and evaluate reads"
    )
    parser.add_argument("--config", type=Path, default=config.SHIPPED)
    parser.add_argument("--folder", type=Path, default=Path("data/training"), help="pictures, checkpoints, figures")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="how long to learn; without it the steps of --config"
    )
    parser.add_argument("--pictures", type=int, help="how many to render; without it those of --config")
    parser.add_argument("--processes", type=int, help="that render and learn; without it those of --config")
    parser.add_argument("--cfg-scale", type=float, nargs="+", default=[1.0, 3.0, 5.0, 7.0], help="for evaluate")
    parser.add_argument("--sheets", type=Path, default=Path("models/sheets"), help="where sheet puts its pictures")
    parser.add_argument("--count", type=int, default=200, help="pictures that evaluate judges for each CFG scale")
    return parser.parse_args(words)


def settings_of(args: argparse.Namespace) -> config.Config:
    """The configuration with what the command line says otherwise."""
    settings = config.load(args.config)
    if args.pictures:
        settings = replace(settings, data=replace(settings.data, pictures=args.pictures, encoded=args.pictures))
    return replace(settings, processes=args.processes or settings.processes)


def by_the_clock(settings: config.Config, minutes: float) -> config.Config:
    """``settings`` whose learning stages take ``minutes``; 0 leaves them their steps."""
    if not minutes:
        return settings
    vae, diffusion, sharpen = settings.autoencoder, settings.diffusion, settings.sharpen
    return replace(
        settings,
        autoencoder=replace(vae, run=replace(vae.run, minutes=minutes)),
        diffusion=replace(diffusion, run=replace(diffusion.run, minutes=minutes)),
        sharpen=replace(sharpen, run=replace(sharpen.run, minutes=minutes)),
    )


def run(stage: str, settings: config.Config, args: argparse.Namespace) -> None:
    folder: Path = args.folder
    if stage == "render":
        cache.write(settings.data, folder / "pictures.npy", settings.processes)
        cache.write_captions(settings.data, folder / "captions.npy", settings.processes)
    elif stage == "text":
        loop.in_processes(settings.processes, captions.train, settings, folder)
    elif stage == "vae":
        loop.in_processes(settings.processes, autoencoder.train, settings, folder)
    elif stage == "latents":
        latents.write(settings, folder)
    elif stage == "unet":
        loop.in_processes(settings.processes, unet.train, settings, folder)
    elif stage == "sharpen":
        loop.in_processes(settings.processes, autoencoder.sharpen, settings, folder)
    elif stage == "judge":
        judge.train(settings, folder)
    elif stage == "export":
        export.write(settings, folder, args.checkpoint)
    elif stage == "evaluate":
        evaluate.run(settings, folder, args.checkpoint, args.cfg_scale, args.count)
    else:
        sheet.write(args.checkpoint, args.sheets, InputStore(folder / "inputs"))


def stages(args: argparse.Namespace, settings: config.Config) -> tuple[str, ...]:
    """What a command runs: under the clock only what leads to a file, and no lesson that earlier weights have had or
    that has no steps."""
    if args.stage != "all":
        return (args.stage,)
    wanted = ("render", "text", "vae", "latents", "unet", "export") if args.minutes else STAGES
    unwanted = {"text": bool(settings.start.file), "sharpen": not settings.sharpen.run.steps}
    return tuple(stage for stage in wanted if not unwanted.get(stage, False))


@contextmanager
def compiling_beside(settings: config.Config, wanted: bool) -> Iterator[None]:
    """On a card the UNet is compiled in a process of its own while pictures are rendered and the autoencoder learns."""
    if not wanted or loop.device().type == "cpu" or not settings.diffusion.run.compile_seconds:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=unet.compile_once, args=(settings,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args, started = arguments(), time.monotonic()
    settings = settings_of(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    todo = stages(args, settings)
    early = [stage for stage in todo if stage in ("render", "text", "vae", "latents")]
    with compiling_beside(settings, wanted=args.minutes > 0 and "unet" in todo and bool(early)):
        run_all(early, args, settings, started)
    run_all([stage for stage in todo if stage not in early], args, settings, started)


def run_all(todo: Sequence[str], args: argparse.Namespace, settings: config.Config, started: float) -> None:
    """The stages ``todo``, each with what is left for it of the minutes since ``started``."""
    for stage in todo:
        spent = (time.monotonic() - started) / 60
        part = BY_THE_CLOCK.get(stage, 1.0) if args.stage == "all" else 1.0
        left = max(0.1, args.minutes * part - spent) if args.minutes else 0.0
        run(stage, by_the_clock(settings, left), args)


if __name__ == "__main__":
    main()
