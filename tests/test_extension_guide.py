"""The author's guide tells of all that an extension can do."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import modules
from modules.extension.contexts import Step
from modules.extension.host import Host, TabPage
from modules.extension.manifest import PERMISSIONS, Manifest
from modules.extension.modifier import HOOKS, HOOKS_2, Modifier
from modules.extension.patcher import Patcher
from webui import extension_tabs as extending

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "extensions" / "README.md").read_text(encoding="utf-8")


def methods(cls: type) -> list[str]:
    return [name for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("_")]


def test_guide_names_every_hook() -> None:
    assert tuple(name for name in methods(Modifier) if name in HOOKS) == HOOKS
    assert tuple(name for name in methods(Modifier) if name in HOOKS_2) == tuple(HOOKS_2)
    for name in (*HOOKS, *HOOKS_2):
        assert re.search(rf"^\| `{name}\([\w, ]+\)` \|", GUIDE, re.M), name
    for name in methods(Modifier):
        assert f"`{name}(" in GUIDE, name


def test_guide_names_every_fact_of_a_step_and_every_method_that_modify_may_call() -> None:
    for name in ("x", "sigma", "step", "steps", "call", "pass_", "cond", "uncond", "seeds", "image_numbers", "network"):
        assert name in Step.__dataclass_fields__ and f"`{name}`" in GUIDE, name
    for name in ("attention", "block", "skip", "attributes", "weights", "layers"):
        assert callable(getattr(Patcher, name)) and f"`model.{name}(" in GUIDE, name


def test_guide_names_every_method_that_register_may_call() -> None:
    for name in [name for name in methods(Host) if name.startswith("add_")] + ["flag", "reads_key", "model_files"]:
        assert re.search(rf"^\| `{name}\(", GUIDE, re.M), name
    for name in methods(TabPage):
        assert f"| `page.{name}(" in GUIDE, name


def test_guide_names_every_permission_and_every_field_of_the_manifest() -> None:
    for permission in PERMISSIONS:
        assert f"| `{permission}` |" in GUIDE, permission
    assert set(Host().tables()) == PERMISSIONS
    for name in Manifest.__dataclass_fields__:
        assert re.search(rf"^{name} = |^\[\[{name}\]\]", GUIDE, re.M), name


def test_tabs_are_given_what_the_guide_promises() -> None:
    for name in methods(TabPage):
        assert callable(getattr(extending.TabPage, name))


@pytest.mark.parametrize("name", modules.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(importlib.import_module("modules"), name) is not None


@pytest.mark.parametrize(("former", "now"), [("Answer", "Outcome"), ("Made", "GeneratedImage"), ("Turn", "Round")])
def test_what_a_public_name_was_called_before_still_means_it(former: str, now: str) -> None:
    assert getattr(modules, former) is getattr(modules, now)


def test_no_name_is_public_by_accident() -> None:
    assert sorted(modules.__all__) == sorted(modules._HOMES)
    with pytest.raises(AttributeError, match="no public name 'Engine'"):
        _ = modules.Engine


CALLBACKS = """app_started before_reload model_loaded ui_tabs ui_train_tabs ui_settings before_image_saved image_saved
extra_noise cfg_denoiser cfg_denoised cfg_after_cfg before_component after_component image_grid infotext_pasted
script_unloaded before_ui list_optimizers list_unets before_token_counter"""
METHODS = """title ui show run setup before_process process before_process_batch after_extra_networks_activate
process_batch process_before_every_sampling postprocess_batch postprocess_batch_list on_mask_blend post_sample
postprocess_image postprocess_maskoverlay postprocess before_component after_component on_before_component
on_after_component describe elem_id before_hr infotext_fields paste_field_names"""
"""All that an extension of A1111 v1.10.1 may register or override."""


@pytest.mark.parametrize("name", dict.fromkeys([*(f"on_{name}" for name in CALLBACKS.split()), *METHODS.split()]))
def test_guide_says_of_each_callback_of_a1111_how_it_is_done_here(name: str) -> None:
    rows = re.findall(rf"^\| (?:`\w+`, )*`{name}`(?:, `\w+`)* \| ([\w ]+) \| (.+) \|$", GUIDE, re.M)
    assert rows, name
    for how, words in rows:
        assert how in ("covered", "by another way", "not"), name
        assert how != "not" or ";" in words or "," in words, f"{name}: no reason"
