from modules import Modifier, ModifierSpec


class Options:
    amount = 0.5


def register(host):
    host.add_modifier(ModifierSpec("no_dataclass", "No dataclass", Options, lambda options: Modifier()))
