"""Where files of models lie: below one models folder, in folders of their own, or in another program's installation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.errors import NotFound


@dataclass(frozen=True)
class ModelFolders:
    """One folder for each kind; ``root`` holds upscalers and face restorers in A1111's subfolders."""

    root: Path
    checkpoints: Path
    vaes: Path
    embeddings: Path
    loras: tuple[Path, ...] = ()
    """Beside ``root/Lora`` and ``root/LyCORIS``."""


def model_folders(
    models: Path,
    *,
    installation: Path | None = None,
    checkpoints: Path | None = None,
    vaes: Path | None = None,
    embeddings: Path | None = None,
    loras: Sequence[Path] = (),
) -> ModelFolders:
    """``installation``: of A1111, Forge or ComfyUI, whose folders stand in for ``models``. The others, where they are
    given, stand in for the folder of their kind; ``loras`` are further ones. `NotFound` for a folder that is not there.
    """
    for folder in filter(None, (installation, checkpoints, vaes, embeddings, *loras)):
        if not folder.is_dir():
            raise NotFound(f"there is no folder {folder}", hint="check how it is written", field="models_dir")
    found = _below(models) if installation is None else _of(installation)
    return ModelFolders(
        found.root,
        checkpoints or found.checkpoints,
        vaes or found.vaes,
        embeddings or found.embeddings,
        (*found.loras, *loras),
    )


def _below(models: Path) -> ModelFolders:
    return ModelFolders(models, models / "Stable-diffusion", models / "VAE", models / "embeddings")


def _of(installation: Path) -> ModelFolders:
    """Of A1111 and Forge ``models`` and, beside it, ``embeddings``; of ComfyUI other names below ``models``."""
    models = installation / "models" if (installation / "models").is_dir() else installation
    found = _below(models)
    if (models / "checkpoints").is_dir():
        embeddings = models / "embeddings"
        return ModelFolders(models, models / "checkpoints", models / "vae", embeddings, (models / "loras",))
    beside = installation / "embeddings"
    return ModelFolders(models, found.checkpoints, found.vaes, beside if beside.is_dir() else found.embeddings)
