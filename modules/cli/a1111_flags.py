"""Translates A1111's command line flags, so that existing start scripts work.

A flag of the same meaning is put in our words; one that has nothing to do here, or that would open the machine to
others, is left out with a line that says so. None ends the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

NONE, ONE, SOME = 0, 1, 2
"""How many values a flag takes; some: up to the next flag."""


@dataclass(frozen=True)
class Foreign:
    """An A1111 flag. ``ours`` are the equivalent arguments, with ``{}`` standing for its value."""

    note: str = ""
    values: int = NONE
    ours: tuple[str, ...] = ()
    left_out: bool = False
    """It would open the machine to others."""


MEMORY = "memory is seen to without flags"
NETWORKS = "there is no such upscaler here; ESRGAN, SwinIR, DAT and HAT are read"
ATTENTION = "attention is computed by torch's own kernels"
UPSCALERS = ("--upscaler-dir", "{}")
RESTORERS = ("--face-restorer-dir", "{}")
QUEUE = "jobs always queue"
UI_FILES = "settings are in settings.json, in --data-dir; the Settings tab changes them"
CHECKS = "there is no such check at start"
LOGS = "the log goes to the terminal, errors and what the worker says"
UPDATES = "nothing is downloaded or updated behind your back"
LOGIN = "accounts are made with: python3 app.py user add NAME, and once there is one everybody logs in"
EXTENSIONS = "no extension is loaded, those that come with Reprise neither"
TUNNEL = "no tunnel to another company's server is ever opened"
CARDS = "an Intel card is used where torch can use it: --device xpu says so"
NEVER = "in A1111 it has no effect either"
ACCOUNTS = "the page would be open to everybody who knows the address"

FLAGS: Mapping[str, Foreign] = {
    # the same in other words
    "--server-name": Foreign(values=ONE, ours=("--host", "{}")),
    "--nowebui": Foreign(ours=("--api-only",)),
    "--no-half": Foreign(ours=("--dtype", "float32")),
    "--use-cpu": Foreign("all of it runs on the CPU", SOME, ours=("--device", "cpu")),
    "--freeze-settings": Foreign(ours=("--lock-settings", "all", "--lock-a1111-settings", "all")),
    "--freeze-specific-settings": Foreign(values=ONE, ours=("--lock-a1111-settings", "{}")),
    "--freeze-settings-in-sections": Foreign(values=ONE, ours=("--lock-a1111-sections", "{}")),
    "--esrgan-models-path": Foreign(values=ONE, ours=UPSCALERS),
    "--realesrgan-models-path": Foreign(values=ONE, ours=UPSCALERS),
    "--bsrgan-models-path": Foreign(values=ONE, ours=UPSCALERS),
    "--swinir-models-path": Foreign(values=ONE, ours=UPSCALERS),
    "--dat-models-path": Foreign(values=ONE, ours=UPSCALERS),
    "--gfpgan-models-path": Foreign(values=ONE, ours=RESTORERS),
    "--gfpgan-dir": Foreign(values=ONE, ours=RESTORERS),
    "--codeformer-models-path": Foreign(values=ONE, ours=RESTORERS),
    "--lyco-dir-backcompat": Foreign(values=ONE, ours=("--lora-dir", "{}")),
    "--lyco-dir": Foreign(values=ONE, ours=("--lora-dir", "{}")),
    "--disable-all-extensions": Foreign(EXTENSIONS, ours=("--no-extensions",)),
    "--disable-extra-extensions": Foreign(EXTENSIONS, ours=("--no-extensions",)),
    # nothing to do here
    "--gradio-auth": Foreign(LOGIN, ONE),
    "--gradio-auth-path": Foreign(LOGIN, ONE),
    "--api-auth": Foreign(LOGIN, ONE),
    "--disable-tls-verify": Foreign("a self-signed certificate is served like any other: nothing here asks for it"),
    "--api": Foreign("A1111's HTTP API is always served, below /sdapi/v1, and Reprise's own below /api/v1"),
    "--add-stop-route": Foreign(
        "--api-server-stop lets an administrator end the server, by POST /sdapi/v1/server-stop"
    ),
    "--xformers": Foreign(ATTENTION),
    "--force-enable-xformers": Foreign(ATTENTION),
    "--xformers-flash-attention": Foreign(ATTENTION),
    "--disable-opt-split-attention": Foreign(ATTENTION),
    "--reinstall-xformers": Foreign(UPDATES),
    "--reinstall-torch": Foreign(UPDATES),
    "--update-check": Foreign(UPDATES),
    "--update-all-extensions": Foreign(UPDATES),
    "--do-not-download-clip": Foreign(UPDATES),
    "--no-download-sd-model": Foreign(UPDATES),
    "--medvram-sdxl": Foreign("what has to leave a card does so by itself, SDXL's networks before others"),
    "--lowram": Foreign(MEMORY),
    "--unload-gfpgan": Foreign(NEVER),
    "--disable-model-loading-ram-optimization": Foreign(
        "checkpoints are always loaded without a second copy in memory"
    ),
    "--always-batch-cond-uncond": Foreign(MEMORY),
    "--use-ipex": Foreign(CARDS, ours=("--device", "xpu")),
    "--opt-channelslast": Foreign("weights are laid out in the order that suits the device, without a flag"),
    "--no-half-vae": Foreign("--dtype chooses the number format, for the VAE too"),
    "--upcast-sampling": Foreign("sampling is always in float32"),
    "--precision": Foreign("--dtype chooses the number format: float32, bfloat16 or float16", ONE),
    "--disable-nan-check": Foreign("a picture that is not a number is an error"),
    "--no-hashing": Foreign("hashes are what replay is built on; each file is read for it once"),
    "--vae-path": Foreign("the VAE is chosen on the page", ONE),
    "--scunet-models-path": Foreign(NETWORKS, ONE),
    "--ldsr-models-path": Foreign(NETWORKS, ONE),
    "--gfpgan-model": Foreign("of several versions of GFPGAN the last one is taken", ONE),
    "--clip-models-path": Foreign("there is no CLIP interrogator that would need models", ONE),
    "--deepdanbooru": Foreign(NEVER),
    "--config": Foreign("what a checkpoint is, is read from the file itself, so no config file is needed", ONE),
    "--textual-inversion-templates-dir": Foreign("embeddings are used here and not trained", ONE),
    "--no-gradio-queue": Foreign(QUEUE),
    "--gradio-queue": Foreign(QUEUE),
    "--gradio-debug": Foreign(LOGS),
    "--gradio-img2img-tool": Foreign("there is one tool to draw with", ONE),
    "--gradio-inpaint-tool": Foreign("there is one tool to draw with", ONE),
    "--localizations-dir": Foreign("the page's languages come with the program; the browser's language chooses", ONE),
    "--show-negative-prompt": Foreign("the negative prompt is always shown"),
    "--ui-debug-mode": Foreign(
        "the page never waits for a model; the setting Warm up says whether one is loaded at start"
    ),
    "--skip-load-model-at-start": Foreign(
        "the page never waits for a model; the setting Warm up says whether one is loaded"
    ),
    "--test-server": Foreign("there is no such mode; python3 app.py test runs the tests"),
    "--ui-settings-file": Foreign(UI_FILES, ONE),
    "--ui-config-file": Foreign(UI_FILES, ONE),
    "--hide-ui-dir-config": Foreign("the page shows no folders"),
    "--no-prompt-history": Foreign("the History tab lists what was made, and can delete it"),
    "--no-progressbar-hiding": Foreign("progress has a place of its own"),
    "--max-batch-count": Foreign("the page takes 100", ONE),
    "--use-textbox-seed": Foreign("the seed is a field"),
    "--loglevel": Foreign(LOGS, ONE),
    "--log-startup": Foreign(LOGS),
    "--api-log": Foreign(LOGS),
    "--disable-console-progressbars": Foreign(LOGS),
    "--enable-console-prompts": Foreign(LOGS),
    "--timeout-keep-alive": Foreign("connections are kept as uvicorn keeps them", ONE),
    "-f": Foreign("it let A1111's start script run as root, and nothing here asks who runs it"),
    "--administrator": Foreign("nothing here needs an administrator's rights"),
    "--ngrok-options": Foreign(TUNNEL, ONE),
    "--ngrok-region": Foreign(TUNNEL, ONE),
    "--unix-filenames-sanitization": Foreign("names of files suit every system"),
    "--filenames-max-length": Foreign("names of files are cut to what file systems take", ONE),
    "--tests": Foreign("python3 app.py test runs the tests", ONE),
    "--no-tests": Foreign("python3 app.py test runs the tests"),
    # left out: they would open the machine
    "--share": Foreign(f"it opens a tunnel to another company's server, and {ACCOUNTS}", left_out=True),
    "--ngrok": Foreign(f"it opens a tunnel to another company's server, and {ACCOUNTS}", ONE, left_out=True),
    "--enable-insecure-extension-access": Foreign(
        "it would let everybody who sees the page install and run code", left_out=True
    ),
    "--allow-code": Foreign("it would let everybody who sees the page run code", left_out=True),
    "--disable-safe-unpickle": Foreign("pickles are read without running what is in them", left_out=True),
    "--gradio-allowed-path": Foreign("the page shows files of its own outputs alone", ONE, left_out=True),
}
SETTINGS: Mapping[str, str] = {
    "samples_format": "image_format",
    "jpeg_quality": "image_quality",
    "webp_lossless": "webp_lossless",
    "samples_filename_pattern": "file_name",
    "directories_filename_pattern": "folder_name",
    "grid_save": "save_grid",
    "n_rows": "grid_rows",
    "show_progress_every_n_steps": "preview_every",
    "show_progress_type": "show_progress_type",
    "quicksettings_list": "quick_settings",
    "disable_weights_auto_swap": "disable_weights_auto_swap",
}
"""A1111's settings that are settings of ours."""
_SAVING = ("samples_format", "jpeg_quality", "webp_lossless", "samples_filename_pattern", "grid_save", "n_rows")
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "saving-images": _SAVING,
    "Saving images/grids": _SAVING,
    "saving-to-dirs": ("directories_filename_pattern",),
    "Saving to a directory": ("directories_filename_pattern",),
    "ui": ("show_progress_every_n_steps", "quicksettings_list"),
    "User interface": ("quicksettings_list",),
    "Live previews": ("live_previews_enable", "show_progress_every_n_steps", "show_progress_type"),
    "infotext": ("disable_weights_auto_swap",),
    "Infotext": ("disable_weights_auto_swap",),
    "sd": ("sd_model_checkpoint", "CLIP_stop_at_last_layers", "randn_source"),
    "Stable Diffusion": ("sd_model_checkpoint", "CLIP_stop_at_last_layers", "randn_source"),
    "vae": ("sd_vae",),
    "VAE": ("sd_vae",),
}
"""A1111's sections, by key and by title, with those of their settings that have an effect here."""


