"""The settings on the page: what can be changed, what is locked, and what is wrong with their file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

import webui.page
from modules.accounts import ADMIN, USER, Accounts
from modules.extension.host import Owner
from modules.params.options import option, options_of, values_of
from modules.params.settings import Settings, SettingsFile
from tests.webui import controls
from tests.webui.fake_server import services
from webui.loading import Load
from webui.page import build_page


def page_with(tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    """The components of a page whose settings were opened with ``arguments``, by their ids."""
    settings = SettingsFile(tmp_path / "settings.json", **arguments)
    with services(tmp_path, settings=settings) as given:
        blocks = build_page(given)
    return {getattr(block, "elem_id", None) or str(block._id): block for block in blocks.blocks.values()}


def test_every_setting_stands_on_the_page_and_locked_ones_cannot_be_changed(tmp_path: Path) -> None:
    found = page_with(tmp_path, fixed={"theme": "dark"}, locked=["image_format"])
    own = controls.controls_in(str(block.value or "") for block in found.values() if isinstance(block, gr.HTML))
    for name, declared in options_of(Settings).items():
        control = own[f"settings_{name}"]
        locked = name in ("theme", "image_format")
        assert control.label == declared.label
        assert control.enabled is not locked, name
        assert ("Locked" in control.info) is locked
    assert "rp_trouble" not in found


@pytest.mark.parametrize("broken", [b"", b"[]", b'{"image_quality": 7000}', bytes(range(256))])
def test_a_broken_file_is_told_over_the_page(broken: bytes, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes(broken)
    banner = page_with(tmp_path)["rp_trouble"].value
    assert banner.startswith('<div class="rp-trouble" role="alert">The settings in ')
    assert "settings.json.bad" in banner


def test_what_was_set_is_kept_beside_what_others_keep(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"of_an_extension": 1}')
    SettingsFile(path).change({"form_steps": 30})
    kept = json.loads(path.read_text())
    assert (kept["of_an_extension"], kept["form_steps"]) == (1, 30)


def test_settings_are_changed_by_administrators_alone(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "users.db")
    accounts.add("ann", "a long password", ADMIN)
    accounts.add("uma", "a long password", USER)
    settings = SettingsFile(tmp_path / "settings.json")
    with services(tmp_path, settings=settings, accounts=accounts) as given:
        functions = [event.fn for event in build_page(given).fns.values() if event.fn]
    (save,) = [function for function in functions if function.__qualname__ == "build.<locals>.on_save"]
    values = json.dumps(values_of(Settings(form_steps=42)))
    assert "Settings are for administrators to change" in save(SimpleNamespace(username="uma"), values)[0]
    assert settings.current() == Settings()
    assert "The settings are saved" in save(SimpleNamespace(username="ann"), values)[0]
    assert settings.current().form_steps == 42


@dataclass(frozen=True)
class Mine:
    address: str = option("", "Address")
    api_key: str = option("", "Key", secret=True)


def test_values_of_extensions_go_to_administrators_alone_and_secrets_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is kept is in no answer and not on the page; an empty field keeps it, a blank deletes it."""
    accounts = Accounts(tmp_path / "users.db")
    accounts.add("ann", "a long password", ADMIN)
    accounts.add("uma", "a long password", USER)
    settings = SettingsFile(tmp_path / "settings.json")
    settings.change_part("mine", {"address": "ftp.example", "api_key": "rp-12345"})
    with services(tmp_path, settings=settings, accounts=accounts) as given:
        part = type(given.host)(Owner("mine", "1", permissions=frozenset({"setting"})))
        part.add_settings(Mine)
        given.host.take(part)
        loads: list[Load] = []
        monkeypatch.setattr(webui.page, "wire_loads", lambda _, some: loads.extend(some))
        blocks = build_page(given)
        assert "rp-12345" not in json.dumps(blocks.get_config_file(), default=str)
    functions = [event.fn for event in blocks.fns.values() if event.fn]
    (load,) = [one.handler for one in loads if "tabs.settings" in one.handler.__module__]
    (save,) = [one for one in functions if one.__qualname__ == "build.<locals>.on_save"]
    told = {name: str(load(SimpleNamespace(username=name))) for name in ("ann", "uma")}
    assert "ftp.example" in told["ann"] and "ftp.example" not in told["uma"]
    assert "rp-12345" not in told["ann"] + told["uma"]
    ours = values_of(Settings())
    for typed, kept in (("", "rp-12345"), ("rp-678", "rp-678"), ("", "rp-678"), (" ", "")):
        values = {**ours, "mine.address": "ftp.example", "mine.api_key": typed}
        answer = save(SimpleNamespace(username="ann"), json.dumps(values))
        assert settings.part("mine") == {"address": "ftp.example", "api_key": kept}
        assert "rp-" not in str(answer).replace('class="rp-', "")
