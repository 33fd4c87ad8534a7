"""Reading prompts, against their length. The reference's grammar (Lark, Earley) took 6 s for 401 characters of nested
brackets on the machine on which the design was measured, and over 60 s for 2,000."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from modules.prompt.explain import explain
from modules.prompt.parse import parse

LENGTHS = (1_000, 3_000, 10_000, 30_000, 100_000)
STEPS = 20


def repeated(piece: str) -> Callable[[int], str]:
    return lambda length: piece * (length // len(piece))


SHAPES: dict[str, Callable[[int], str]] = {
    "words": repeated("a red fox in the snow, "),
    "weights": repeated("(fox:1.2), "),
    "edits": repeated("[a:b:0.5]"),
    "alternations": repeated("[a|b] "),
    "nested ( )": lambda length: "(" * (length // 2) + ")" * (length // 2),
    "nested [ ]": lambda length: "[" * (length // 2) + "]" * (length // 2),
    "nested edits": lambda length: "[" * (length // 8) + "a" + ":b:0.5]" * (length // 8),
    "unclosed": repeated("(["),
}


def main() -> None:
    """Prints CPU milliseconds from text to tree, and time's growth over the length's: 1 is linear."""
    parse("warm")
    print(f"{'milliseconds':14}" + "".join(f"{length:>10,}" for length in LENGTHS) + "    growth")
    for name, shape in SHAPES.items():
        times = [fastest(shape(length)) for length in LENGTHS]
        growth = times[-1] / times[-3] / (LENGTHS[-1] / LENGTHS[-3])
        print(f"{name:14}" + "".join(f"{1000 * taken:10.1f}" for taken in times) + f"{growth:10.2f}")
    print(f"401 characters of nested brackets: {1000 * fastest('[' * 200 + 'a' + ']' * 200):.1f} ms; Earley: 6,000 ms")
    text = SHAPES["words"](20_000)
    explain(text, steps=STEPS)
    begin = time.process_time()
    explain(text, steps=STEPS)
    print(f"inspector's data for 20,000 characters of words: {1000 * (time.process_time() - begin):.0f} ms")


def fastest(text: str, rounds: int = 3) -> float:
    """CPU seconds of the fastest of a few."""
    times = []
    for _ in range(rounds):
        gc.collect()  # what earlier rounds left is not this one's time
        begin = time.process_time()
        parse(text)
        times.append(time.process_time() - begin)
    return min(times)
