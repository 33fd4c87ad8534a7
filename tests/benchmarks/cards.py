"""Two thousand LoRAs in the panel of networks and in the HTTP API: the list when nothing is read yet, then as it is."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from starlette.testclient import TestClient

from tests.benchmarks.clock import interleaved
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.server import create_app

COUNT = 2000
QUESTIONS = {
    "panel, first page": "/page/networks?kind=lora",
    "panel, search": "/page/networks?kind=lora&search=brush%20folder3",
    "panel, last page": f"/page/networks?kind=lora&offset={COUNT - 60}",
    "API, 500 cards": "/api/v1/networks?kind=lora",
    "API, search": "/api/v1/networks?kind=lora&search=brush%20folder3",
}


def main() -> None:
    measure(COUNT, rounds=5)


def measure(count: int, rounds: int) -> None:
    """Milliseconds of each question, the first one before anything was read."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write(data / "models" / "Lora", count)
        with services(data) as made, TestClient(create_app(made), base_url=ORIGIN) as web:
            web.get("/healthz")
            begin = time.perf_counter()
            unread = web.get(QUESTIONS["panel, first page"]).json()["unread"]
            print(f"unread, first page: {_ms(time.perf_counter() - begin)}, {unread} of {count} not read yet")
            while web.get("/api/v1/networks?limit=1").json()["unread"]:
                time.sleep(0.1)
            print(f"read in the background after {time.perf_counter() - begin:.1f} s")
            ways: dict[str, Callable[[], Any]] = {name: partial(web.get, path) for name, path in QUESTIONS.items()}
            for name, taken in interleaved(ways, rounds).items():
                print(f"{name}: {_ms(taken)}")


def write(folder: Path, count: int) -> None:
    """Small files with a trainer's metadata, in twenty folders; a third with notes, a third with a preview."""
    tensors = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": np.zeros((1, 4), np.float16)}
    for n in range(count):
        path = folder / f"folder{n % 20}" / f"network {n}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = {f"10_{n}": {"brush" if n % 2 else "ink": 12, "paper": 7, f"word{n}": 3}}
        about = {"ss_output_name": f"alias {n}", "ss_v2": "False", "ss_tag_frequency": json.dumps(tags)}
        save_file(tensors, path, metadata=about)
        if n % 3 == 0:
            notes = {"activation text": f"trigger {n}", "preferred weight": 0.7, "notes": "skies"}
            path.with_suffix(".json").write_text(json.dumps(notes), encoding="utf-8")
        if n % 3 == 1:
            path.with_suffix(".png").write_bytes(b"")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
