"""What can be told of a registration when it is made, so that no page and no request has to fail because of it.

Each check raises `Refused` with one sentence for the author.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast

from modules.errors import UserError
from modules.extension.manifest import Refused
from modules.params.lists import lists_of, side_by_side
from modules.params.options import Dependent, Option, options_of

TABLES = (
    "samplers",
    "schedulers",
    "upscalers",
    "face_restorers",
    "checkpoints",
    "vaes",
    "hires_upscalers",
    "hires_samplers",
    "hires_schedulers",
    "hires_checkpoints",
    "axes",
)
"""The tables of choices that an option may name (`webui.services.tables_of` fills them)."""
_TYPES = (bool, int, float, str)
_CLOSES = {".js": re.compile(rb"</script", re.I), ".css": re.compile(rb"</style", re.I)}
_PLAIN: Mapping[str, tuple[type, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
    "type": (type, "a class"),
    "tuple[str, ...]": (tuple, "a tuple of texts"),
}
"""Types of fields as they are written, which can be checked."""


def check_spec(kind: str, name: object, spec: object) -> None:
    """Check the fields of what is registered against their types, as far as these are plain."""
    if not isinstance(name, str) or not (name.strip() or kind == "setting"):
        raise Refused(f"the name of its {kind} is {_short(name)}", hint="give it a text")
    if not dataclasses.is_dataclass(spec) or isinstance(spec, type):
        return
    for field in dataclasses.fields(spec):
        value, declared = getattr(spec, field.name), str(field.type)
        wanted, words = _PLAIN.get(declared, (object, ""))
        fits = isinstance(value, wanted) and (wanted is not int or not isinstance(value, bool))
        fits = fits or (wanted is float and isinstance(value, int))
        fits = fits and (wanted is not tuple or all(isinstance(one, str) for one in cast("tuple[Any, ...]", value)))
        if declared.startswith("Callable[") and "None" not in declared.rpartition("]")[2]:
            fits, words = callable(value), "a function"
        if not fits:
            raise Refused(f"{field.name} of its {kind} {name!r} must be {words}, not {_short(value)}")


def check_options(cls: object, whose: str, *, kinds: bool = True) -> None:
    """Check a dataclass of options: each can be shown, read and written before anyone uses it. ``kinds``: whether some
    may stand for pictures and files."""
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise Refused(f"the options of {whose} are {_short(cls)}", hint="write a dataclass of option(...) fields")
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise Refused(f"the options of {whose} can be changed", hint="write @dataclass(frozen=True)")
    try:
        for name, declared in lists_of(cls).items():
            check_options(declared.cls, f"{name!r} of {whose}")
        cls, _ = side_by_side(cls)
        options = options_of(cast(Hashable, cls))
        defaults = vars(cls())
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, it is in what the author wrote
        raise Refused(
            f"the options of {whose} cannot be read ({error})", hint="give each a type and a default"
        ) from None
    for option in options.values():
        check_option(option, f"{option.name!r} of {whose}")
        if option.kind and not kinds:
            raise Refused(
                f"the option {option.name!r} of {whose} is a {option.kind!r}", hint="modifiers and scripts have those"
            )
        if isinstance(option.choices, Dependent):
            _check_dependent(option, option.choices, defaults, f"{option.name!r} of {whose}")


def check_option(option: Option, whose: str) -> None:
    if not isinstance(option.label, str) or not option.label.strip():
        raise Refused(f"the option {whose} has no label", hint="the second argument of option() is one")
    if option.type not in _TYPES:
        raise Refused(f"the option {whose} is {_short(option.type)}", hint="it can be bool, int, float or str")
    folder = re.fullmatch(r"file:[\w-]+(?:/[\w-]+)*", option.kind)
    if option.kind and (option.type is not str or not (folder or option.kind in ("image", "mask"))):
        raise Refused(f"the option {whose} is a {option.kind!r}", hint="there are image, mask and file:FOLDER, of str")
    if isinstance(option.choices, str) and option.choices not in TABLES:
        raise Refused(f"the option {whose} names the table {option.choices!r}", hint=f"there are {', '.join(TABLES)}")
    if isinstance(option.choices, (list, tuple)):
        _check_choices(option, whose)
    ends = {"lo": option.lo, "hi": option.hi, "step": option.step}
    for name, value in ends.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise Refused(f"{name} of the option {whose} is {_short(value)}", hint="write a number")
    try:
        option.cast(option.default)
    except UserError as error:
        raise Refused(
            f"the default of the option {whose} cannot be ({error.message})", hint="give it another"
        ) from None


def _check_dependent(option: Option, choices: Dependent, defaults: Mapping[str, object], whose: str) -> None:
    if missing := [name for name in choices.on if name not in defaults]:
        raise Refused(f"the option {whose} depends on {missing[0]!r}", hint="name another option of the same class")
    try:
        option.check_among(defaults)
    except UserError as error:
        raise Refused(f"the default of the option {whose} cannot be ({error.message})", hint="choose another") from None
    except Exception as error:  # noqa: BLE001  it is the author's function
        raise Refused(f"the choices of the option {whose} fail ({error})", hint="mend their function") from None


def _check_choices(option: Option, whose: str) -> None:
    choices = option.choices
    assert choices is not None
    if not choices or not isinstance(choices, tuple) or not all(isinstance(choice, str) for choice in choices):
        raise Refused(f"the choices of the option {whose} are {_short(choices)}", hint="write a tuple of texts")


def check_asset(path: Path, name: str) -> None:
    """Check that a file can stand within the page without ending the element that it stands in."""
    data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(f"the asset {name!r} is not UTF-8", hint="save it as that") from None
    closes = _CLOSES[path.suffix]
    if found := closes.search(data):
        text = found[0].decode()
        raise Refused(f"the asset {name!r} holds {text}, which would end it in the page", hint=r"write <\/ there")


def _short(value: object) -> str:
    text = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
