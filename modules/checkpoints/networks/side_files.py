"""The small files that lie beside a model: A1111's cards, and what downloaders leave.

``STEM.json`` is what a person chose in a card's editor, ``STEM.txt`` a description, ``STEM.civitai.info`` and
``STEM.cm-info.json`` what the downloaders Civitai Helper and StabilityMatrix know of it, and pictures are its preview.
"""

from __future__ import annotations

import io
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modules.checkpoints.files import INDEX
from modules.errors import OutputError, UserError
from modules.storage import atomic

PREVIEWS = ("png", "jpg", "jpeg", "webp", "gif")
MAX_BYTES = 4 * 2**20
_NAMES = {
    "description": "description",
    "notes": "notes",
    "family": "sd version",
    "activation_text": "activation text",
    "negative_text": "negative text",
    "preferred_weight": "preferred weight",
    "vae": "vae",
}
"""Our fields by A1111's keys."""


@dataclass(frozen=True)
class UserMetadata:
    """What a person chose for a model."""

    description: str | None = None
    """Stands for the one of the .txt, even where it is empty; None: nothing was said."""
    notes: str = ""
    family: str = ""
    activation_text: str = ""
    """Follows the tag in the prompt."""
    negative_text: str = ""
    preferred_weight: float = 0.0
    """0: the program's default."""
    vae: str = ""
    """Of a checkpoint: a file name, "Automatic" or "None"; empty: nothing was said."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """Keys of other programs, kept as they are."""


def side_base(path: Path) -> Path:
    """The path whose stem side files share: a model's own; for the index of a folder in diffusers' layout one beside
    that folder.

    >>> side_base(Path("models/my.folder/model_index.json")).stem
    'my.folder'
    """
    return path.parent.with_name(f"{path.parent.name}.folder") if path.name == INDEX else path


def read_user(model: Path) -> UserMetadata:
    """What ``STEM.json`` says; one that cannot be read says nothing."""
    table = _table(model.with_suffix(".json"))
    own = {name: table[key] for name, key in _NAMES.items() if key in table}
    weight, description = own.pop("preferred_weight", 0), own.pop("description", None)
    number = float(weight) if isinstance(weight, (int, float)) and not isinstance(weight, bool) else 0.0
    texts = {name: value for name, value in own.items() if isinstance(value, str)}
    others = {key: value for key, value in table.items() if key not in _NAMES.values()}
    description = description if isinstance(description, str) else None
    return UserMetadata(description, preferred_weight=number, others=others, **texts)


def write_user(model: Path, chosen: UserMetadata) -> Path:
    """Write ``STEM.json`` as A1111 does, with what other programs keep there, and give its path."""
    path = model.with_suffix(".json")
    if path == model:
        raise UserError(f"{model.name} is no model", field="file")
    if path.exists() and not _is_table(path):
        raise UserError(
            f"{path.name} beside the file cannot be read, so nothing is written over it", hint="mend it or remove it"
        )
    table: dict[str, Any] = {**_table(path), **chosen.others}
    if chosen.description is None:  # what stands here hides the .txt, so that it says the same
        chosen = replace(chosen, description=read_description(model))
    for name, key in _NAMES.items():
        value = getattr(chosen, name)
        if value or key in table or name in ("description", "notes", "activation_text"):
            table[key] = "" if value is None else value
    return _written(path, json.dumps(table, indent=4, ensure_ascii=False).encode())


def _written(path: Path, data: bytes) -> Path:
    try:
        atomic.write(path, data)
    except OSError as error:
        raise OutputError(f"{path.name} cannot be written: {error.strerror or error}", place=path) from error
    return path


@dataclass(frozen=True)
class Downloaded:
    """What a downloader knows of a file."""

    name: str = ""
    version: str = ""
    base_model: str = ""
    trained_words: tuple[str, ...] = ()
    description: str = ""
    prompts: tuple[str, str] = ("", "")
    """Positive and negative, of the first picture that has them."""
    url: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What StabilityMatrix begins with for the model: numbers by the names of our parameters."""


def read_downloaded(model: Path) -> Downloaded:
    """What ``STEM.civitai.info`` says, else ``STEM.cm-info.json``."""
    return _civitai(_table(model.with_suffix(".civitai.info"))) or _cm(_table(model.with_suffix(".cm-info.json")))


