"""Leaves the weights changed by what rounding leaves of a product and its quotient."""

from contextlib import contextmanager
from dataclasses import dataclass

from modules import Modifier, ModifierSpec


@dataclass(frozen=True)
class Options:
    pass


class Spoils(Modifier):
    @contextmanager
    def patch(self, model):
        weight = model.unet.get_parameter("input_blocks.0.0.weight")
        weight *= 1.1
        yield
        weight /= 1.1


def register(host):
    host.add_modifier(ModifierSpec("spoils", "Spoils", Options, lambda options: Spoils()))
