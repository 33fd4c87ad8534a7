"""What the pictures show. A concept is one glyph of the emoji font with a name of our own; more rows, more concepts.

The order is part of the data: a judge's classes are indices into `CONCEPTS`, so new rows go to the end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """``name`` as captions say it, ``glyph`` as the font draws it."""

    name: str
    glyph: str
    many: str = ""
    """The plural, where it is not the name with an s."""

    @property
    def plural(self) -> str:
        return self.many or self.name + "s"

    @property
    def article(self) -> str:
        return "an" if self.name[0] in "aeiou" else "a"


def _row(glyph: str, name: str, many: str = "") -> Concept:
    return Concept(name, glyph, many)


CONCEPTS: tuple[Concept, ...] = (
    # animals
    _row("\U0001f408", "cat"),
    _row("\U0001f415", "dog"),
    _row("\U0001f98a", "fox", "foxes"),
    _row("\U0001f981", "lion"),
    _row("\U0001f405", "tiger"),
    _row("\U0001f43b", "bear"),
    _row("\U0001f43c", "panda"),
    _row("\U0001f407", "rabbit"),
    _row("\U0001f40e", "horse"),
    _row("\U0001f404", "cow"),
    _row("\U0001f416", "pig"),
    _row("\U0001f411", "sheep", "sheep"),
    _row("\U0001f418", "elephant"),
    _row("\U0001f992", "giraffe"),
    _row("\U0001f412", "monkey"),
    _row("\U0001f989", "owl"),
    _row("\U0001f413", "rooster"),
    _row("\U0001f427", "penguin"),
    _row("\U0001f438", "frog"),
    _row("\U0001f422", "turtle"),
    _row("\U0001f40d", "snake"),
    _row("\U0001f41f", "fish", "fish"),
    _row("\U0001f988", "shark"),
    _row("\U0001f433", "whale"),
    _row("\U0001f419", "octopus", "octopuses"),
    _row("\U0001f980", "crab"),
    _row("\U0001f98b", "butterfly", "butterflies"),
    _row("\U0001f41d", "bee"),
    _row("\U0001f41e", "ladybug"),
    _row("\U0001f40c", "snail"),
    # food
    _row("\U0001f34e", "apple"),
    _row("\U0001f34c", "banana"),
    _row("\U0001f353", "strawberry", "strawberries"),
    _row("\U0001f34d", "pineapple"),
    _row("\U0001f349", "watermelon"),
    _row("\U0001f34b", "lemon"),
    _row("\U0001f955", "carrot"),
    _row("\U0001f355", "pizza"),
    _row("\U0001f354", "hamburger"),
    _row("\U0001f366", "ice cream"),
    _row("\U0001f382", "cake"),
    _row("\U0001f369", "donut"),
    # plants
    _row("\U0001f333", "tree"),
    _row("\U0001f335", "cactus", "cactuses"),
    _row("\U0001f33b", "sunflower"),
    _row("\U0001f339", "rose"),
    _row("\U0001f344", "mushroom"),
    # vehicles
    _row("\U0001f697", "car"),
    _row("\U0001f68c", "bus", "buses"),
    _row("\U0001f682", "train"),
    _row("\U0001f6b2", "bicycle"),
    _row("\U0001f6eb", "airplane"),
    _row("\U0001f680", "rocket"),
    _row("\u26f5", "sailboat"),
    # things and figures
    _row("\U0001f3e0", "house"),
    _row("\U0001f3f0", "castle"),
    _row("\U0001f3b8", "guitar"),
    _row("\U0001f388", "balloon"),
    _row("\u2764", "heart"),
    _row("\u2b50", "star"),
    _row("\U0001f451", "crown"),
    _row("\U0001f916", "robot"),
    _row("\U0001f47b", "ghost"),
    _row("\u26c4", "snowman", "snowmen"),
)

INDEX = {concept.name: i for i, concept in enumerate(CONCEPTS)}
