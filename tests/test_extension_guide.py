"""The author's guide tells of all that an extension can do."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import modules
from modules.extension.host import Host, TabPage
from modules.extension.manifest import PERMISSIONS, Manifest
from modules.extension.modifier import HOOKS, Modifier
from webui import extension_tabs as extending

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "extensions" / "README.md").read_text(encoding="utf-8")


def methods(cls: type) -> list[str]:
    return [name for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("_")]


def test_guide_names_every_hook() -> None:
    assert tuple(name for name in methods(Modifier) if name in HOOKS) == HOOKS
    for name in HOOKS:
        assert re.search(rf"^\| `{name}\([\w, ]+\)` \|", GUIDE, re.M), name
    for name in methods(Modifier):
        assert f"`{name}(" in GUIDE, name


def test_guide_names_every_method_that_register_may_call() -> None:
    for name in [name for name in methods(Host) if name.startswith("add_")] + ["flag"]:
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
