from dataclasses import dataclass

from modules import Modifier, ModifierSpec


@dataclass(frozen=True)
class Options:
    pass


def register(host):
    host.add_modifier(ModifierSpec("half", "Half", Options, lambda options: Modifier()))
    raise KeyError("the other half")
