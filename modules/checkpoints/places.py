"""Where files of models lie: below our models folder, in further folders, and in installations of other programs.

What other programs call their folders, and what ``extra_model_paths.yaml`` says, is ComfyUI's, StabilityMatrix' and
A1111's own; the folders that an A1111 or Forge installation is started with are read from its ``webui-user`` files.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from modules.errors import NotFound, UserError

CHECKPOINTS, VAES, EMBEDDINGS, LORAS, HYPERNETWORKS = "checkpoints", "vaes", "embeddings", "loras", "hypernetworks"
UPSCALERS, RESTORERS = "upscalers", "restorers"
KINDS = CHECKPOINTS, VAES, EMBEDDINGS, LORAS, HYPERNETWORKS, UPSCALERS, RESTORERS
EXTRA_PATHS = "extra_model_paths.yaml"
STARTERS = "webui-user.sh", "webui-user.bat"
MAX_BYTES = 1_000_000

Folders = Mapping[str, Sequence[Path]]
"""By kind."""


@dataclass(frozen=True)
class ModelFolders:
    """The folders of each kind, of which the first counts most. One that is not there is as good as empty."""

    root: Path
    """Of our models, with upscalers, face restorers and networks in A1111's subfolders."""
    checkpoints: tuple[Path, ...] = ()
    vaes: tuple[Path, ...] = ()
    embeddings: tuple[Path, ...] = ()
    loras: tuple[Path, ...] = ()
    """This kind and the next ones: beside those below ``root``."""
    hypernetworks: tuple[Path, ...] = ()
    upscalers: tuple[Path, ...] = ()
    restorers: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = field(default=(), compare=False)
    """Those that somebody named and that are not there."""

    @property
    def text_encoders(self) -> tuple[Path, ...]:
        """Of text encoders, as Forge and ComfyUI name them."""
        return tuple(self.root / name for name in ("text_encoder", "text_encoders", "clip"))

    @property
    def approximations(self) -> Path:
        """Of tiny autoencoders, as A1111 or as ComfyUI names it."""
        own, other = self.root / "VAE-approx", self.root / "vae_approx"
        return other if other.is_dir() and not own.is_dir() else own


A1111: Mapping[str, tuple[str, ...]] = {
    CHECKPOINTS: ("Stable-diffusion",),
    VAES: ("VAE",),
    EMBEDDINGS: ("embeddings", "../embeddings"),
    LORAS: ("Lora", "LyCORIS"),
    HYPERNETWORKS: ("hypernetworks",),
    UPSCALERS: ("ESRGAN", "RealESRGAN", "BSRGAN", "SwinIR", "DAT", "HAT", "upscale_models"),
    RESTORERS: ("GFPGAN", "Codeformer", "facerestore_models", "facelib", "facexlib", "facedetection"),
}
"""Below the models folder of A1111 and Forge, and ours."""
COMFY: Mapping[str, tuple[str, ...]] = {
    CHECKPOINTS: ("checkpoints",),
    VAES: ("vae",),
    EMBEDDINGS: ("embeddings",),
    LORAS: ("loras",),
    HYPERNETWORKS: ("hypernetworks",),
    UPSCALERS: ("upscale_models",),
    RESTORERS: ("facerestore_models", "facedetection", "facexlib"),
}
MATRIX: Mapping[str, tuple[str, ...]] = {
    CHECKPOINTS: ("StableDiffusion",),
    VAES: ("VAE",),
    EMBEDDINGS: ("Embeddings", "TextualInversion"),
    LORAS: ("Lora", "LyCORIS"),
    HYPERNETWORKS: ("Hypernetwork",),
    UPSCALERS: ("ESRGAN", "RealESRGAN", "SwinIR"),
    RESTORERS: ("GFPGAN", "Codeformer"),
}
"""StabilityMatrix'."""
FLAGS: Mapping[str, tuple[str, str]] = {
    "--ckpt-dir": (CHECKPOINTS, ""),
    "--vae-dir": (VAES, ""),
    "--embeddings-dir": (EMBEDDINGS, ""),
    "--lora-dir": (LORAS, ""),
    "--lyco-dir": (LORAS, ""),
    "--hypernetwork-dir": (HYPERNETWORKS, ""),
    "--esrgan-models-path": (UPSCALERS, ""),
    "--realesrgan-models-path": (UPSCALERS, ""),
    "--bsrgan-models-path": (UPSCALERS, ""),
    "--swinir-models-path": (UPSCALERS, ""),
    "--dat-models-path": (UPSCALERS, ""),
    "--gfpgan-models-path": (RESTORERS, ""),
    "--codeformer-models-path": (RESTORERS, ""),
    "--data-dir": ("", "models"),
    "--models-dir": ("", ""),
}
"""A1111's flags of folders, as they stand in its start files: the kind and, where one names the parent of several
kinds, the folder of models below it."""
OTHER_NAMES = {
    "checkpoints": CHECKPOINTS,
    "vae": VAES,
    "embeddings": EMBEDDINGS,
    "loras": LORAS,
    "hypernetworks": HYPERNETWORKS,
    "upscale_models": UPSCALERS,
    "facerestore_models": RESTORERS,
    "facedetection": RESTORERS,
}
"""What ``extra_model_paths.yaml`` calls the kinds; it has more, which nothing here reads."""


