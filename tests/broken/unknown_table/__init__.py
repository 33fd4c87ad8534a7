from dataclasses import dataclass

from modules import Modifier, ModifierSpec, option


@dataclass(frozen=True)
class Options:
    which: str = option("", "Which", choices="controlnets")


def register(host):
    host.add_modifier(ModifierSpec("unknown_table", "Unknown table", Options, lambda options: Modifier()))
