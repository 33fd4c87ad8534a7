"""The command line parser: flags, commands and their help texts. `app.py` runs the commands.

Needs the standard library alone, so that help and mistakes can be told before anything is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.params.generation import ExtrasParams, GenerationParams
from modules.params.options import Option, flat_of, options_of

Command = Callable[[Any], int]
"""A function from parsed flags to an exit status."""
EXAMPLES = """examples:
  python3 app.py                                      serve http://127.0.0.1:7860
  python3 app.py generate "a red fox in the snow" --steps 20 --seed 1 -o fox.png
  python3 app.py generate "a fox at night" --init fox.png --denoising-strength 0.6
  python3 app.py replay fox.png                       make it again: identical, or why not
  python3 app.py upscale fox.png --upscaler Lanczos --by 2 -o large.png
  python3 app.py convert old-model.ckpt               make a safe copy of a pickle
  python3 app.py user add alice                       an account; then --listen serves the LAN
  python3 app.py test -k prompt                       run the tests, arguments go to pytest
  python3 app.py test --extension extensions/mine     run the ready tests over an extension
"""


def build_parser(
    version: str,
    defaults: Mapping[str, Any],
    commands: Mapping[str, Command],
    flags: Mapping[str, Mapping[str, Option]] | None = None,
) -> argparse.ArgumentParser:
    """Build the argument parser; without a command it is ``serve``. ``defaults``: of the folders and the device.
    ``flags``: those declared by extensions, by extension and name.
    """
    parser = argparse.ArgumentParser(
        prog="python3 app.py",
        description="Reprise: pictures from prompts, the same again, for everybody on the LAN. No command: serve.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"Reprise {version}")
    _add_serving(parser.add_argument_group("serving"))
    _add_places(parser)
    _add_extension_flags(parser, flags or {})
    parser.set_defaults(run=commands["serve"], **UNSAID, **defaults)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (meaning, add) in COMMANDS.items():
        listed: dict[str, Any] = {"help": meaning} if meaning else {}  # without help= it is not listed
        one = subparsers.add_parser(name, **listed)
        add(one)
        _add_extension_flags(one, flags or {})
        one.set_defaults(run=commands[name])
    subparsers.add_parser("test", help="install what the tests need and run them; arguments go to pytest")
    return parser


def _add_serving(serving: Any) -> None:
    serving.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to serve on (default 127.0.0.1)"
    )
    serving.add_argument("--listen", action="store_true", help="serve on all addresses: --host 0.0.0.0")
    serving.add_argument("--port", type=_port, default=7860, help="port to serve on (default 7860)")
    serving.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="a further host name of this server"
    )
    serving.add_argument("--theme", choices=("light", "dark", "system"), help="colours of the page; fixes the setting")
    serving.add_argument(
        "--lock-settings", type=_names, default=(), metavar="NAME,NAME", help="settings that the page cannot change"
    )
    serving.add_argument("--styles-file", type=_folder, metavar="FILE", help="styles.csv, instead of the one in data/")
    serving.add_argument("--tls-keyfile", type=_folder, metavar="FILE", help="key for https, PEM")
    serving.add_argument("--tls-certfile", type=_folder, metavar="FILE", help="certificate and its chain, PEM")
    serving.add_argument("--subpath", default="", metavar="PATH", help="path below which a reverse proxy serves this")
    serving.add_argument(
        "--trusted-proxy", action="append", default=[], metavar="ADDRESS", help="proxy to believe X-Forwarded-* of"
    )
    serving.add_argument("--no-extensions", action="store_true", help="load no extension, shipped ones neither")
    serving.add_argument("--api-only", action="store_true", help="serve the HTTP APIs without the page: starts sooner")
    serving.add_argument("--list-routes", action="store_true", help="print every route and who may use it, and end")
    serving.add_argument("--autolaunch", action="store_true", help="open the page in the browser")


def _add_generate(one: argparse.ArgumentParser) -> None:
    one.add_argument("prompt")
    one.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help=".png, .jpg or .webp; default: the outputs folder"
    )
    one.add_argument(
        "--server",
        default="",
        metavar="URL",
        help="let a running server do it; REPRISE_TOKEN in the environment logs in",
    )
    for flag, dest, meaning in (
        ("--init", "image", "picture to start from, or a folder of them"),
        ("--mask", "mask_image", "white: repaint"),
    ):
        one.add_argument(flag, dest=dest, default=argparse.SUPPRESS, metavar="FILE", help=meaning)
    one.add_argument(
        "--outpaint", type=_sides, default=(), metavar="L,T,R,B", help="grow the picture by so many pixels at each side"
    )
    one.add_argument(
        "--loopback", type=_turns, default=1, metavar="N", help="so many turns, each from the last one's picture"
    )
    one.add_argument(
        "--loopback-decay", type=_part, default=1.0, metavar="X", help="denoising strength times this after each turn"
    )
    one.add_argument(
        "--ext", action="append", default=[], metavar="NAME[.OPTION=VALUE]", help="let an extension take part"
    )
    for name, declared in flat_of(GenerationParams).items():
        if name not in ("prompt", "image", "mask_image"):
            _add_option(one, name, declared)
    _add_places(one)


def _add_upscale(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", type=Path)
    one.add_argument("-o", "--output", type=Path, metavar="FILE", required=True)
    for name, declared in options_of(ExtrasParams).items():
        _add_option(one, name, declared)
    _add_places(one)


def _add_explain(one: argparse.ArgumentParser) -> None:
    one.add_argument("prompt")
    for name in ("negative_prompt", "checkpoint", "sampler", "steps", "profile"):
        _add_option(one, name, options_of(GenerationParams)[name])
    _add_places(one)


def _add_replay(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", type=Path, help="a picture saved by this program")
    _add_places(one)


def _add_convert(one: argparse.ArgumentParser) -> None:
    one.add_argument("file", type=Path, help="a path, or the name of a file in the models folder")
    _add_places(one)


def _add_new_extension(one: argparse.ArgumentParser) -> None:
    one.add_argument("name", help="small letters, digits and _")
    _add_places(one)


def _add_tiny(one: argparse.ArgumentParser) -> None:
    one.add_argument("path", type=Path)
    one.add_argument("--family", default="sd1", help="sd1, sd2, sdxl or sdxl-refiner")
    one.add_argument("--inpainting", action="store_true", help="its UNet sees a mask and the picture behind it")
    one.add_argument("--prediction", default="eps", choices=("eps", "v"), help="what its UNet is said to answer")
    one.add_argument("--seed", type=int, default=0)


def _add_user(people: argparse.ArgumentParser) -> None:
    actions = people.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, meaning in (
        ("add", "make an account; the password is asked for, or read from standard input"),
        ("list", "names and roles"),
        ("remove", "take an account away"),
        ("password", "set another password and end all sessions"),
        ("token", "make a token for scripts"),
    ):
        one = actions.add_parser(action, help=meaning)
        if action != "list":
            one.add_argument("name", metavar="NAME")
        if action == "add":
            one.add_argument("--admin", action="store_true", help="may change what holds for everybody")
        _add_places(one)


FOLDERS: Mapping[str, str] = {
    "--models-from": "an installation of A1111, Forge or ComfyUI, whose models stand in for --models-dir",
    "--ckpt-dir": "checkpoints, instead of models/Stable-diffusion",
    "--vae-dir": "VAEs, instead of models/VAE",
    "--embeddings-dir": "embeddings, instead of models/embeddings",
    "--lora-dir": "LoRAs beside those of models/Lora; can be given again",
}
"""Where models lie, in A1111's words where it has some."""
UNSAID: Mapping[str, Any] = {flag[2:].replace("-", "_"): None for flag in (*FOLDERS, "--ckpt")}


