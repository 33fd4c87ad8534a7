"""What a job says before its images are made."""

from __future__ import annotations

from pathlib import Path

import torch

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine
from modules.extension.host import Host
from modules.params.generation import GenerationParams, Refiner
from modules.pipeline.results import RunCallbacks


def test_a_refiner_of_another_family_is_named(tmp_path: Path) -> None:
    host, notes = Host(), list[str]()
    register(host)
    write_tiny_checkpoint(tmp_path / "x.safetensors")
    write_tiny_checkpoint(tmp_path / "twin.safetensors")
    write_tiny_checkpoint(tmp_path / "xl.safetensors", family="sdxl-refiner")
    engine = Engine(ModelStore(tmp_path, Device(torch.device("cpu"), torch.float32), Hashes()), host, version="0.0")
    for refiner in ("twin", "xl"):
        params = GenerationParams(checkpoint="x", width=64, height=64, steps=2, refiner=Refiner(refiner, 0.5))
        engine.run(params, lambda result: None, RunCallbacks(on_note=notes.append))
    (note,) = notes
    assert note.startswith("the refiner xl is of the family SDXL refiner and x of Stable Diffusion 1.x")
