"""What the pictures show. A concept is one drawing in each of three art sets, with a name of our own.

The order is part of the data: a judge's classes are indices into `CONCEPTS`, so new rows go to the end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """``name`` as captions say it."""

    name: str
    many: str = ""
    """The plural, where it is not the name with an s."""
    also: tuple[str, ...] = ()
    """Other words for the same thing, used by a part of the captions."""
    flies: bool = False
    """Nothing that stands on a meadow: there it hangs in the air and throws no shadow on the ground."""

    @property
    def plural(self) -> str:
        return self.many or self.name + "s"

    @property
    def file(self) -> str:
        """Its file's name in every art set, without the ending."""
        return self.name.replace(" ", "_")


def _row(name: str, many: str = "", *also: str) -> Concept:
    return Concept(name, many, also)


def _air(name: str, many: str = "", *also: str) -> Concept:
    return Concept(name, many, also, flies=True)


_ANIMALS = (
    _row("cat", "", "kitten", "kitty"),
    _row("dog", "", "puppy"),
    _row("fox", "foxes"),
    _row("lion"),
    _row("tiger"),
    _row("bear", "", "brown bear"),
    _row("panda", "", "panda bear"),
    _row("rabbit", "", "bunny"),
    _row("horse"),
    _row("cow"),
    _row("pig", "", "piglet"),
    _row("sheep", "sheep", "lamb"),
    _row("elephant"),
    _row("giraffe"),
    _row("monkey"),
    _row("owl"),
    _row("rooster", "", "chicken"),
    _row("penguin"),
    _row("frog", "", "toad"),
    _row("turtle", "", "tortoise"),
    _row("snake"),
    _air("fish", "fish", "tropical fish"),
    _air("shark"),
    _row("whale"),
    _row("octopus", "octopuses"),
    _row("crab"),
    _air("butterfly", "butterflies"),
    _air("bee", "", "honeybee"),
    _row("ladybug", "", "ladybird"),
    _row("snail"),
)
_FOOD = (
    _row("apple"),
    _row("banana"),
    _row("strawberry", "strawberries"),
    _row("pineapple"),
    _row("watermelon", "", "slice of watermelon"),
    _row("lemon"),
    _row("carrot"),
    _row("pizza", "", "slice of pizza"),
    _row("hamburger", "", "burger", "cheeseburger"),
    _row("ice cream", "", "ice cream cone"),
    _row("cake", "", "birthday cake"),
    _row("donut", "", "doughnut"),
)
_PLANTS = (
    _row("tree"),
    _row("cactus", "cactuses"),
    _row("sunflower"),
    _row("rose"),
    _row("mushroom", "", "toadstool"),
)
_VEHICLES = (
    _row("car", "", "automobile"),
    _row("bus", "buses"),
    _row("train", "", "locomotive", "steam train"),
    _row("bicycle", "", "bike"),
    _air("airplane", "", "plane", "aeroplane"),
    _air("rocket", "", "spaceship"),
    _row("sailboat", "", "boat"),
)
_THINGS = (
    _row("house", "", "home"),
    _row("castle"),
    _row("guitar"),
    _air("balloon"),
    _air("heart"),
    _air("star"),
    _row("crown"),
    _row("robot"),
    _row("ghost"),
    _row("snowman", "snowmen"),
)
_SINCE_VERSION_3 = (
    _row("unicorn"),
    _row("dragon"),
    _row("dinosaur", "", "t-rex"),
    _row("koala"),
    _row("hamster"),
    _row("duck"),
    _row("chick", "", "baby chicken"),
    _row("parrot"),
    _row("flamingo"),
    _air("dolphin"),
    _row("wolf", "wolves"),
    _row("avocado"),
    _row("cherry", "cherries", "pair of cherries"),
    _row("grapes", "grapes", "bunch of grapes"),
    _row("peach", "peaches"),
    _row("cupcake", "", "muffin"),
    _row("cookie"),
    _row("coffee", "cups of coffee", "cup of coffee"),
    _row("lollipop", "", "candy"),
    _row("tulip"),
    _air("flower", "", "blossom", "cherry blossom"),
    _row("palm tree"),
    _row("truck"),
    _air("helicopter"),
    _air("ufo", "", "flying saucer"),
    _air("moon", "", "crescent moon"),
    _air("sun"),
    _air("rainbow"),
    _row("fire", "", "flame"),
    _air("diamond", "", "gem"),
    _row("gift", "", "present"),
    _row("trophy", "trophies"),
    _row("soccer ball", "", "football"),
    _row("camera"),
    _row("umbrella"),
    _row("teddy bear", "", "teddy"),
    _air("alien"),
    _row("pumpkin", "", "jack-o-lantern"),
    _air("light bulb", "", "lamp"),
    _air("planet"),
    _row("christmas tree"),
    _row("wizard", "", "mage"),
    _row("astronaut"),
)
CONCEPTS: tuple[Concept, ...] = _ANIMALS + _FOOD + _PLANTS + _VEHICLES + _THINGS + _SINCE_VERSION_3
VERSION_2 = len(CONCEPTS) - len(_SINCE_VERSION_3)
"""So many of them, the first, are known to version 2 as well."""

INDEX = {concept.name: i for i, concept in enumerate(CONCEPTS)}

MANY_COLOURED = frozenset(
    {
        "lollipop", "rainbow", "planet", "sunflower", "pizza", "hamburger", "camera", "panda", "fire", "sun", "moon",
        "tiger", "parrot", "avocado", "christmas tree", "soccer ball", "cow", "watermelon",
    }
)  # fmt: skip
"""Never tinted: in one colour they would lose what makes them known."""
