"""The memory of the card as its driver tells it: the server has no torch, and the worker may be busy."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field

from modules.jobs.protocol import Json

PROGRAM = "nvidia-smi"
TIMEOUT_S = 5.0
MIB = 2**20
UNAVAILABLE: Json = {"error": "unavailable"}


@dataclass
class CardMemory:
    """Asks for the memory of the first card, and keeps the most that was seen in use."""

    peak: int = field(default=0)

    def told(self) -> Json:
        """A1111's ``cuda`` part of ``/memory``: ``system`` in bytes, and what programs hold of the card as
        ``reserved``. What of that is in use within them, only they know: it is given as if it were all.
        """
        found = _numbers("--query-gpu=memory.free,memory.used,memory.total")
        if len(found) < 3:
            return UNAVAILABLE
        free, used, total = (number * MIB for number in found[:3])
        held = sum(_numbers("--query-compute-apps=used_memory")) * MIB
        self.peak = max(self.peak, held)
        both = {"current": held, "peak": self.peak}
        return {
            "system": {"free": free, "used": used, "total": total},
            "active": both,
            "allocated": both,
            "reserved": both,
            "inactive": {"current": 0, "peak": 0},
            "events": {"retries": 0, "oom": 0},
        }


def _numbers(query: str) -> list[int]:
    """The numbers of the first card, in MiB; none where there is no driver."""
    program = shutil.which(PROGRAM)
    if program is None:
        return []
    command = [program, query, "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    words = done.stdout.replace("\n", ",").split(",") if done.returncode == 0 else []
    return [int(word) for word in map(str.strip, words) if word.isdigit()]
