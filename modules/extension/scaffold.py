"""Writes the skeleton of a new extension, which loads and passes its tests."""

from __future__ import annotations

from pathlib import Path

from modules.errors import UserError
from modules.extension.manifest import API, NAME

MANIFEST = """name = "{name}"
version = "0.1"
api = {api}
description = "What it does, in one sentence."
permissions = ["modifier"]  # what register() adds; extensions/README.md lists them all
requirements = []  # such as "numpy>=2": compared with the program's own, never installed
"""
CODE = '''"""{title}: say here what it does. The guide is extensions/README.md."""

from __future__ import annotations

from dataclasses import dataclass

from modules import GenerationParams, Guidance, Host, Modifier, ModifierSpec, option


@dataclass(frozen=True)
class Options:
    """Each option becomes a control in every tab, a field of the API, a key of the text, an axis of grids."""

    words: str = option("", "Words", help="added to the prompt")
    strength: float = option(1.0, "Strength", lo=0.0, hi=2.0, step=0.05, help="of the guidance; 1: as it is")


class {cls}(Modifier):
    """One is made for each request in which it is switched on. Delete the hooks that you do not need."""

    def __init__(self, options: Options):
        self.options = options

    def revise(self, params: GenerationParams) -> GenerationParams:
        """The request of one image, changed. The answer must follow from `params` and the options alone."""
        return params.changed(prompt=", ".join(filter(None, (params.prompt, self.options.words))))

    def guidance(self, guidance: Guidance) -> Guidance:
        """Around (positive, negative, scale) -> x0. `network` and `denoiser` are wrapped in the same way."""
        return lambda positive, negative, scale: guidance(positive, negative, scale * self.options.strength)

    # @contextmanager
    # def patch(self, model):
    #     """Change weights of model.unet, model.vae, model.text, and put back exactly what was there."""
    #     weight = model.unet.get_parameter("out.2.weight")
    #     before = weight.clone()
    #     weight.mul_(0.9)
    #     try:
    #         yield
    #     finally:
    #         weight.copy_(before)

    # def finish(self, image):
    #     """A finished picture, before it is saved. Import torch within a hook only: the server has none."""
    #     return image


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    host.add_modifier(ModifierSpec("{name}", "{title}", Options, {cls}, order=100, help="What the switch does"))
'''


def write_skeleton(folder: Path, name: str) -> Path:
    """Create the extension's folder below ``folder``; raises `UserError` if it exists or the name is invalid."""
    if not NAME.fullmatch(name) or len(name) < 2:
        raise UserError(f"{name[:40]!r} is no name for an extension", hint="use small letters, digits and _")
    place = folder / name
    if place.exists():
        raise UserError(f"{place} is there already", hint="choose another name")
    words = name.replace("_", " ")
    facts = {"name": name, "api": API, "title": words.capitalize(), "cls": words.title().replace(" ", "")}
    place.mkdir(parents=True)
    (place / "extension.toml").write_text(MANIFEST.format(**facts), encoding="utf-8")
    (place / "__init__.py").write_text(CODE.format(**facts), encoding="utf-8")
    return place
