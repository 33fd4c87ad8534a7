"""The web application with the real queue and a runner that draws with Pillow instead of a model.

A script for the browser tests (``fake_server.py --port N --data-dir DIR``) and a module for the others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from modules import builtin
from modules.accounts import Accounts
from modules.checkpoints.catalogue import Card
from modules.checkpoints.choices import Choices
from modules.checkpoints.embeddings import EmbeddingFile, Suited
from modules.checkpoints.networks.library import Library
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.checkpoints.places import model_folders
from modules.errors import Cancelled, NotFound
from modules.extension.host import Host
from modules.extension.modifier import Modifier, ModifierSpec
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
from modules.params.options import option
from modules.params.settings import SettingsFile
from webui import tabs
from webui.policy import ApiPolicy
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
        pause = 0.4 if "slow" in params["prompt"] else 0.02
        if "explode" in params["prompt"]:
            raise RuntimeError("<b>boom</b>")
        total, images = params["batch_size"] * params["batch_count"], []
        for number in range(total):
            seed, skips = params["seed"] + number, control.skips()
            for step in range(1, params["steps"] + 1):
                if control.cancelled():
                    raise Cancelled
                if control.skips() > skips or control.interrupted():
                    break
                time.sleep(pause)
                left = (params["steps"] * (total - number) - step) * pause
                event = {"type": "step", "step": step, "steps": params["steps"], "image": number + 1, "images": total}
                emit({**event, "eta_s": left, "preview": _jpeg(paint(seed, 64, step / params["steps"]))})
            infotext = f"{params['prompt']}\nSteps: {params['steps']}, Seed: {seed}, Size: 128x128, Model: painter"
            saved = self.gallery.save(paint(seed, 128, 1.0), seed=seed, infotext=infotext, job=job_id)
            images.append({"path": str(saved.path), "infotext": infotext, "seed": seed, "width": 128, "height": 128})
            emit({"type": "image", **images[-1]})
            if control.interrupted():
                raise Cancelled
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
    names = ("my style", "Easy (negative)", "bad <b>hands", *(f"concept {n}" for n in range(30)))
    if checkpoint == CHECKPOINTS[1]:
        return Suited((), dict.fromkeys(names, "it is for models of width 768, and this one has 1024"))
    files = tuple(EmbeddingFile(name, Path(name), 1 + len(name) % 5, 768) for name in names)
    return Suited(files, {"tall": "it is for models of width 1024, and this one has 768"})


def write_model(path: Path, metadata: Mapping[str, str] | None = None, **shapes: tuple[int, ...]) -> Path:
    """A safetensors file of zeros; its keys have dots for double underscores."""
    table: dict[str, Any] = {"__metadata__": dict(metadata or {})}
    end = 0
    for name, shape in (shapes or {"w": (1,)}).items():
        start, end = end, end + 4 * math.prod(shape)
        table[name.replace("__", ".")] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(table, ensure_ascii=False).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(end))
    return path


LORA = {f"lora_unet_mid_block_attentions_0_proj_in__lora_{part}__weight": (4, 4) for part in ("up", "down")}
"""The layers of a small LoRA."""


def write_networks(models: Path) -> None:
    """What a person's folders look like: names, folders, previews, notes; and what cannot be used."""
    ink = {
        "ss_output_name": "ink wash",
        "ss_v2": "False",
        "ss_tag_frequency": json.dumps({"10_x": {"brush": 12, "paper": 7, "<b>ink</b>": 3}}),
        "ss_dataset_dirs": json.dumps({"10_x": {"img_count": 22}}),
        "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 768], "count": 22}}}),
    }
    path = write_model(models / "Lora" / "styles" / "ink_v1.safetensors", ink, **LORA)
    chosen = {"activation text": "brush strokes", "negative text": "photo", "preferred weight": 0.7, "notes": "skies"}
    path.with_suffix(".json").write_text(json.dumps(chosen), encoding="utf-8")
    paint(5, 96, 1.0).save(path.with_suffix(".png"))
    xl = {"ss_base_model_version": "sdxl_base_v1-0"}
    write_model(models / "Lora" / "styles" / "deep" / "xl.safetensors", xl, **LORA)
    write_model(models / "Lora" / "people" / "ann.safetensors", {}, **LORA)
    (models / "Lora" / "broken.safetensors").write_bytes(b"no model")
    write_model(models / "Lora" / '<b>"quote".safetensors', {}, **LORA)
    write_model(models / "LyCORIS" / "locon.safetensors", {"ss_v2": "False"}, **LORA)
    (models / "hypernetworks").mkdir()
    (models / "hypernetworks" / "anime.pt").write_bytes(b"")
    for name in ("my style", "Easy (negative)", "bad <b>hands", *(f"concept {n}" for n in range(30))):
        write_model(models / "embeddings" / f"{name}.safetensors", emb_params=(2, 768))
    write_model(models / "embeddings" / "tall.safetensors", emb_params=(1, 1024))
    for name in CHECKPOINTS:
        write_model(models / "Stable-diffusion" / f"{name}.safetensors")


