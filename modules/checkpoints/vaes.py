"""Standalone VAE files: where they are, and which one a request means. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modules.checkpoints.choices import read_choices
from modules.checkpoints.files import PICKLES, read_header
from modules.checkpoints.folders import Folders, below, each, files_below, told_apart
from modules.checkpoints.matching import ambiguous, match, refuse_dead_link
from modules.checkpoints.networks.side_files import side_base
from modules.errors import CheckpointError, UnknownName
from modules.registry import MOST_NAMED, hint_for

AUTOMATIC, OWN = "Automatic", "None"
"""Special values of a request: the VAE that the checkpoint's card remembers, else the one named like the checkpoint, if
there is one; always the checkpoint's own."""


def no_vae(name: str, others: Sequence[str]) -> CheckpointError:
    """The error for a checkpoint that needs a VAE in a file of its own and has none; ``others``: those here."""
    names = ", ".join(map(repr, others[:MOST_NAMED])) + ", …" * (len(others) > MOST_NAMED)
    hint = f"choose a VAE: there is {names}" if others else "put a VAE for it into models/VAE and choose it"
    return CheckpointError(f"{name} has no autoencoder of its own", hint=hint, field="vae")


class VaeFolders:
    """The VAEs in the VAE folder, and beside checkpoints as ``NAME.vae.safetensors``, listed by file name."""

    def __init__(self, vaes: Folders, checkpoints: Folders):
        self.folder = vaes
        self._checkpoints = checkpoints

    def list(self, suffixes: tuple[str, ...] = (".safetensors",)) -> dict[str, Path]:
        """All VAEs by name. The VAE folder wins over files beside checkpoints; duplicates within it are listed by
        path.
        """
        beside = files_below(self._checkpoints, tuple(f".vae{suffix}" for suffix in suffixes))
        found = {path.name: path for path in sorted(beside, reverse=True)}
        own: dict[str, Path] = {}
        for path in sorted(files_below(self.folder, suffixes), key=lambda path: (len(path.parts), path)):
            name = path.name if path.name not in own else below(path, self.folder).as_posix()
            own[told_apart(name, path, self.folder, own)] = path
        return dict(sorted((found | own).items(), key=lambda item: (item[0].casefold(), item[0])))

    def find(self, wanted: str, checkpoint: Path) -> Path | None:
        """The VAE file that ``wanted`` means for ``checkpoint``; None: the checkpoint's own autoencoder.

        "Automatic" is the one that its card prefers, else one whose name begins like the checkpoint's.
        """
        if wanted == OWN:
            return None
        listed = self.list()
        if wanted == AUTOMATIC:
            preferred = read_choices(checkpoint).preset.vae
            if preferred == OWN:
                return None
            if preferred in listed:
                return listed[preferred]
            stem = side_base(checkpoint).stem
            return next((path for path in listed.values() if path.name.startswith(stem)), None)
        found = match(wanted, listed, self._below)
        if found.file:
            return found.file
        if found.several:
            raise ambiguous(wanted, found.several, "vae")
        if pickle := match(wanted, self.list(PICKLES), self._below).file:
            read_header(pickle, field="vae")  # raises with the way to convert it
        refuse_dead_link(wanted, (*each(self.folder), *each(self._checkpoints)), "vae")
        hint = hint_for(wanted, list(listed), none="put it into models/VAE")
        raise UnknownName(f"no VAE named {wanted!r}", hint=hint, field="vae")

    def _below(self, path: Path) -> str:
        own = any(path.is_relative_to(folder) for folder in each(self.folder))
        return below(path, self.folder if own else self._checkpoints).as_posix()

    def name_of(self, path: Path) -> str:
        """The name under which `list` has the file."""
        return next((name for name, listed in self.list().items() if listed == path), path.name)

    def lost(self, checkpoint: Path) -> str:
        """The VAE that a checkpoint's card prefers and that is not here; empty: there is none such."""
        preferred = read_choices(checkpoint).preset.vae
        return preferred if preferred and preferred not in (OWN, AUTOMATIC, *self.list()) else ""

    def guessed(self, checkpoint: Path, used: Path | None) -> str:
        """The VAE that "Automatic" took because its name goes on where the checkpoint's ends, which may be chance: not
        ``NAME.vae.safetensors``, and not the card's; empty: it is none such.
        """
        stem = side_base(checkpoint).stem
        if used is None or not used.name.startswith(stem) or used.name.startswith(f"{stem}."):
            return ""
        return "" if self.list().get(read_choices(checkpoint).preset.vae or "") == used else used.name

    def unconverted(self, checkpoint: Path) -> Path | None:
        """A pickled VAE that "Automatic" would choose if it were safetensors; None if there is none."""
        stem = side_base(checkpoint).stem
        return next((path for path in self.list(PICKLES).values() if path.name.startswith(stem)), None)