def said_places(args: argparse.Namespace) -> list[str]:
    """What was said of where models lie, in the words of the command line, for a process that is to know it too."""
    words = ["--ckpt", args.ckpt] if args.ckpt else []
    for flag in FOLDERS:
        value = getattr(args, flag[2:].replace("-", "_"))
        for folder in value if isinstance(value, list) else [value]:
            words += [flag, str(folder)] if folder else []
    return words


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Add the flags that may come before or after a command; their defaults are the main parser's."""
    places = parser.add_argument_group("folders and device")

    def add(flag: str, help: str, **more: Any) -> None:
        places.add_argument(flag, default=argparse.SUPPRESS, help=help, **more)

    add("--data-dir", "what is written (default data/)", type=_folder, metavar="DIR")
    add("--models-dir", "checkpoints (default models/)", type=_folder, metavar="DIR")
    for flag, meaning in FOLDERS.items():
        repeated: dict[str, Any] = {"action": "append"} if flag == "--lora-dir" else {}
        add(flag, meaning, type=_folder, metavar="DIR", **repeated)
    add("--ckpt", "the checkpoint of those who choose none", metavar="FILE")
    add("--extensions-dir", "extensions (default extensions/)", type=_folder, metavar="DIR")
    add("--device", "auto, cpu or cuda")
    add("--dtype", "auto, float32, bfloat16 or float16")


