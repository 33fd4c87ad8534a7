"""A1111's flags: the same in our words, nothing with a line, or left out because they would open the machine."""

from __future__ import annotations

import pytest

import app
from modules.cli.a1111_flags import FAMILIES, FLAGS, SECTIONS, SETTINGS, translated
from modules.params.options import options_of
from modules.params.settings import Settings
from webui.api.sdapi.options import KNOWN


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--server-name 127.0.0.1 --port 7861", "--host 127.0.0.1 --port 7861"),
        ("--server-name=::1", "--host ::1"),
        ("--no-half --autolaunch", "--dtype float32 --autolaunch"),
        ("--use-cpu all interrogate --theme dark", "--device cpu --theme dark"),
        ("--precision full --no-half-vae --medvram --xformers", "--medvram"),
        ("--ckpt-dir /models --opt-split-attention --skip-torch-cuda-test --port 80", "--ckpt-dir /models --port 80"),
        ("--freeze-settings", "--lock-settings all --lock-a1111-settings all"),
        ("--freeze-specific-settings a,b", "--lock-a1111-settings a,b"),
        ("--freeze-settings-in-sections=ui", "--lock-a1111-sections ui"),
        ("--lowram generate fox --steps 3", "generate fox --steps 3"),
        ("--lowvram --use-ipex --device-id 1", "--lowvram --device xpu --device-id 1"),
        ("generate --steps 3 fox --api", "generate --steps 3 fox"),
        ("--allowed-host=lan --data-dir=/x", "--allowed-host=lan --data-dir=/x"),
        ("--share --port 80", "--port 80"),
        ("--gradio-allowed-path / --port 80", "--port 80"),
        ("", ""),
    ],
)
def test_flags_are_put_in_our_words(theirs: str, ours: str) -> None:
    assert translated(theirs.split())[0] == ours.split()


def words(text: str) -> list[str]:
    return text.split()


SAME = words(
    """
    --data-dir=x --models-dir=x --ckpt=x --ckpt-dir=x --vae-dir=x --lora-dir=x --embeddings-dir=x --hypernetwork-dir=x
    --listen --port=7861 --styles-file=x --autolaunch --theme=dark --tls-keyfile=x --tls-certfile=x --subpath=x
    --cors-allow-origins=https://a.example --cors-allow-origins-regex=https://.*[.]example --api-server-stop
    --dump-sysinfo --device-id=0 --medvram --lowvram
    """
)
"""Flags of A1111 1.10 that are flags here, with the same meaning, as far as the machine has what they are about."""
IN_OUR_WORDS = words(
    """
    --server-name=::1 --nowebui --no-half --use-cpu=all --freeze-settings --freeze-settings-in-sections=x
    --freeze-specific-settings=x --esrgan-models-path=x --realesrgan-models-path=x --bsrgan-models-path=x
    --swinir-models-path=x --dat-models-path=x --gfpgan-models-path=x --gfpgan-dir=x --codeformer-models-path=x
    --lyco-dir-backcompat=x --disable-all-extensions --disable-extra-extensions --use-ipex
    """
)
WITHOUT_EFFECT = words(
    """
    -f --update-all-extensions --skip-python-version-check --skip-torch-cuda-test --reinstall-xformers
    --reinstall-torch --update-check --log-startup --skip-prepare-environment --skip-install --skip-version-check
    --tests=x --no-tests --config=x --gfpgan-model=x --no-half-vae --no-progressbar-hiding --max-batch-count=9
    --textual-inversion-templates-dir=x --localizations-dir=x --medvram-sdxl --lowram
    --always-batch-cond-uncond --unload-gfpgan --precision=full --upcast-sampling --ngrok-region=eu --ngrok-options={}
    --clip-models-path=x --xformers --force-enable-xformers --xformers-flash-attention --deepdanbooru
    --opt-split-attention --opt-sub-quad-attention --sub-quad-q-chunk-size=9 --sub-quad-kv-chunk-size=9
    --sub-quad-chunk-threshold=9 --opt-split-attention-invokeai --opt-split-attention-v1 --opt-sdp-attention
    --opt-sdp-no-mem-attention --disable-opt-split-attention --disable-nan-check --show-negative-prompt
    --ui-config-file=x --hide-ui-dir-config --ui-settings-file=x --gradio-debug --gradio-auth=x --gradio-auth-path=x
    --gradio-img2img-tool=x --gradio-inpaint-tool=x --opt-channelslast --use-textbox-seed
    --disable-console-progressbars --enable-console-prompts --vae-path=x --api --api-auth=x --api-log --ui-debug-mode
    --administrator --disable-tls-verify --gradio-queue --no-gradio-queue --no-hashing --no-download-sd-model
    --add-stop-route --timeout-keep-alive=9 --disable-model-loading-ram-optimization --do-not-download-clip
    --no-prompt-history --loglevel=INFO --test-server --skip-load-model-at-start --unix-filenames-sanitization
    --filenames-max-length=9 --scunet-models-path=x --ldsr-models-path=x
    """
)
LEFT_OUT = words(
    """
    --share --ngrok=token --allow-code --enable-insecure-extension-access --disable-safe-unpickle
    --gradio-allowed-path=/
    """
)


