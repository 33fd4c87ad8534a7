"""Ends the process, or never comes back."""

import os
import time
from dataclasses import dataclass

from modules import Modifier, ModifierSpec, option


@dataclass(frozen=True)
class Options:
    how: str = option("exit", "How", choices=("exit", "hang"))


class Ends(Modifier):
    def __init__(self, how):
        self.how = how

    def finish(self, image):
        if self.how == "exit":
            os._exit(9)
        while True:
            time.sleep(0.01)


def register(host):
    host.add_modifier(ModifierSpec("ends_worker", "Ends", Options, lambda options: Ends(options.how)))
