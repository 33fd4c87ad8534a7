"""A1111's flags: the same in our words, nothing with a line, or refused."""

from __future__ import annotations

import pytest

import app
from modules.cli.a1111_flags import FAMILIES, FLAGS, translated
from modules.errors import UserError


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--server-name 127.0.0.1 --port 7861", "--host 127.0.0.1 --port 7861"),
        ("--server-name=::1", "--host ::1"),
        ("--no-half --autolaunch", "--dtype float32 --autolaunch"),
        ("--use-cpu all interrogate --theme dark", "--device cpu --theme dark"),
        ("--precision full --no-half-vae --medvram --xformers", ""),
        ("--ckpt-dir /models --opt-split-attention --skip-torch-cuda-test --port 80", "--ckpt-dir /models --port 80"),
        ("--freeze-settings", "--lock-settings all"),
        ("--lowvram generate fox --steps 3", "generate fox --steps 3"),
        ("generate --steps 3 fox --api", "generate --steps 3 fox"),
        ("--allowed-host=lan --data-dir=/x", "--allowed-host=lan --data-dir=/x"),
        ("", ""),
    ],
)
def test_flags_are_put_in_our_words(theirs: str, ours: str) -> None:
    assert translated(theirs.split())[0] == ours.split()


OF_A1111 = (
    "-f --add-stop-route --administrator --api --api-server-stop --clip-models-path=x --config=x --deepdanbooru "
    "--disable-all-extensions --disable-extra-extensions --disable-model-loading-ram-optimization --dump-sysinfo "
    "--freeze-settings-in-sections=x --gfpgan-dir=x --gfpgan-model=x --localizations-dir=x --ngrok-options={} "
    "--ngrok-region=eu --show-negative-prompt --test-server --textual-inversion-templates-dir=x --ui-debug-mode "
    "--unload-gfpgan --use-ipex --skip-load-model-at-start --dat-models-path=x --scunet-models-path=x "
    "--ldsr-models-path=x --lyco-dir-backcompat=x --unix-filenames-sanitization --filenames-max-length=9 "
    "--opt-channelslast"
)


@pytest.mark.parametrize("said", OF_A1111.split())
def test_a_flag_of_a1111_does_not_end_the_start_and_says_one_sentence(said: str) -> None:
    name, _, value = said.partition("=")
    for words in ([said], [name, value] if value else [name]):
        ours, notes = translated([*words, "--port", "7861"])
        assert app.build_parser().parse_args(ours).port == 7861
        assert len(notes) == 1 and notes[0].startswith(name), notes
        assert ". " not in notes[0]


def test_extensions_that_are_not_to_be_loaded_are_not() -> None:
    for flag in ("--disable-all-extensions", "--disable-extra-extensions"):
        assert app.build_parser().parse_args(translated([flag])[0]).no_extensions is True


def test_what_means_nothing_here_is_said_once_for_each() -> None:
    notes = translated(["--medvram", "--port", "80", "--opt-sdp-attention"])[1]
    assert [note.partition(" does nothing here: ")[0] for note in notes] == ["--medvram", "--opt-sdp-attention"]
    assert translated(["--no-half"])[1] == []


@pytest.mark.parametrize("flag", [name for name, found in FLAGS.items() if found.refused])
def test_what_opens_the_machine_is_refused_in_one_sentence(flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag} is not taken over: .*; leave it out$"):
        translated([flag, "x"])


def test_none_of_them_is_a_flag_of_ours_and_what_they_become_is_one() -> None:
    ours = app.build_parser().format_help()
    for flag, found in FLAGS.items():
        assert f" {flag} " not in ours, flag
        assert found.note or found.ours, flag
        for word in found.ours:
            assert not word.startswith("--") or word in ours
    for start in FAMILIES:
        assert f" {start}" not in ours
