from dataclasses import dataclass

from modules import Modifier, ModifierSpec


@dataclass(frozen=True)
class Options:
    pass


def register(host):
    host.add_modifier(ModifierSpec("first", "First", Options, lambda options: Modifier(), order="first"))