def model_folders(models: Path, *, installations: Sequence[Path] = (), **more: Sequence[Path]) -> ModelFolders:
    """Ours below ``models``, then those of each kind in ``more``, then those of ``installations``: A1111, Forge,
    ComfyUI, StabilityMatrix, or an ``extra_model_paths.yaml`` itself. Raises `NotFound` for an installation that is
    not there, and `UserError` for one that holds no models.
    """
    ours = {kind: folders for kind, folders in _below(models, A1111).items() if kind in (CHECKPOINTS, VAES, EMBEDDINGS)}
    found = [ours, more, *(_installed(place) for place in installations)]
    named = {kind: _distinct(folder for each in found for folder in each.get(kind, ())) for kind in KINDS}
    missing = tuple(folder for folders in more.values() for folder in folders if not folder.exists())
    return ModelFolders(models, **named, missing=missing)


def _below(models: Path, names: Mapping[str, Sequence[str]]) -> Folders:
    return {kind: [Path(os.path.normpath(models / name)) for name in names[kind]] for kind in KINDS}


def _distinct(folders: Iterator[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folders))


def _merged(*each: Folders) -> Folders:
    return {kind: [folder for one in each for folder in one.get(kind, ())] for kind in KINDS}


def _installed(place: Path) -> Folders:
    """The folders of an installation that are there."""
    if not place.exists():
        raise NotFound(f"there is no folder {place}", hint="check how it is written", field="models_from")
    if place.is_file():
        found = _of_yaml(place)
    else:
        roots = [folder for name in ("models", "Models") if (folder := place / name).is_dir()] or [place]
        layouts = [_below(root, names) for root in roots[:1] for names in (A1111, COMFY, MATRIX)]
        extra = place / EXTRA_PATHS
        found = _merged(*layouts, *(_started_with(place / name) for name in STARTERS))
        found = _merged(found, _of_yaml(extra)) if extra.is_file() else found
    there = {kind: _really_distinct(folders) for kind, folders in found.items()}
    if not any(there.values()):
        raise UserError(
            f"there are no folders of models in {place}",
            hint="name the folder of A1111, Forge, ComfyUI or StabilityMatrix, or an extra_model_paths.yaml",
            field="models_from",
        )
    return there


def _really_distinct(folders: Sequence[Path]) -> list[Path]:
    """Those that are there, each once: where capitals do not count, two spellings are one folder."""
    found: dict[tuple[int, int], Path] = {}
    for folder in folders:
        if folder.is_dir():
            about = folder.stat()
            found.setdefault((about.st_dev, about.st_ino), folder)
    return list(found.values())


def _started_with(starter: Path) -> Folders:
    """The folders in ``COMMANDLINE_ARGS`` of a ``webui-user`` file, which are relative to it."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for flag, value in _arguments(starter):
        kind, below = FLAGS[flag]
        folder = _absolute(value, starter.parent)
        if kind:
            found[kind].append(folder)
        else:
            for name, folders in _below(folder / below, A1111).items():
                found[name] += folders
    return found


def _arguments(starter: Path) -> Iterator[tuple[str, str]]:
    """The flags of folders in a start file, each with its value."""
    words: list[str] = []
    for line in _text(starter).replace("^\n", " ").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.split()[-1:] == ["COMMANDLINE_ARGS"] and name.split()[0] in ("set", "export"):
            value = value.strip()
            value = value[1:-1] if value[:1] == value[-1:] == '"' and starter.suffix == ".sh" else value
            try:
                words = shlex.split(value.replace("\\", "/") if starter.suffix == ".bat" else value)
            except ValueError:  # a quote that nobody closed
                words = []
    words = [word for each in words for word in ([*each.split("=", 1)] if each.startswith("--") else [each])]
    for flag, value in pairwise(words):
        if flag in FLAGS and not value.startswith("--"):
            yield flag, value


def _of_yaml(path: Path) -> Folders:
    """The folders in an ``extra_model_paths.yaml``. Groups that are default come first."""
    try:
        groups = yaml.safe_load(_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML", hint="correct or remove it", field="models_from") from error
    entries = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    entries.sort(key=lambda group: not group.get("is_default"))
    return _merged(*(_of_group(group, path.parent) for group in entries))


def _of_group(group: Mapping[Any, Any], beside: Path) -> Folders:
    base = _absolute(str(group.get("base_path") or ""), beside)
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for name, value in group.items():
        kind = OTHER_NAMES.get(str(name))
        lines = value if isinstance(value, list) else str(value or "").splitlines()
        if kind:
            found[kind] += [_absolute(str(line).strip(), base) for line in lines if str(line).strip()]
    return found


def _absolute(text: str, beside: Path) -> Path:
    return Path(os.path.normpath(beside / _home(Path(os.path.expandvars(text)))))


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # of somebody who is not here
        return path


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