def card(checkpoint: str) -> Card:
    metadata = {
        "modelspec.title": f"<i>{checkpoint}</i>",
        "modelspec.author": "somebody",
        "description": "Paints.\n" * 3,
    }
    family = "Stable Diffusion 1.x" if checkpoint == CHECKPOINTS[0] else "SDXL"
    return Card(checkpoint, checkpoint, family, "eps", 128, 23_450_000, "0123456789abcdef" * 4, metadata)


@dataclass(frozen=True)
class Pasted:
    """Options of a modifier of which some are pictures."""

    picture: str = option("", "Picture", kind="image")
    area: str = option("", "Area", kind="mask")
    title: str = option("", "Title")


class Cards:
    """Model cards that are changed in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Choices] = {}
        self.previews: dict[str, Image.Image] = {}

    def card(self, checkpoint: str) -> Card:
        kept = self.kept.get(checkpoint, Choices())
        return replace(card(checkpoint), choices=kept, preset=kept.preset)

    def choose(self, checkpoint: str, chosen: Choices) -> None:
        self.kept[checkpoint] = chosen

    def illustrate(self, checkpoint: str, image: Image.Image, infotext: str = "") -> None:
        self.previews[checkpoint] = image

    def convert(self, checkpoint: str) -> Path:
        raise NotFound("there is no pickle here")


@contextlib.contextmanager
def services(data_dir: Path, **changes: Any) -> Iterator[Services]:
    """Everything as in the program, but for the runner. The queue runs until the end of the block."""
    outputs = data_dir / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    models = data_dir / "models"
    if not models.is_dir():
        write_networks(models)
    host, shelf = Host(models=models), NetworkShelf(models, data_dir)
    builtin.register(host, shelf)
    tabs.register(host)
    executor = InlineExecutor(Painter(Gallery(outputs)))
    inputs = InputStore(data_dir / "inputs")
    context = ScriptContext(axes_of_params, lambda name: tables_of(host, lambda: CHECKPOINTS)[name](), inputs.put)
    scripts = Scripts(host, Gallery(outputs), context)
    queue = JobQueue(JobStore(data_dir / "reprise.db"), executor, EventHub(), scripts=scripts)
    queue.start()
    cards = Cards()
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
            "card": cards.card,
            "keeper": cards,
            "networks": Library(shelf, model_folders(models), data_dir, pages=host.file_pages),
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
    parser.add_argument("--pasting", action="store_true", help="with a modifier that has a picture for an option")
    parser.add_argument("--can-stop", action="store_true", help="a request may end the server")
    parser.add_argument("--head-s", type=float, default=HEAD_S, help="how long a client may take to send a head")
    args = parser.parse_args()
    from webui.server import create_app, listen, serve

    accounts = Accounts(args.data_dir / "users.db")
    for name, _, password in (user.partition(":") for user in args.user):
        accounts.add(name, password)
    proxies: dict[str, Any] = {"api": ApiPolicy(can_stop=args.can_stop)}
    proxies |= {"subpath": args.subpath, "trusted_proxies": tuple(args.trusted_proxy)}
    with services(args.data_dir, accounts=accounts, **proxies) as given:
        if args.pasting:
            given.host.add_modifier(ModifierSpec("pastes", "Pastes", Pasted, lambda _: Modifier()))
        app = create_app(given)
        for middleware in app.user_middleware:
            if getattr(middleware.cls, "__name__", "") == Guard.__name__ and args.body_s:
                middleware.kwargs["body_s"] = args.body_s
        serve(app, listen("127.0.0.1", args.port), trusted=args.trusted_proxy, head_s=args.head_s)


if __name__ == "__main__":
    main()