def ways(said: str) -> list[list[str]]:
    """A flag and its value, in one word and in two."""
    name, _, value = said.partition("=")
    return [[said], [name, value]] if value else [[name]]


@pytest.mark.parametrize("said", [*SAME, *IN_OUR_WORDS, *WITHOUT_EFFECT, *LEFT_OUT])
def test_no_flag_of_a1111_ends_the_start(said: str) -> None:
    for words in ways(said):
        ours, notes = translated([*words, "--port", "7861"])
        assert app.build_parser().parse_args(ours).port == 7861
        assert all(note.startswith(said.partition("=")[0]) and ". " not in note for note in notes)


@pytest.mark.parametrize("said", [*WITHOUT_EFFECT, *LEFT_OUT])
def test_a_flag_that_changes_nothing_says_so_in_one_sentence(said: str) -> None:
    verb = "is left out: " if said in LEFT_OUT else "does nothing here: "
    for words in ways(said):
        ours, (note,) = translated(words)
        assert ours == [] and note.startswith(f"{words[0].partition('=')[0]} {verb}"), note


def test_extensions_that_are_not_to_be_loaded_are_not() -> None:
    for flag in ("--disable-all-extensions", "--disable-extra-extensions"):
        assert app.build_parser().parse_args(translated([flag])[0]).no_extensions is True


def test_what_means_nothing_here_is_said_once_for_each() -> None:
    notes = translated(["--lowram", "--port", "80", "--opt-sdp-attention"])[1]
    assert [note.partition(" does nothing here: ")[0] for note in notes] == ["--lowram", "--opt-sdp-attention"]
    assert translated(["--no-half"])[1] == []


def test_none_of_them_is_a_flag_of_ours_and_what_they_become_is_one() -> None:
    ours = app.build_parser().format_help()
    for flag, found in FLAGS.items():
        assert f" {flag} " not in ours, flag
        assert found.note or found.ours, flag
        for word in found.ours:
            assert not word.startswith("--") or word in ours
    for start in FAMILIES:
        assert f" {start}" not in ours


def test_what_is_frozen_by_a1111s_names_is_locked_here_too() -> None:
    assert set(SETTINGS) <= set(KNOWN) and set(SETTINGS.values()) <= set(options_of(Settings))
    assert {name for names in SECTIONS.values() for name in names} <= set(KNOWN)
    said = ["--freeze-specific-settings", "samples_format,no_such", "--freeze-settings-in-sections", "VAE"]
    args = app.build_parser().parse_args(translated(said)[0])
    args.data_dir = args.data_dir / "none"
    assert app.build_settings(args).locked == {"image_format"}
    assert app.build_policy(args).frozen == {"samples_format", "no_such", "sd_vae"}
