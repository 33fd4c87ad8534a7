"""Autoencoders in files of their own: where they lie, and which one a request means. No torch here."""

from __future__ import annotations

from pathlib import Path

from modules.checkpoints.files import PICKLES, files_below, read_header
from modules.errors import UnknownName

AUTOMATIC, OWN = "Automatic", "None"
"""What a request may say instead of a file's name: the one called like the checkpoint, if there is one; never one."""


class VaeFolders:
    """VAEs in their own folder, and beside checkpoints as ``NAME.vae.safetensors``. They are called by their files."""

    def __init__(self, vaes: Path, checkpoints: Path):
        self._vaes = vaes
        self._checkpoints = checkpoints

    def list(self, suffixes: tuple[str, ...] = (".safetensors",)) -> dict[str, Path]:
        """All by name; of two with one name that in the VAE folder counts."""
        beside = files_below(self._checkpoints, tuple(f".vae{suffix}" for suffix in suffixes))
        found = {path.name: path for path in (*beside, *files_below(self._vaes, suffixes))}
        return dict(sorted(found.items(), key=lambda item: item[0].casefold()))

    def find(self, wanted: str, checkpoint: Path) -> Path | None:
        """The file that ``wanted`` means together with ``checkpoint``; None: the checkpoint's own autoencoder."""
        if wanted == OWN:
            return None
        found = self.list()
        if wanted == AUTOMATIC:
            return next((path for name, path in found.items() if name.startswith(checkpoint.stem)), None)
        key = wanted.strip().casefold()
        for name, path in found.items():
            if key in (name.casefold(), path.stem.casefold()):
                return path
        for name, path in self.list(PICKLES).items():
            if key in (name.casefold(), path.stem.casefold()):
                read_header(path, field="vae")  # raises with the way to convert it
        names = ", ".join(repr(name) for name in list(found)[:8]) or "none in models/VAE"
        raise UnknownName(f"no VAE named {wanted!r}", hint=f"there is {names}", field="vae")

    def unconverted(self, checkpoint: Path) -> Path | None:
        """A pickle that Automatic would mean, were it safetensors."""
        return next((path for name, path in self.list(PICKLES).items() if name.startswith(checkpoint.stem)), None)
