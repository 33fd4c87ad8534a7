"""Settings on the disk: replaced whole, and never a reason not to start."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.errors import OutputError, UserError
from modules.params.generation import GenerationParams
from modules.params.options import options_of
from modules.params.settings import FORM, Settings, SettingsFile, load, save
from modules.storage import atomic

BROKEN = {
    "empty": b"",
    "cut off": b'{"warm_up": fal',
    "binary": bytes(range(256)),
    "a list": b"[1, 2]",
    "deep": b'{"a":' * 100_000,
    "huge": b'{"a": "' + b"x" * 2_000_000 + b'"}',
    "wrong type": b'{"preview_every": {"a": 1}}',
    "out of range": b'{"preview_every": -5}',
    "not a number": b'{"preview_every": NaN}',
    "endless digits": b'{"preview_every": ' + b"9" * 10_000 + b"}",
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "data" / "settings.json"
    changed = Settings(warm_up=False, preview_every=5)
    save(changed, path)
    assert load(path) == (changed, "")
    assert [file.name for file in path.parent.iterdir()] == ["settings.json"]


def test_no_file_is_defaults_without_a_word(tmp_path: Path) -> None:
    assert load(tmp_path / "settings.json") == (Settings(), "")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_defaults_is_kept_and_is_told(name: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(BROKEN[name])
    start = time.process_time()
    settings, message = load(path)
    assert settings == Settings()
    assert message.startswith(f"the settings in {path.name} could not all be used")
    assert message.endswith("the old file is kept as settings.json.bad")
    assert (tmp_path / "settings.json.bad").read_bytes() == BROKEN[name]
    assert load(path) == (Settings(), "")
    assert time.process_time() - start < 20.0  # far less on a free core; by the square it would be minutes


def test_a_folder_in_its_place_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.mkdir()
    settings, message = load(path)
    assert settings == Settings()
    assert "settings.json.bad" in message


def test_what_is_good_in_a_broken_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"preview_every": 1000, "warm_up": false}')
    settings, message = load(path)
    assert settings == Settings(warm_up=False)
    assert "Preview every N steps must be between 0 and 150, not 1000" in message


def test_keys_of_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"of_an_extension": [1], "preview_every": 3}')
    settings, message = load(path)
    assert (settings, message) == (Settings(preview_every=3), "")
    save(Settings(preview_every=4), path)
    ours = dataclasses.asdict(Settings(preview_every=4))
    assert json.loads(path.read_text()) == {"of_an_extension": [1], **ours}


def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.json"
    save(Settings(preview_every=2), path)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        save(Settings(preview_every=3), path)
    assert load(path) == (Settings(preview_every=2), "")
    assert [file.name for file in tmp_path.iterdir()] == ["settings.json"]


def test_a_change_is_saved_and_holds_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    settings = SettingsFile(path)
    assert settings.change({"preview_every": "4", "theme": "dark"}).preview_every == 4
    assert settings.current() == load(path)[0] == Settings(preview_every=4, theme="dark")
    with pytest.raises(UserError, match="Picture quality must be between 1 and 100, not 1000") as bad:
        settings.change({"image_quality": 1000, "preview_every": 7})
    assert bad.value.field == "image_quality"
    assert settings.current() == SettingsFile(path).current() == Settings(preview_every=4, theme="dark")


def test_what_a_flag_fixes_and_what_is_locked_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    save(Settings(theme="light", image_format="webp"), path)
    settings = SettingsFile(path, fixed={"theme": "dark"}, locked=["image_format"])
    assert settings.locked == {"theme", "image_format"}
    changed = settings.change({"theme": "system", "image_format": "jpg", "preview_every": 9})
    assert (changed.theme, changed.image_format, changed.preview_every) == ("dark", "webp", 9)
    assert load(path)[0] == Settings(theme="light", image_format="webp", preview_every=9)  # a flag is not written down
    with pytest.raises(UserError, match="no setting named 'tint'"):
        SettingsFile(path, locked=["tint"])


def test_trouble_with_the_file_is_told_and_the_next_change_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("no JSON")
    settings = SettingsFile(path)
    assert settings.trouble.endswith("the old file is kept as settings.json.bad")
    settings.change({"preview_every": 2})
    assert SettingsFile(path).trouble == ""


def test_what_a_new_page_begins_with_are_parameters_as_they_are_declared() -> None:
    ours, theirs = options_of(Settings), options_of(GenerationParams)
    for setting, name in FORM.items():
        for fact in ("type", "default", "lo", "hi", "choices", "label"):
            assert getattr(ours[setting], fact) == getattr(theirs[name], fact), (setting, fact)


def test_every_setting_has_a_heading_and_says_what_it_does() -> None:
    for option in options_of(Settings).values():
        assert option.group, option.name
        assert option.help, option.name


def test_what_an_extension_keeps_stands_beside_the_programs_own(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    file = SettingsFile(path)
    assert file.part("tuned") == {}
    file.change({"image_quality": 70})
    file.change_part("tuned", {"amount": 0.7})
    file.change({"image_quality": 80})
    assert file.part("tuned") == {"amount": 0.7}
    assert SettingsFile(path).part("tuned") == {"amount": 0.7}
    assert SettingsFile(path).current().image_quality == 80
    path.write_text('{"tuned": 3}')
    assert SettingsFile(path).part("tuned") == {}


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let reading fail with an error's number; 0: no more."""
    read, now = Path.read_bytes, [0]

    def fail(path: Path) -> bytes:
        if now[0]:
            raise OSError(now[0], os.strerror(now[0]))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    return lambda code: now.__setitem__(0, code)


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ESTALE])
def test_a_file_that_cannot_be_read_now_loses_nothing(
    code: int, tmp_path: Path, unreadable: Callable[[int], None]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"theme": "dark", "preview_every": 7, "tuned": {"amount": 0.7}}')
    before = path.read_bytes()
    unreadable(code)
    settings, message = load(path)
    assert settings == Settings() and message.endswith(f"{os.strerror(code)}; nothing is lost")
    file = SettingsFile(path)
    assert file.trouble == message and file.current() == Settings() and file.part("tuned") == {}
    for change in (lambda: file.change({"theme": "light"}), lambda: file.change_part("tuned", {"amount": 0.1})):
        with pytest.raises(OutputError, match=r"the settings were not saved, because those in .* would be lost"):
            change()
    with pytest.raises(OutputError, match="would be lost"):
        save(Settings(), path)
    unreadable(0)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["settings.json"]
    assert file.current() == Settings(theme="dark", preview_every=7)  # as soon as it can be read
    assert file.trouble == ""
    assert file.change({"preview_every": 9}) == Settings(theme="dark", preview_every=9)
    assert json.loads(path.read_bytes())["tuned"] == {"amount": 0.7}