_FLAG = "extension flag"


def _add_extension_flags(parser: argparse.ArgumentParser, flags: Mapping[str, Mapping[str, Option]]) -> None:
    for name, own in flags.items():
        for flag, declared in own.items():
            parser.add_argument(
                f"--{name}-{flag}".replace("_", "-"),
                default=argparse.SUPPRESS,
                dest=f"{_FLAG}/{name}/{flag}",
                metavar="TEXT",
                help=f"{declared.help or declared.label} (extension {name})".replace("%", "%%"),
            )


def extension_flags(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The values of extensions' flags, by extension and flag name."""
    found: dict[str, dict[str, str]] = {}
    for key, value in vars(args).items():
        if key.startswith(_FLAG):
            _, name, flag = key.split("/")
            found.setdefault(name, {})[flag] = value
    return found


def extensions_dir(given: Sequence[str], default: Path) -> Path:
    """The extensions folder, parsed ahead of all other flags because extensions add flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--extensions-dir", type=_folder, default=default)
    try:
        return Path(first.parse_known_args(list(given))[0].extensions_dir)
    except SystemExit:
        return default


def _add_option(parser: argparse.ArgumentParser, name: str, declared: Option) -> None:
    """Add a flag for a declared option; the declaration casts and checks its value, like a value from the page."""
    limits = declared.range_text() if declared.lo is not None or declared.hi is not None else ""
    if isinstance(declared.choices, tuple):
        limits = " or ".join(declared.choices)
    if declared.type is bool:
        limits = "true or false"
    default = "" if declared.default in (None, "") else f"default {declared.default}"
    if name in ("width", "height") and declared.default == GenerationParams().width:
        default = "default: the model's native size"
    facts = ", ".join(filter(None, (declared.help or declared.label.lower(), limits, default)))
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        default=argparse.SUPPRESS,
        metavar={int: "N", float: "X"}.get(declared.type, "TEXT"),
        help=facts.replace("%", "%%"),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _folder(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError("must be between 1 and 65535")
    return number


def _turns(text: str) -> int:
    if not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError("must be between 1 and 100")
    return int(text)


def _part(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return float(text)


def _sides(text: str) -> tuple[int, ...]:
    sides = tuple(int(side) for side in text.split(","))
    if len(sides) != 4 or not all(0 <= side <= 1024 for side in sides):
        raise argparse.ArgumentTypeError("must be four numbers from 0 to 1024: left,top,right,bottom")
    return sides


def _add_worker(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
    parser.add_argument("--worker-name", default="worker", help="what it keeps for its next start goes by this name")


COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "generate": ("make images without a server", _add_generate),
    "upscale": ("make a picture larger", _add_upscale),
    "explain": ("print what a prompt means, step by step, as JSON", _add_explain),
    "replay": ("make a saved picture again and say whether it is identical", _add_replay),
    "convert": ("make a safetensors copy of a .ckpt or .pt file, safely", _add_convert),
    "make-tiny-checkpoint": ("write a small random checkpoint for tests", _add_tiny),
    "user": ("accounts: user add NAME, list, remove, password, token", _add_user),
    "new-extension": ("write the skeleton of an extension", _add_new_extension),
    "worker": ("", _add_worker),
}
"""The commands: help text and positional argument of each; one without help is internal."""
