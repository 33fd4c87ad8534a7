"""`python -m tests.benchmarks PART ...`, with the parts of `PARTS`: figures of this machine.

Absolute seconds differ between machines and hours; quote the medians and the ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tests.benchmarks import image, kernels, networks, page, prompt, replay, samplers, start, unet

PARTS: dict[str, Callable[[], None]] = {
    "image": image.main,
    "kernels": kernels.main,
    "networks": networks.main,
    "page": page.main,
    "prompt": prompt.main,
    "samplers": samplers.main,
    "start": start.main,
    "unet": unet.main,
    "replay": replay.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: image and start")
    for part in parser.parse_args().parts or ("image", "start"):
        print(f"== {part}")
        PARTS[part]()


if __name__ == "__main__":
    main()