def locked_settings(names: Iterable[str], sections: Iterable[str]) -> tuple[set[str], set[str]]:
    """What ``--freeze-*`` locks: names of our settings, and of A1111's.

    >>> locked_settings(["samples_format"], ["VAE"])[0], sorted(locked_settings(["samples_format"], ["VAE"])[1])
    ({'image_format'}, ['samples_format', 'sd_vae'])
    """
    theirs = {*names, *(name for section in sections for name in SECTIONS.get(section, ()))}
    return {SETTINGS[name] for name in theirs if name in SETTINGS}, theirs


FAMILIES: Mapping[str, Foreign] = {
    "--opt-": Foreign(ATTENTION),
    "--sub-quad-": Foreign(ATTENTION, ONE),
    "--skip-": Foreign(CHECKS),
}
"""Flags matched by prefix."""


def translated(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """``arguments`` translated to our flags, and a note for each ignored one.

    >>> translated(["--xformers", "--server-name", "::1", "--port", "80"])[0]
    ['--host', '::1', '--port', '80']
    """
    ours: list[str] = []
    notes: list[str] = []
    for flag, behind in _words(arguments):
        foreign = _foreign(flag)
        if foreign is None:
            ours += [flag, *behind]
            continue
        own = {NONE: 0, ONE: 1, SOME: len(behind)}[foreign.values]
        value = behind[0] if own and behind else ""
        ours += [word.replace("{}", value) for word in foreign.ours] + behind[own:]
        if foreign.note:
            verb = ":" if foreign.ours else " is left out:" if foreign.left_out else " does nothing here:"
            notes.append(f"{flag}{verb} {foreign.note}")
    return ours, notes


def _words(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Group the arguments: each flag with its values; words before the first flag stand alone."""
    group: list[str] = []
    for word in arguments:
        if word.startswith("--") or word in FLAGS:
            if group:
                yield group[0], group[1:]
            flag, equals, value = word.partition("=")
            group = [flag, value] if equals and _foreign(flag) else [word]
        elif group:
            group.append(word)
        else:
            yield word, []
    if group:
        yield group[0], group[1:]


def _foreign(flag: str) -> Foreign | None:
    if flag in FLAGS:
        return FLAGS[flag]
    return next((found for start, found in FAMILIES.items() if flag.startswith(start)), None)
