"""`python -m tests.benchmarks PART ...`, with the parts of `PARTS`: figures of this machine. `compare BASE` has another
commit beside this tree.

Absolute seconds differ between machines and hours; quote the medians and the ratios.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from modules import machine
from tests.benchmarks import compare

PARTS = (
    *("api", "cards", "gpu", "image", "kernels", "memory", "networks"),
    *("page", "prompt", "samplers", "start", "unet", "replay"),
)
"""Modules beside this one, each imported only when it runs: not every machine has what all of them need."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: image and start")
    parser.add_argument("--seconds", type=float, default=150, help="the time that gpu may take (default: 150)")
    parser.add_argument("--full", action="store_true", help="api: all requests, followers and starts (minutes)")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows of gpu")
    parser.add_argument("--rounds", type=int, default=compare.ROUNDS, help="of compare (default: %(default)s)")
    if sys.argv[1:2] == ["compare"]:
        base, *rest = sys.argv[2:] or ["HEAD"]
        compare.main(base, parser.parse_args(rest).rounds)
        return
    args = parser.parse_args()
    machine.ask_for_huge_pages()  # as app.py does
    for part in args.parts or ("image", "start"):
        print(f"== {part}")
        options = {"seconds": args.seconds, "out": args.out} if part == "gpu" else {}
        options |= {"full": args.full} if part == "api" else {}
        import_module(f"tests.benchmarks.{part}").main(**options)


if __name__ == "__main__":
    main()
