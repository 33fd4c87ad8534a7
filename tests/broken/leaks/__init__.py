"""Keeps fifty megabytes of each picture."""

from dataclasses import dataclass

from modules import Modifier, ModifierSpec

KEPT = []


@dataclass(frozen=True)
class Options:
    pass


class Leaks(Modifier):
    def finish(self, image):
        KEPT.append(b"\1" * 50_000_000)
        return image


def register(host):
    host.add_modifier(ModifierSpec("leaks", "Leaks", Options, lambda options: Leaks()))
