"""Translates A1111's command line flags, so that existing start scripts work.

A flag of the same meaning is put in our words; one that has nothing to do here is left out with a line that says so;
one that would open the machine to others is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modules.errors import UserError

NONE, ONE, SOME = 0, 1, 2
"""How many values a flag takes; some: up to the next flag."""


@dataclass(frozen=True)
class Foreign:
    """An A1111 flag. ``ours`` are the equivalent arguments, with ``{}`` standing for its value."""

    note: str = ""
    values: int = NONE
    ours: tuple[str, ...] = ()
    refused: bool = False


MEMORY = "memory is seen to without flags"
ATTENTION = "attention is computed by torch's own kernels"
FOLDER = "files lie in the folders of --models-dir or --models-from, which may be A1111's; a link in them is followed"
QUEUE = "jobs always queue"
UI_FILES = "settings are in settings.json, in --data-dir; the Settings tab changes them"
CHECKS = "there is no such check at start"
LOGS = "the log goes to the terminal, errors and what the worker says"
UPDATES = "nothing is downloaded or updated behind your back"
LOGIN = "accounts are made with: python3 app.py user add NAME, and once there is one everybody logs in"
EXTENSIONS = "no extension is loaded, those that come with Reprise neither"
TUNNEL = "no tunnel to another company's server is ever opened"
CARDS = "--device chooses cpu or cuda; other accelerators are not used"
NEVER = "in A1111 it has no effect either"
ACCOUNTS = "the page would be open to everybody who knows the address"

FLAGS: Mapping[str, Foreign] = {
    # the same in other words
    "--server-name": Foreign(values=ONE, ours=("--host", "{}")),
    "--nowebui": Foreign(ours=("--api-only",)),
    "--no-half": Foreign(ours=("--dtype", "float32")),
    "--use-cpu": Foreign("all of it runs on the CPU", SOME, ours=("--device", "cpu")),
    "--freeze-settings": Foreign(ours=("--lock-settings", "all")),
    "--freeze-specific-settings": Foreign(values=ONE, ours=("--lock-settings", "{}")),
    "--disable-all-extensions": Foreign(EXTENSIONS, ours=("--no-extensions",)),
    "--disable-extra-extensions": Foreign(EXTENSIONS, ours=("--no-extensions",)),
    # nothing to do here
    "--gradio-auth": Foreign(LOGIN, ONE),
    "--gradio-auth-path": Foreign(LOGIN, ONE),
    "--api-auth": Foreign(LOGIN, ONE),
    "--disable-tls-verify": Foreign("a self-signed certificate is served like any other: nothing here asks for it"),
    "--api": Foreign("A1111's HTTP API is always served, below /sdapi/v1, and Reprise's own below /api/v1"),
    "--api-server-stop": Foreign("no request can stop the server; end it in its terminal"),
    "--add-stop-route": Foreign("no request can stop the server; end it in its terminal"),
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
    "--medvram": Foreign(MEMORY),
    "--medvram-sdxl": Foreign(MEMORY),
    "--lowvram": Foreign(MEMORY),
    "--lowram": Foreign(MEMORY),
    "--unload-gfpgan": Foreign(NEVER),
    "--disable-model-loading-ram-optimization": Foreign(
        "checkpoints are always loaded without a second copy in memory"
    ),
    "--always-batch-cond-uncond": Foreign(MEMORY),
    "--use-ipex": Foreign(CARDS),
    "--opt-channelslast": Foreign("weights are laid out in the order that suits the device, without a flag"),
    "--no-half-vae": Foreign("--dtype chooses the number format, for the VAE too"),
    "--upcast-sampling": Foreign("sampling is always in float32"),
    "--precision": Foreign("--dtype chooses the number format: float32, bfloat16 or float16", ONE),
    "--device-id": Foreign("CUDA_VISIBLE_DEVICES in the environment chooses the card", ONE),
    "--disable-nan-check": Foreign("a picture that is not a number is an error"),
    "--no-hashing": Foreign("hashes are what replay is built on; each file is read for it once"),
    "--vae-path": Foreign("the VAE is chosen on the page", ONE),
    "--hypernetwork-dir": Foreign(FOLDER, ONE),
    "--esrgan-models-path": Foreign(FOLDER, ONE),
    "--realesrgan-models-path": Foreign(FOLDER, ONE),
    "--bsrgan-models-path": Foreign(FOLDER, ONE),
    "--swinir-models-path": Foreign(FOLDER, ONE),
    "--dat-models-path": Foreign(FOLDER, ONE),
    "--scunet-models-path": Foreign(FOLDER, ONE),
    "--ldsr-models-path": Foreign(FOLDER, ONE),
    "--gfpgan-models-path": Foreign(FOLDER, ONE),
    "--gfpgan-dir": Foreign(FOLDER, ONE),
    "--gfpgan-model": Foreign(FOLDER, ONE),
    "--clip-models-path": Foreign("there is no CLIP interrogator that would need models", ONE),
    "--deepdanbooru": Foreign(NEVER),
    "--config": Foreign("what a checkpoint is, is read from the file itself, so no config file is needed", ONE),
    "--textual-inversion-templates-dir": Foreign("embeddings are used here and not trained", ONE),
    "--lyco-dir-backcompat": Foreign(FOLDER, ONE),
    "--codeformer-models-path": Foreign(FOLDER, ONE),
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
    "--dump-sysinfo": Foreign("no report is written; python3 app.py --version says which version this is"),
    "--freeze-settings-in-sections": Foreign(
        "settings are locked by their names and not by sections: --lock-settings NAME,NAME", ONE
    ),
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
    # refused
    "--share": Foreign(f"it opens a tunnel to another company's server, and {ACCOUNTS}", refused=True),
    "--ngrok": Foreign(f"it opens a tunnel to another company's server, and {ACCOUNTS}", ONE, refused=True),
    "--enable-insecure-extension-access": Foreign(
        "it would let everybody who sees the page install and run code", refused=True
    ),
    "--allow-code": Foreign("it would let everybody who sees the page run code", refused=True),
    "--disable-safe-unpickle": Foreign("pickles are read without running what is in them", refused=True),
    "--cors-allow-origins": Foreign("other sites could then use this server in your name", ONE, refused=True),
    "--cors-allow-origins-regex": Foreign("other sites could then use this server in your name", ONE, refused=True),
    "--gradio-allowed-path": Foreign("the page shows files of its own outputs alone", ONE, refused=True),
}
FAMILIES: Mapping[str, Foreign] = {
    "--opt-": Foreign(ATTENTION),
    "--sub-quad-": Foreign(ATTENTION, ONE),
    "--skip-": Foreign(CHECKS),
}
"""Flags matched by prefix."""


def translated(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """``arguments`` translated to our flags, and a note for each ignored one. Raises `UserError` for an unsafe one.

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
        if foreign.refused:
            raise UserError(f"{flag} is not taken over: {foreign.note}", hint="leave it out", field=flag.strip("-"))
        own = {NONE: 0, ONE: 1, SOME: len(behind)}[foreign.values]
        value = behind[0] if own and behind else ""
        ours += [word.replace("{}", value) for word in foreign.ours] + behind[own:]
        if foreign.note:
            notes.append(f"{flag}: {foreign.note}" if foreign.ours else f"{flag} does nothing here: {foreign.note}")
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
