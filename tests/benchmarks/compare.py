"""`python -m tests.benchmarks compare BASE`: this tree beside another commit, in turn, so that a slow hour slows both.

Each part is a small program that runs in either tree with this Python and prints seconds. It may use what both trees
have: the entry points that are named here and hardly ever change.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = 5
TIMED = """
import time, sys
from pathlib import Path
def timed(work, times):
    work()
    for _ in range(times):
        begin = time.perf_counter()
        work()
        print("seconds", time.perf_counter() - begin)
"""
ENGINE = """
from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.devices import choose
from modules.engine import Engine
from modules.extension.host import Host
from modules.params.generation import GenerationParams
host = Host()
register(host)
engine = Engine(ModelStore(Path("models/Stable-diffusion"), choose(), Hashes()), host, version="compare")
params = GenerationParams(prompt="a red fox in the snow", sampler="DPM++ 2M", steps=8, width=256, height=256, seed=1)
"""
IMPORTED = """
begin = time.perf_counter()
import {}
print("seconds", time.perf_counter() - begin)
"""
PARTS: Mapping[str, str] = {
    "an image": ENGINE + "timed(lambda: engine.run(params, lambda result: None), 2)",
    "four images at once": ENGINE + "timed(lambda: engine.run(params.changed(batch_size=4), lambda result: None), 1)",
    "a long prompt read": """
from modules.prompt.parse import parse
text = ", ".join(f"(word{n}:1.{n % 9}) [red:blue:0.{n % 9}]" for n in range(200))
timed(lambda: parse(text), 3)
""",
    "the server's imports": IMPORTED.format("webui.server"),
    "the engine's imports": IMPORTED.format("modules.engine"),
    "generate on the command line": """
import subprocess, tempfile
with tempfile.TemporaryDirectory() as data:
    def work():
        words = ["generate", "a red fox", "--steps", "2", "--width", "128", "--height", "128", "--seed", "1"]
        subprocess.run([sys.executable, "app.py", *words, "--data-dir", data, "--output", f"{data}/x.png"], check=True)
    timed(work, 1)
""",
}
"""What is timed, by name; each prints one or more lines "seconds X"."""
Run = Callable[[Path, str], Sequence[float]]


@dataclass(frozen=True)
class Row:
    """Seconds of one part in both trees, in pairs that were measured one after the other."""

    name: str
    pairs: Sequence[tuple[float, float]]
    """Of (base, this tree)."""

    @property
    def ratios(self) -> list[float]:
        return sorted(new / old for old, new in self.pairs)

    def __str__(self) -> str:
        """
        >>> print(Row("an image", [(2.0, 1.0), (2.0, 1.2), (2.0, 0.9)]))
        an image: 2.000 -> 1.000 s, ratio 0.50 (0.45 to 0.60)
        """
        old, new = (statistics.median(times) for times in zip(*self.pairs, strict=True))
        ratios = self.ratios
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        return f"{self.name}: {old:.3f} -> {new:.3f} s, ratio {statistics.median(ratios):.2f} ({spread})"


def main(base: str, rounds: int = ROUNDS, names: Sequence[str] = ()) -> None:
    """Print a line for each part. ``base``: any name of a commit. ``names``: parts; empty: all."""
    with checked_out(base) as tree:
        print(f"{base} -> this tree, {rounds} rounds in turn; ratios below 1 are faster, in brackets the spread")
        for name in names or PARTS:
            print(compared(name, tree, ROOT, rounds, measured), flush=True)


def compared(name: str, base: Path, tree: Path, rounds: int, run: Run) -> Row | str:
    """A part in both trees, in turn; the other one first in every second round. A sentence where one cannot run it."""
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        order = (base, tree) if number % 2 == 0 else (tree, base)
        try:
            found = {place: statistics.median(run(place, PARTS[name])) for place in order}
        except subprocess.CalledProcessError as error:
            last = (error.stderr or "").strip().splitlines()[-1:] or ["it ended with an error"]
            return f"{name}: cannot be compared ({last[0][:200]})"
        pairs.append((found[base], found[tree]))
    return Row(name, pairs)


def measured(tree: Path, part: str) -> list[float]:
    """The seconds that a part prints in a tree. Raises `CalledProcessError`."""
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", TIMED + part], cwd=tree, env=env, capture_output=True, text=True, check=True
    )
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds ")]


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The files of a commit in a folder of their own, for as long as they are needed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