def test_a_file_that_cannot_be_read_during_a_change_loses_nothing(
    tmp_path: Path, unreadable: Callable[[int], None]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"theme": "dark", "tuned": {"amount": 0.7}}')
    file = SettingsFile(path)
    unreadable(errno.EMFILE)
    with pytest.raises(OutputError, match="Too many open files; try again in a moment"):
        file.change({"theme": "light"})
    assert file.current().theme == "dark"
    unreadable(0)
    file.change({"theme": "light"})
    assert file.part("tuned") == {"amount": 0.7}


def test_a_file_that_someone_broke_while_we_ran_is_kept_beside_the_saved_one(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    file = SettingsFile(path)
    path.write_text('{"theme": "dark", "tuned": {"amount": 0.7}')  # a bracket is missing
    file.change({"preview_every": 3})
    assert (tmp_path / "settings.json.bad").read_text() == '{"theme": "dark", "tuned": {"amount": 0.7}'
    assert load(path) == (Settings(preview_every=3), "")


def test_one_bad_value_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"preview_every": 1000, "theme": "dark", "tuned": {"amount": 0.7}}')
    assert SettingsFile(path).current() == Settings(theme="dark")
    assert (tmp_path / "settings.json.bad").is_file()
    again = SettingsFile(path)
    assert (again.trouble, again.current(), again.part("tuned")) == ("", Settings(theme="dark"), {"amount": 0.7})


def test_half_a_character_is_in_no_setting(tmp_path: Path) -> None:
    """A file name's pattern with one would keep every picture from being saved."""
    path = tmp_path / "settings.json"
    with pytest.raises(UserError, match="File name holds half a character"):
        SettingsFile(path).change({"file_name": "[seed]\ud800"})
    path.write_text('{"file_name": "[seed]\\ud800", "theme": "dark"}')
    assert SettingsFile(path).current() == Settings(theme="dark")


def test_a_settings_file_that_has_its_name_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic, "sync_folder", fail)
    file = SettingsFile(tmp_path / "settings.json")
    assert file.change({"preview_every": 4}).preview_every == 4
    assert load(file.path)[0] == Settings(preview_every=4)
