"""A report for bug reports: versions, machine, number of models. Holds no prompt, no secret, and no name of a home
folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECRET = re.compile(r"(auth|token|password|secret|key)", re.IGNORECASE)


def report(
    version: str, arguments: Sequence[str], models: Mapping[str, int], extensions: Sequence[str]
) -> dict[str, Any]:
    """``models``: how many files there are of each kind."""
    return {
        "Reprise": version,
        "Python": sys.version.split()[0],
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "memory": _memory(),
        "arguments": hidden(arguments),
        "environment": {
            name: value for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS") if (value := os.environ.get(name))
        },
        "models": dict(models),
        "extensions": sorted(extensions),
        "packages": sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}),
    }


def hidden(arguments: Sequence[str]) -> list[str]:
    """Arguments without the values of flags that sound secret.

    >>> hidden(["--api-auth", "me:pw", "--port", "80", "--tls-keyfile=/k"])
    ['--api-auth', '...', '--port', '80', '--tls-keyfile=...']
    """
    told: list[str] = []
    secret = False
    for word in arguments:
        flag, equals, _ = word.partition("=")
        if word.startswith("--"):
            secret = bool(SECRET.search(flag))
            told.append(f"{flag}=..." if secret and equals else word.replace(str(Path.home()), "~"))
            secret = secret and not equals
        else:
            told.append("..." if secret else word.replace(str(Path.home()), "~"))
    return told


def write(folder: Path, told: Mapping[str, Any]) -> Path:
    """Write a report beside what is there already; raises `OSError`."""
    path = folder / time.strftime("sysinfo-%Y-%m-%d-%H-%M-%S.json")
    path.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return path


def _memory() -> int:
    """Bytes of the machine's memory; 0: the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
