"""The command line parser: flags, commands and their help texts. `app.py` runs the commands.

Needs the standard library alone, so that help and mistakes can be told before anything is installed.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from modules.params.generation import ExtrasParams, GenerationParams
from modules.params.options import Option, flat_of, options_of

COMMAND = "COMMAND"
_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)")
Command = Callable[[Any], int]
"""A function from parsed flags to an exit status."""
EXAMPLES = """examples:
  python3 app.py                                      serve http://127.0.0.1:7860
  python3 app.py generate "a red fox in the snow" --steps 20 --seed 1 -o fox.png
  python3 app.py generate "a fox at night" --init fox.png --denoising-strength 0.6
  python3 app.py replay fox.png                       make it again: identical, or why not
  python3 app.py upscale fox.png --upscaler Lanczos --by 2 -o large.png
  python3 app.py convert old-model.ckpt               make a safe copy of a pickle
  python3 app.py doctor                               what this machine has, and what to do about it
  python3 app.py user add alice                       an account; then --listen serves the LAN
  python3 app.py test -k prompt                       run the tests, arguments go to pytest
  python3 app.py test --extension extensions/mine     run the ready tests over an extension
  python3 app.py install-extension mine.zip           a local extension, and its packages
"""


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one sentence with the nearest name, instead of below the names of some eighty flags."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        found = _CHOICE.match(message)
        flag = next((word for word in map(_flag, self._given) if word and word not in self._flags()), "")
        if found and found[1] == COMMAND and flag:  # what stands behind it was taken for a command
            message = f"there is no flag {flag}{_near(flag, self._option_string_actions)}"
        elif found:
            what = "command" if found[1] == COMMAND else found[1]
            listed = [name for name in re.findall(r"'([^']*)'", found[3]) if COMMANDS.get(name, ("listed",))[0]]
            near = _near(found[2], listed) or f"; there are {', '.join(listed)}"
            message = f"there is no {what} {found[2]!r}{near}"
        elif message.startswith("unrecognized arguments: "):
            first = message.removeprefix("unrecognized arguments: ").split()[0]
            message = f"there is no flag {first}{_near(_flag(first), self._flags())}"
        self.exit(2, f"error: {message}; see {self.prog} --help\n")

    def _flags(self) -> list[str]:
        """Those of the command that was given first, then those of the program."""
        groups = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        parsers = [one for group in groups for name, one in group.choices.items() if name in self._given]
        return [flag for parser in (*parsers, self) for flag in parser._option_string_actions]


def _flag(word: str) -> str:
    """The flag in a word of a command line; empty: it is none."""
    return word.partition("=")[0] if word.startswith("--") else ""


def _near(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def build_parser(
    version: str,
    defaults: Mapping[str, Any],
    commands: Mapping[str, Command],
    flags: Mapping[str, Mapping[str, Option]] | None = None,
) -> argparse.ArgumentParser:
    """Build the argument parser; without a command it is ``serve``. ``defaults``: of the folders and the device.
    ``flags``: those declared by extensions, by extension and name.
    """
    parser = Parser(
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
    subparsers = parser.add_subparsers(title="commands", metavar=COMMAND)
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
    serving.add_argument(
        "--lock-a1111-settings",
        type=_names,
        default=(),
        metavar="NAME,NAME",
        help="settings by A1111's names that neither the page nor its API changes; or all",
    )
    serving.add_argument(
        "--lock-a1111-sections", type=_names, default=(), metavar="NAME,NAME", help="the same, by A1111's sections"
    )
    serving.add_argument("--styles-file", type=_folder, metavar="FILE", help="styles.csv, instead of the one in data/")
    serving.add_argument("--tls-keyfile", type=_folder, metavar="FILE", help="key for https, PEM")
    serving.add_argument("--tls-certfile", type=_folder, metavar="FILE", help="certificate and its chain, PEM")
    serving.add_argument("--subpath", default="", metavar="PATH", help="path below which a reverse proxy serves this")
    serving.add_argument(
        "--trusted-proxy", action="append", default=[], metavar="ADDRESS", help="proxy to believe X-Forwarded-* of"
    )
    serving.add_argument(
        "--cors-allow-origins", type=_names, default=(), metavar="URL,URL", help="other sites that may use the APIs"
    )
    serving.add_argument(
        "--cors-allow-origins-regex", default="", metavar="PATTERN", help="the same, as a regular expression"
    )
    serving.add_argument(
        "--webhook-host", action="append", default=[], metavar="HOST[:PORT]", help="a host that jobs may call when done"
    )
    serving.add_argument(
        "--image-host", action="append", default=[], metavar="HOST[:PORT]", help="a host that images are fetched from"
    )
    serving.add_argument(
        "--rate-limit", type=_rate, default=0, metavar="N", help="requests a minute to the APIs, for each account"
    )
    _add_limits(serving)
    serving.add_argument(
        "--api-server-stop", action="store_true", help="let an administrator end the server by a request"
    )
    serving.add_argument("--dump-sysinfo", action="store_true", help="write a report for bug reports here, and end")
    serving.add_argument("--no-extensions", action="store_true", help="load no extension, shipped ones neither")
    serving.add_argument(
        "--reload-extensions", action="store_true", help="load extensions anew when their files change, for authors"
    )
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
    one.add_argument(
        "--step", action="append", default=[], metavar="NAME[.OPTION=VALUE]", help="a step of an extension, afterwards"
    )
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
    one.add_argument("--kind", default="modifier", help="modifier, guidance, sampler, script, tab, route or detailer")
    _add_places(one)


def _add_install_extension(one: argparse.ArgumentParser) -> None:
    one.add_argument("what", metavar="NAME|DIR|ZIP", help="one that is there, to install its packages, or a local one")
    one.add_argument("--replace", action="store_true", help="take the place of another version of it")
    _add_places(one)


def _add_tiny(one: argparse.ArgumentParser) -> None:
    one.add_argument("path", type=Path)
    one.add_argument("--family", default="sd1", help="sd1, sd2, sdxl or sdxl-refiner")
    seen = one.add_mutually_exclusive_group()
    seen.add_argument("--inpainting", action="store_true", help="its UNet sees a mask and the picture behind it")
    seen.add_argument("--pix2pix", action="store_true", help="its UNet sees the picture that is to be changed")
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


FOLDERS: Mapping[str, tuple[str, str]] = {
    "--models-from": ("installations", "models of A1111, Forge, ComfyUI or StabilityMatrix too, or of a yaml of paths"),
    "--ckpt-dir": ("checkpoints", "further checkpoints"),
    "--vae-dir": ("vaes", "further VAEs"),
    "--embeddings-dir": ("embeddings", "further embeddings"),
    "--lora-dir": ("loras", "further LoRAs"),
    "--hypernetwork-dir": ("hypernetworks", "further hypernetworks"),
    "--upscaler-dir": ("upscalers", "further upscalers"),
    "--face-restorer-dir": ("restorers", "further face restorers and face detectors"),
}
"""Folders beside those of ``--models-dir``, in A1111's words where it has some: what lies there, and help. Each can be
given again."""


def dest_of(flag: str) -> str:
    """The name of a flag's value among the parsed ones."""
    return flag[2:].replace("-", "_")


