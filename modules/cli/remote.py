"""``generate --server URL``: images made by a server, saved here."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from modules.cli.client import Client, FetchedImage, ServerError
from modules.errors import NotFound, OutputError, RepriseError, UserError
from modules.params.generation import GenerationParams, Init, ModifierOptions
from modules.params.options import SHA256

TOKEN = "REPRISE_TOKEN"
"""The environment's variable that holds the token of an account."""

PICTURES = ("image", "mask")
"""Kinds of options whose values are pictures."""


def generate(url: str, params: GenerationParams, chosen: Collection[str], output: Path | None, folder: Path) -> int:
    """Ask the server at ``url``, follow the job, and save what it made as ``output`` says, else in ``folder``.

    ``chosen``: what was said of the request; a size that was not said is the native one of the server's model.
    """
    try:
        client = Client(url, token=os.environ.get(TOKEN, ""))
        side = _native_size(client, params.checkpoint)
        params = params.changed(**{name: side for name in ("width", "height") if name not in chosen})
        if params.init:
            params = params.changed(init=_sent(client, params.init))
        if params.extensions:
            params = params.changed(extensions=_with_option_images(client, params.extensions))
        job = client.submit(params.to_json())
        ended = _followed(client, job)
        for number, image in enumerate(client.fetch(job)):
            _save(image, _place(image, number, job, output, folder))
    except ServerError as error:
        raise UserError(str(error), field=error.field or "server") from error
    if ended["type"] == "failed":
        raise RepriseError(str((ended.get("error") or {}).get("detail", "the job failed")))
    return 0 if ended["type"] == "done" else 130


def _native_size(client: Client, checkpoint: str) -> int:
    models = client.models()["checkpoints"]
    found = next((model for model in models if model["name"] == checkpoint), models[0] if models else {})
    return int(found.get("native_size") or 512)


def _sent(client: Client, init: Init) -> Init:
    """The start picture and the mask, put where the server's requests find them."""
    mask = replace(init.mask, image=client.put(_bytes(init.mask.image, "mask"))) if init.mask else None
    return replace(init, image=client.put(_bytes(init.image)), mask=mask)


def _with_option_images(client: Client, chosen: ModifierOptions) -> ModifierOptions:
    """The same with the files that options name as pictures put where the server's requests find them. The server
    knows which options these are: its extensions may be others than those here."""
    for modifier in client.modifiers():
        name = str(modifier["name"])
        for option, about in modifier["options"].items():
            path = chosen.get(name, {}).get(option)
            if about.get("x-kind") in PICTURES and isinstance(path, str) and path and not SHA256.fullmatch(path):
                key = client.put(_bytes(path, f"extensions.{name}.{option}"))
                chosen = chosen.having(name, {**chosen[name], option: key})
    return chosen


def _bytes(path: str, field: str = "init") -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint="give one picture", field=field) from error


def _followed(client: Client, job: str) -> dict[str, Any]:
    """The last event of a job; the others are told on the terminal."""
    event: dict[str, Any] = {"type": "failed"}
    for event in client.follow(job):
        if event["type"] == "note":
            print(event["text"], file=sys.stderr)
        if not sys.stderr.isatty():
            continue
        if event["type"] == "queued":
            print(f"\rplace {event['position']} in the queue\x1b[K", end="", file=sys.stderr, flush=True)
        if event["type"] == "step":
            told = "image {image} of {images}, step {step} of {steps}".format_map(event)
            print(f"\r{told}\x1b[K", end="", file=sys.stderr, flush=True)
    return event


def _place(image: FetchedImage, number: int, job: str, output: Path | None, folder: Path) -> Path:
    """fox.png, fox-2.png, ..., in the format that the server writes."""
    suffix = Path(image.name).suffix
    if output is None:
        return folder / f"{job[:8]}-{number + 1}{suffix}"
    return output.with_name(f"{output.stem}{f'-{number + 1}' if number else ''}{suffix}")


def _save(image: FetchedImage, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror})", hint="choose another with -o") from error
    seed = "" if image.seed is None else f"  seed {image.seed}"
    print(f"\r{path}{seed}\x1b[K" if sys.stderr.isatty() else path, flush=True)
