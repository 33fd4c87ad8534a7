"""The web application with the real queue and a runner that draws with Pillow instead of a model.

A script for the browser tests (``fake_server.py --port N --data-dir DIR``) and a module for the others.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from modules import builtin
from modules.accounts import Accounts
from modules.checkpoints.catalogue import Card
from modules.checkpoints.embeddings import EmbeddingFile, Suited
from modules.errors import Cancelled
from modules.extension.host import Host
from modules.extension.script import ScriptContext, axes_of_params
from modules.gallery.inputs import InputStore
from modules.gallery.outputs import Gallery
from modules.jobs.events import EventHub
from modules.jobs.executors.process import InlineExecutor
from modules.jobs.history import History
from modules.jobs.queue import JobQueue
from modules.jobs.runners.script import Scripts
from modules.jobs.store import JobStore
from modules.jobs.worker import Emit, JobControl
from modules.metadata.verdict import Verdict
from modules.params.settings import SettingsFile
from webui import tabs
from webui.security.connections import HEAD_S
from webui.security.guard import Guard
from webui.services import Services, tables_of

CHECKPOINTS = ("reprise-mini.safetensors", "another.safetensors")


class Painter:
    """A `Runner`: a colour gradient a seed, step by step. The words of the prompt choose its pace and its fate.
    Every replay of a file that is there is identical."""

    def __init__(self, gallery: Gallery):
        self.gallery = gallery

    def __call__(self, job_id: str, spec: dict[str, Any], emit: Emit, control: JobControl) -> dict[str, Any]:
        if spec.get("kind") == "replay":
            verdict = Verdict("identical") if "path" not in spec or Path(spec["path"]).is_file() else Verdict("cannot")
            return {"verdict": verdict.to_json(), "images": []}
        params, begin = spec["params"], time.monotonic()
        pause = 0.25 if "slow" in params["prompt"] else 0.02
        if "explode" in params["prompt"]:
            raise RuntimeError("<b>boom</b>")
        total, images = params["batch_size"] * params["batch_count"], []
        for number in range(total):
            seed, skips = params["seed"] + number, control.skips()
            for step in range(1, params["steps"] + 1):
                if control.cancelled():
                    raise Cancelled
                if control.skips() > skips:
                    break
                time.sleep(pause)
                left = (params["steps"] * (total - number) - step) * pause
                event = {"type": "step", "step": step, "steps": params["steps"], "image": number + 1, "images": total}
                emit({**event, "eta_s": left, "preview": _jpeg(paint(seed, 64, step / params["steps"]))})
            infotext = f"{params['prompt']}\nSteps: {params['steps']}, Seed: {seed}, Size: 128x128, Model: painter"
            saved = self.gallery.save(paint(seed, 128, 1.0), seed=seed, infotext=infotext, job=job_id)
            images.append({"path": str(saved.path), "infotext": infotext, "seed": seed, "width": 128, "height": 128})
            emit({"type": "image", **images[-1]})
        seconds = time.monotonic() - begin
        return {"images": images, "infotext": images[0]["infotext"], "notes": [], "seconds": seconds}


def paint(seed: int, side: int, done: float) -> Image.Image:
    """A gradient between two colours of the seed; the part of it that is done is bright."""
    ramp = Image.linear_gradient("L").resize((side, side))
    if seed % 2:
        ramp = ramp.rotate(90)
    first, second = ((seed * k) % 200 + 30 for k in (37, 91))
    colours = [
        ramp.point(lambda v, a=a, b=b: int((a + (b - a) * v / 255) * done))
        for a, b in ((first, second), (second, 255 - first), (220 - first // 2, first))
    ]
    return Image.merge("RGB", colours)


def _jpeg(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


def suited(checkpoint: str) -> Suited:
    """What the first checkpoint can use; to the other, all embeddings are foreign."""
    names = ("my style", "Easy (negative)", "bad <b>hands</b>", *(f"concept {n}" for n in range(30)))
    if checkpoint == CHECKPOINTS[1]:
        return Suited((), dict.fromkeys(names, "it is for models of width 768, and this one has 1024"))
    files = tuple(EmbeddingFile(name, Path(name), 1 + len(name) % 5, 768) for name in names)
    return Suited(files, {"tall": "it is for models of width 1024, and this one has 768"})


def card(checkpoint: str) -> Card:
    metadata = {
        "modelspec.title": f"<i>{checkpoint}</i>",
        "modelspec.author": "somebody",
        "description": "Paints.\n" * 3,
    }
    return Card(checkpoint, checkpoint, "Painter", "eps", 128, 23_450_000, "0123456789abcdef" * 4, metadata)


@contextlib.contextmanager
def services(data_dir: Path, **changes: Any) -> Iterator[Services]:
    """Everything as in the program, but for the runner. The queue runs until the end of the block."""
    outputs = data_dir / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    host = Host()
    builtin.register(host)
    tabs.register(host)
    executor = InlineExecutor(Painter(Gallery(outputs)))
    inputs = InputStore(data_dir / "inputs")
    context = ScriptContext(axes_of_params, lambda name: tables_of(host, lambda: CHECKPOINTS)[name](), inputs.put)
    scripts = Scripts(host, Gallery(outputs), context)
    queue = JobQueue(JobStore(data_dir / "reprise.db"), executor, EventHub(), scripts=scripts)
    queue.start()
    try:
        facts: dict[str, Any] = {
            "queue": queue,
            "host": host,
            "data_dir": data_dir,
            "outputs_dir": outputs,
            "inputs": inputs,
            "settings": SettingsFile(data_dir / "settings.json"),
            "history": History(queue.store, outputs, data_dir / "thumbnails"),
            "scripts": scripts,
            "version": "0.0-test",
            "checkpoints": lambda: CHECKPOINTS,
            "native_size": lambda name: 128,
            "vaes": lambda: ("fine.safetensors",),
            "embeddings": suited,
            "card": card,
        }
        yield Services(**{**facts, **changes})
    finally:
        queue.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--user", action="append", default=[], metavar="NAME:PASSWORD")
    parser.add_argument("--subpath", default="")
    parser.add_argument("--trusted-proxy", action="append", default=[])
    parser.add_argument("--body-s", type=float, help="how long a client may take to send a body")
    parser.add_argument("--head-s", type=float, default=HEAD_S, help="how long a client may take to send a head")
    args = parser.parse_args()
    from webui.server import create_app, listen, serve

    accounts = Accounts(args.data_dir / "users.db")
    for name, _, password in (user.partition(":") for user in args.user):
        accounts.add(name, password)
    proxies = {"subpath": args.subpath, "trusted_proxies": tuple(args.trusted_proxy)}
    with services(args.data_dir, accounts=accounts, **proxies) as given:
        app = create_app(given)
        for middleware in app.user_middleware:
            if getattr(middleware.cls, "__name__", "") == Guard.__name__ and args.body_s:
                middleware.kwargs["body_s"] = args.body_s
        serve(app, listen("127.0.0.1", args.port), trusted=args.trusted_proxy, head_s=args.head_s)


if __name__ == "__main__":
    main()