UNSAID: Mapping[str, Any] = {dest_of(flag): None for flag in (*FOLDERS, "--ckpt")}


def said_places(args: argparse.Namespace) -> list[str]:
    """What was said of where models lie, in the words of the command line, for a process that is to know it too."""
    words = ["--ckpt", args.ckpt] if args.ckpt else []
    for flag in FOLDERS:
        for folder in getattr(args, dest_of(flag)) or ():
            words += [flag, str(folder)]
    return words


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Add the flags that may come before or after a command; their defaults are the main parser's."""
    places = parser.add_argument_group("folders and device")

    def add(flag: str, help: str, **more: Any) -> None:
        places.add_argument(flag, default=argparse.SUPPRESS, help=help, **more)

    add("--data-dir", "what is written (default data/)", type=_folder, metavar="DIR")
    add("--models-dir", "checkpoints (default models/)", type=_folder, metavar="DIR")
    for flag, (_, meaning) in FOLDERS.items():
        add(flag, f"{meaning}; can be given again", type=_folder, metavar="DIR", action="append")
    add("--ckpt", "the checkpoint of those who choose none", metavar="FILE")
    add("--extensions-dir", "extensions beside the shipped ones", type=_folder, metavar="DIR")
    add("--device", "auto, cpu, cuda (NVIDIA and AMD), mps (Apple) or xpu (Intel)")
    add("--device-id", "which of several cards, from 0", type=int, metavar="N")
    add("--dtype", "auto, float32, bfloat16 or float16")
    add(
        "--deterministic",
        "kernels alone that give the same bits at every call, which can be slower",
        action="store_true",
    )
    add("--medvram", "one network on the card at a time: the least memory at nearly full speed", action="store_true")
    add(
        "--lowvram", "the UNet comes to the card block by block: the least memory of all, and slow", action="store_true"
    )
    add("--ram-budget", "main memory that models may take (default: what is free, less a quarter)", **_GB)
    add("--vram-budget", "memory of the card that is ours (default: what is free)", **_GB)
    add(
        "--torch-index", "where the build of torch is that fits this machine's card, for the first start", metavar="URL"
    )