def _civitai(table: Mapping[str, Any]) -> Downloaded | None:
    """Civitai's object of a model's version; an empty one is a file that is unknown there."""
    if not table:
        return None
    about, images = table.get("model"), table.get("images")
    metas = [image.get("meta") for image in images if isinstance(image, Mapping)] if isinstance(images, list) else []
    pair = next(((m.get("prompt"), m.get("negativePrompt")) for m in metas if isinstance(m, Mapping)), ("", ""))
    number = table.get("modelId")
    return Downloaded(
        name=_text(about.get("name") if isinstance(about, Mapping) else ""),
        version=_text(table.get("name")),
        base_model=_text(table.get("baseModel")),
        trained_words=_words(table.get("trainedWords")),
        description=plain(_text(table.get("description"))),
        prompts=(_text(pair[0]), _text(pair[1])),
        url=f"https://civitai.com/models/{number}" if isinstance(number, int) else "",
    )


def _cm(table: Mapping[str, Any]) -> Downloaded:
    return Downloaded(
        name=_text(table.get("UserTitle")) or _text(table.get("ModelName")),
        version=_text(table.get("VersionName")),
        base_model=_text(table.get("BaseModel")),
        trained_words=_words(table.get("TrainedWords")),
        description=plain(_text(table.get("ModelDescription"))),
        defaults=_defaults(table.get("InferenceDefaults")),
    )


def _defaults(table: Any) -> dict[str, Any]:
    names = {"Steps": "steps", "CfgScale": "cfg_scale", "Width": "width", "Height": "height"}
    return {names[key]: value for key, value in table.items() if key in names} if isinstance(table, Mapping) else {}


def read_description(model: Path) -> str:
    """``STEM.txt``, else ``STEM.description.txt``; what cannot be read says nothing."""
    for path in (model.with_suffix(".txt"), model.with_suffix(".description.txt")):
        try:
            if path.is_file() and path.stat().st_size <= MAX_BYTES:
                return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return ""


def preview_name(stem: str, names: Container[str]) -> str:
    """The picture that is shown for a model, among the file ``names`` of its folder; empty: there is none.

    >>> preview_name("ink", {"ink.preview.png", "ink.jpg", "ink.safetensors"})
    'ink.jpg'
    """
    candidates = [f"{stem}{middle}.{suffix}" for middle in ("", ".preview") for suffix in PREVIEWS]
    return next((name for name in candidates if name in names), "")


def preview_of(model: Path) -> Path | None:
    """The picture that is shown for a model; None: there is none."""
    names = [f"{model.stem}{middle}.{suffix}" for middle in ("", ".preview") for suffix in PREVIEWS]
    return next((path for name in names if (path := model.with_name(name)).is_file()), None)


def write_preview(model: Path, image: Image.Image, infotext: str = "", *, middle: str = "") -> Path:
    """Keep a picture as a model's preview, with the text that tells how it was made. ``middle``: ".preview" for
    embeddings and hypernetworks, as the reference has it; a picture that is shown before that one is replaced.
    """
    path, info = model.with_suffix(f"{middle}.png"), PngInfo()
    shown = model.with_suffix(".png")
    if middle and shown != model and shown.exists():
        path = shown
    if infotext:
        info.add_text("parameters", infotext)
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=info)
    return _written(path, data.getvalue())


def changed(model: Path, **values: Any) -> UserMetadata:
    """What a person chose, with ``values`` in it."""
    return replace(read_user(model), **values)


def _table(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_table(path: Path) -> bool:
    try:
        return not path.stat().st_size or isinstance(json.loads(path.read_text(encoding="utf-8-sig")), dict)
    except (OSError, ValueError, RecursionError):
        return False


class _Words(HTMLParser):
    """The words of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("p", "br", "li", "div", "h1", "h2", "h3", "tr") and self.found:
            self.found.append("\n")


def plain(html: str) -> str:
    """A downloader's description without its markup.

    >>> plain("<p>Draws <b>ink</b>.</p><p>Use &lt; 1.</p>")
    'Draws ink.\\nUse < 1.'
    """
    words = _Words()
    words.feed(html)
    words.close()
    lines = (" ".join(line.split()) for line in "".join(words.found).split("\n"))
    return "\n".join(line for line in lines if line)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()
