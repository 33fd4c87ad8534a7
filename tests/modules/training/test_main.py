from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules.devices import Device
from modules.training import __main__ as command
from modules.training import loop, unet
from modules.training.config import Config, Start, load
from modules.training.sampling import Painter


def arguments(*words: str, folder: Path = Path("data")) -> argparse.Namespace:
    return command.arguments([*words, "--folder", str(folder)])


def test_without_minutes_all_stages_run_and_the_steps_count() -> None:
    args = arguments("all")
    settings = command.settings_of(args)
    sharpened = replace(settings.sharpen, run=replace(settings.sharpen.run, steps=10))
    assert command.stages(args, replace(settings, start=Start(), sharpen=sharpened)) == command.STAGES
    assert set(command.STAGES) - set(command.stages(args, settings)) == {"text", "sharpen"}
    assert command.by_the_clock(settings, 0.0) == settings


def test_under_the_clock_only_what_leads_to_a_file_is_done() -> None:
    args = arguments("all", "--minutes", "10")
    assert command.stages(args, load()) == ("render", "vae", "latents", "unet", "export")
    assert "text" in command.stages(args, replace(load(), start=Start()))
    assert command.stages(arguments("unet", "--minutes", "5"), load()) == ("unet",)


def test_the_command_line_says_how_many_pictures_and_for_how_long() -> None:
    settings = command.settings_of(arguments("render", "--pictures", "500", "--processes", "14"))
    assert (settings.data.pictures, settings.data.encoded, settings.processes) == (500, 500, 14)
    timed = command.by_the_clock(settings, 7.0)
    assert {run.minutes for run in (timed.autoencoder.run, timed.diffusion.run, timed.sharpen.run)} == {7.0}
    assert timed.judge.minutes == 0


def test_nothing_is_compiled_beside_without_a_card_or_a_wish(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "compile_once", None)  # would fail where it is called
    with command.compiling_beside(load(), wanted=True):  # on a CPU
        pass
    monkeypatch.setattr(loop, "device", lambda: torch.device("cuda"))
    with command.compiling_beside(load(), wanted=False), command.compiling_beside(tiny, wanted=True):
        pass


def test_a_process_that_compiles_beside_ends_with_the_stages_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(unet, "compile_once", sleep_long)
    with command.compiling_beside(load(), wanted=True):
        (child,) = multiprocessing.active_children()
        assert child.is_alive()
    assert not multiprocessing.active_children()


def sleep_long(_settings: Config) -> None:
    time.sleep(600)


def test_each_stage_has_what_is_left_of_the_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten, of which three are gone: the autoencoder ends after four, the diffusion model after nine and a half."""
    given: dict[str, float] = {}
    monkeypatch.setattr(
        command, "run", lambda stage, settings, args: given.update({stage: settings.diffusion.run.minutes})
    )
    monkeypatch.setattr(time, "monotonic", lambda: 1180.0)
    command.run_all(("vae", "unet"), arguments("all", "--minutes", "10"), load(), started=1000.0)
    assert given == {"vae": pytest.approx(1.0), "unet": pytest.approx(6.5)}
    command.run_all(("unet",), arguments("unet", "--minutes", "10"), load(), started=1180.0)
    assert given["unet"] == pytest.approx(10.0)


def test_from_drawings_to_a_file_that_paints_and_on_from_there(
    tiny: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage by the clock; then a second run whose diffusion model begins with the first one's file."""
    path = tmp_path / "tiny.safetensors"
    args = command.arguments(["all", str(path), "--folder", str(tmp_path), "--minutes", "1"])
    settings = command.by_the_clock(replace(tiny, captions=replace(tiny.captions, steps=1)), 0.001)
    for stage in command.stages(args, settings):
        command.run(stage, settings, args)
    painter = Painter.of(path, Device(torch.device("cpu"), torch.float32))
    assert painter.paint(["a cat"], [1], side=32, steps=2).shape == (1, 32, 32, 3)

    before = load_file(path)
    again = replace(settings, start=Start(path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
    (tmp_path / "unet.pt").unlink()
    for stage in ("unet", "export"):
        command.run(stage, again, args)
    changed = {name for name, value in load_file(path).items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith("first_stage_model.") for name in changed)
    assert capsys.readouterr().out.count(" 0 skipped") >= 2