_GB: Mapping[str, Any] = {"type": float, "metavar": "GB"}
MEMORY: Mapping[str, Any] = {
    "device": "auto",
    "dtype": "auto",
    "device_id": None,
    "deterministic": False,
    "medvram": False,
    "lowvram": False,
    "ram_budget": None,
    "vram_budget": None,
    "torch_index": "",
}
"""Defaults of the flags that say where and in how much memory networks run."""


def said_of_device(args: argparse.Namespace) -> list[str]:
    """What was said of that, in the words of the command line, for a process that is to know it too."""
    words = []
    for name, default in MEMORY.items():
        value = getattr(args, name)
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value != default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


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


def _rate(text: str) -> int:
    if not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("must be between 1 and 1,000,000")
    return int(text)


def _part_up(text: str) -> float:
    if not 0.01 <= float(text) <= 1000:
        raise argparse.ArgumentTypeError("must be between 0.01 and 1000")
    return float(text)


def _sides(text: str) -> tuple[int, ...]:
    sides = tuple(int(side) for side in text.split(","))
    if len(sides) != 4 or not all(0 <= side <= 1024 for side in sides):
        raise argparse.ArgumentTypeError("must be four numbers from 0 to 1024: left,top,right,bottom")
    return sides


def _add_limits(parser: argparse._ArgumentGroup | argparse.ArgumentParser, default: object = 0) -> None:
    """Add the flags that say how large a request may be."""
    megapixels = "the largest image that may be asked for"
    parser.add_argument("--max-megapixels", type=_part_up, default=default, metavar="X", help=megapixels)
    parser.add_argument("--max-steps", type=_rate, default=default, metavar="N", help="the most steps of a pass")


def said_limits(args: argparse.Namespace) -> tuple[str, ...]:
    """What was said of them, in the words of the command line, for a process that is to know it too."""
    said = {"--max-megapixels": args.max_megapixels, "--max-steps": args.max_steps}
    return tuple(f"{flag}={value}" for flag, value in said.items() if value)


def _add_worker(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
    _add_limits(parser, argparse.SUPPRESS)
    parser.add_argument("--worker-name", default="worker", help="what it keeps for its next start goes by this name")
    parser.add_argument("--no-extensions", action="store_true", default=argparse.SUPPRESS)


COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "generate": ("make images without a server", _add_generate),
    "upscale": ("make a picture larger", _add_upscale),
    "explain": ("print what a prompt means, step by step, as JSON", _add_explain),
    "replay": ("make a saved picture again and say whether it is identical", _add_replay),
    "convert": ("make a safetensors copy of a .ckpt or .pt file, safely", _add_convert),
    "make-tiny-checkpoint": ("write a small random checkpoint for tests", _add_tiny),
    "doctor": ("say what this machine has, and what to do about it", _add_places),
    "user": ("accounts: user add NAME, list, remove, password, token", _add_user),
    "new-extension": ("write the skeleton of an extension", _add_new_extension),
    "install-extension": ("install an extension from a folder or ZIP file, and its packages", _add_install_extension),
    "worker": ("", _add_worker),
}
"""The commands: help text and positional argument of each; one without help is internal."""
