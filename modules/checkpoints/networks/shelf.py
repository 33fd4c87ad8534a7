"""All networks that prompts may name, LoRA and its relatives and hypernetworks, with the hashes of their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.checkpoints.files import Hashes
from modules.checkpoints.matching import dead_link
from modules.checkpoints.networks.hashes import DataHashes
from modules.checkpoints.networks.listing import (
    LORA_SUFFIXES,
    NetworkFile,
    NetworkFolders,
    NetworkListing,
    describe_hypernetwork,
)

ROLES = LORA, HYPERNETWORK = "lora", "hypernetwork"
"""Roles of their files in a recipe."""


class NetworkShelf:
    """The folders below a models folder, as they are whenever somebody asks."""

    def __init__(
        self,
        models: Path | None = None,
        data: Path | None = None,
        *,
        extra: Iterable[Path] = (),
        hypernetworks: Iterable[Path] = (),
    ):
        """Without ``models`` it is empty. ``data``: where hashes and what headers say are kept. ``extra``,
        ``hypernetworks``: further folders of LoRAs, and of those.
        """
        loras = [*([models / "Lora", models / "LyCORIS"] if models else []), *extra]
        hypers = [*([models / "hypernetworks"] if models else []), *hypernetworks]
        cache, tried = (data / "networks.json", data / "networks-tried.json") if data else (None, None)
        self._folders = {
            LORA: NetworkFolders(loras, LORA_SUFFIXES, cache, tried=tried),
            HYPERNETWORK: NetworkFolders(hypers, (".pt",), describe=describe_hypernetwork, tried=tried),
        }
        self._hashes = Hashes(data / "network-hashes.json" if data else None)
        self._data_hashes = DataHashes(data / "network-data-hashes.json" if data else None)

    def read(self, role: str = LORA) -> NetworkListing:
        """All files of a role, those that are new read first."""
        return self._folders[role].read()

    def listed(self, role: str = LORA) -> NetworkListing:
        """All files at once, with what is known of them; what is new is read in the background."""
        listing = self._folders[role].listed()
        if listing.unread:
            self._folders[role].read_in_background()
        return listing

    def dead_link(self, role: str, name: str) -> str:
        """What to say of a name that means a link to nothing; empty where it means none."""
        return dead_link(name, self._folders[role].folders)

    def remember(self, role: str, file: NetworkFile, problem: str) -> None:
        """That a file turned out to be of no use, so that its card and the inspector say so too."""
        self._folders[role].remember(file, problem)

    def sha256(self, file: NetworkFile) -> str:
        """Of the whole file, by which a recipe knows it."""
        return self._hashes.sha256(file.path)

    def network_hash(self, file: NetworkFile) -> str:
        """By which generation texts know a LoRA: what the file states, else the SHA-256 of its data."""
        return file.described.hash or self._data_hashes.sha256(file.path)

    def known_hashes(self, files: Sequence[NetworkFile]) -> list[str]:
        """The same of many, each where it needs no computing; else empty."""
        computed = self._data_hashes.all_known(file.path for file in files)
        return [file.described.hash or computed[file.path] for file in files]

    def recorded(self, role: str, files: Iterable[tuple[str, str]]) -> NetworkListing:
        """Of a recipe's (file name, SHA-256) those that are here, under the names that they had."""
        wanted = list(files)
        here = self.read(role) if wanted else NetworkListing()
        by_hash = {self.sha256(file): file for file in here.files}
        return here.recorded((name, by_hash[sha256]) for name, sha256 in wanted if sha256 in by_hash)
