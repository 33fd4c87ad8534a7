"""python -m modules.training STAGE: makes the default model, stage by stage; every stage resumes where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules.gallery.inputs import InputStore
from modules.training import autoencoder, captions, config, evaluate, export, judge, latents, loop, sheet, unet
from modules.training.render import cache

STAGES = ("render", "text", "vae", "latents", "unet", "sharpen", "judge", "export", "evaluate", "sheet")
"""In the order in which ``all`` runs them."""
CHECKPOINT = Path("models/Stable-diffusion/reprise-mini.safetensors")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m modules.training", description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, default=CHECKPOINT, help="what export writes and evaluate reads"
    )
    parser.add_argument("--config", type=Path, default=config.SHIPPED)
    parser.add_argument("--folder", type=Path, default=Path("data/training"), help="pictures, checkpoints, figures")
    parser.add_argument("--cfg-scale", type=float, nargs="+", default=[1.0, 3.0, 5.0, 7.0], help="for evaluate")
    parser.add_argument("--sheets", type=Path, default=Path("models/sheets"), help="where sheet puts its pictures")
    parser.add_argument("--count", type=int, default=200, help="pictures that evaluate judges for each CFG scale")
    return parser.parse_args()


def run(stage: str, args: argparse.Namespace) -> None:
    settings: config.Config = config.load(args.config)
    folder: Path = args.folder
    if stage == "render":
        cache.write(settings.data, folder / "pictures.npy", settings.processes)
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


def main() -> None:
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if args.stage == "all" else (args.stage,):
        run(stage, args)


if __name__ == "__main__":
    main()
