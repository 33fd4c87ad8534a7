"""Hashes by which network files are known: those in generation texts, and those of older programs."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

from modules.checkpoints.files import MAX_HEADER, Hashes
from modules.checkpoints.networks.metadata import Metadata

_OLD_START, _OLD_LENGTH = 0x100000, 0x10000


def data_sha256(path: Path) -> str:
    """Of a safetensors file behind its header, so that other metadata make no other file; of the whole of any other."""
    with path.open("rb") as file:
        if path.suffix.lower() == ".safetensors":
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            file.seek(8 + length if length <= MAX_HEADER else 0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def stated_hash(metadata: Metadata) -> str:
    """What the trainer computed; empty where the file does not say."""
    stated: Any = metadata.get("sshs_model_hash")
    return stated if isinstance(stated, str) else ""


def old_hash(path: Path) -> str:
    """A1111's first hash: 8 digits of the SHA-256 of 64 KB from the first megabyte on."""
    with path.open("rb") as file:
        file.seek(_OLD_START)
        return hashlib.sha256(file.read(_OLD_LENGTH)).hexdigest()[:8]


def short(digest: str) -> str:
    """As generation texts have it."""
    return digest[:12]


class DataHashes(Hashes):
    """`Hashes` of what lies behind the headers."""

    def _digest(self, path: Path) -> str:
        return data_sha256(path)
