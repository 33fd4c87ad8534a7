"""A scene in words: many captions for one picture, so that the model learns the words and not the sentence."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from modules.training.render.backgrounds import COLOURS
from modules.training.render.concepts import CONCEPTS
from modules.training.render.scenes import PLACES, TINTS, Scene, Thing

QUALITY = ("masterpiece, best quality", "best quality", "highly detailed", "masterpiece", "high quality, 4k")
"""Carried by some captions of every kind of picture, so these words come to mean nothing."""
JUNK = (
    "trending on artstation", "very", "nice", "beautiful", "cinematic lighting", "sharp focus", "cute", "amazing",
    "digital", "8k", "award winning", "intricate", "lovely", "fantasy", "detailed", "modern", "classic", "happy",
    "simple", "adorable", "professional", "photorealistic",
)  # fmt: skip
EXAMPLES = (
    "a fox in the snow",
    "a red apple on a wooden table",
    "a rocket in space",
    "an octopus underwater",
    "a castle at sunset",
    "a panda in the forest",
    "a blue elephant on a yellow background",
    "a penguin on a blue background, sticker",
    "a pineapple on a purple background",
    "a horse in a meadow, watercolor",
    "three strawberries on a white background",
    "a cat to the left of a dog on a green background",
)
"""The prompts of the model card. The first eight are in the file, for a page to show."""
NUMBERS = {2: "two", 3: "three", 4: "four"}
SETTINGS = {
    "meadow": ("in a meadow", "on a green meadow", "on the grass", "in a field", "meadow"),
    "beach": ("on a beach", "at the beach", "on the beach", "by the sea", "beach"),
    "sunset": ("at sunset", "in the sunset", "sunset"),
    "night": ("at night", "in the night", "under the stars", "night"),
    "snow": ("in the snow", "in snow", "in winter", "snow"),
    "mountains": ("in the mountains", "in front of mountains", "mountains"),
    "forest": ("in a forest", "in the forest", "in the woods", "forest"),
    "desert": ("in the desert", "in a desert", "desert"),
    "city": ("in a city", "in the city", "on a street", "city"),
    "underwater": ("underwater", "under water", "in the ocean", "underwater"),
    "space": ("in space", "in outer space", "in the galaxy", "space"),
}
"""Each piece of scenery as words that follow the subject; the last ones stand alone."""
STYLE_WORDS = {
    "flat illustration": ("flat illustration", "flat design", "vector art", "flat illustration"),
    "cartoon": ("cartoon", "emoji", "cartoon style", "cartoon"),
    "sticker": ("sticker", "cute sticker", "die cut sticker"),
    "pixel art": ("pixel art", "pixel art style", "8-bit pixel art"),
    "line art": ("line art", "lineart", "a line drawing"),
    "pencil sketch": ("pencil sketch", "a pencil drawing", "sketch"),
    "watercolor": ("watercolor", "watercolor painting", "in watercolor"),
    "black and white": ("black and white", "monochrome", "black and white photo"),
    "neon": ("neon", "neon lights", "glowing neon"),
    "sepia": ("sepia", "sepia photo", "old sepia photograph"),
}
PLAIN_WORDS = ("3d render", "3d", "3d render", "glossy 3d render", "3d icon", "octane render", "clay render")
"""What pictures without a style may be called."""
OPENINGS = ("", "", "", "", "", "a picture of ", "a photo of ", "an image of ")
SIZE_WORDS = {"big": ("big", "large", "big", "huge"), "small": ("small", "small", "tiny", "little")}
KINDS = ("background", "background", "backdrop")


def _called(thing: Thing, rng: Random) -> str:
    """The concept's name, one time in four by another word where it has any."""
    concept = thing.concept
    return rng.choice(concept.also) if concept.also and rng.random() < 0.25 else concept.name


def _name(thing: Thing, rng: Random, size: str = "") -> str:
    """``a big blue cat``; one in ten without its article."""
    size = rng.choice(SIZE_WORDS[size]) if size else ""
    phrase = " ".join(w for w in (size, _tint(thing), _called(thing, rng)) if w)
    return phrase if rng.random() < 0.1 else with_article(phrase)


def _tint(thing: Thing) -> str:
    """``blue``, or with its weight ``(blue:1.4)``, as prompts have it."""
    return thing.tint if thing.strength == 1 else f"({thing.tint}:{thing.strength:g})"


def _subject(scene: Scene, rng: Random) -> str:
    things = scene.things
    if scene.layout == "count":
        return f"{NUMBERS[len(things)]} {things[0].concept.plural}"
    if scene.layout == "single":
        size = scene.size if rng.random() < 0.85 else ""
        name = _name(things[0], rng, size)
        return f"{name} {scene.place}" if scene.place and rng.random() < 0.85 else name
    first, second = (_name(thing, rng) for thing in things)
    u = rng.random()
    if u < 0.45:
        return f"{first} {scene.relation} {second}"
    if u < 0.65:
        opposite = "to the right of" if scene.relation == "to the left of" else "below"
        return f"{second} {opposite} {first}"
    if u < 0.78 and scene.relation == "to the left of":
        return f"{first} on the left and {second} on the right"
    if u < 0.85 and scene.relation == "to the left of":
        return f"{first} next to {second}"
    return f"{first} and {second}"


def _setting(scene: Scene, rng: Random) -> tuple[str, str]:
    """The background as words that follow the subject, and as words that stand alone."""
    name = scene.background
    if name in SETTINGS:
        *behind, alone = SETTINGS[name]
        return rng.choice(behind), rng.choice((alone, alone, *behind))
    kind = "gradient background" if " to " in name else rng.choice(KINDS)
    phrase = with_article(f"{name} {kind}")
    return rng.choice((f"on {phrase}", f"in front of {phrase}")), f"{name} {kind}"


def _plain(scene: Scene, rng: Random) -> str:
    """Subject and background in one of several orders."""
    following, alone = _setting(scene, rng)
    if not scene.things:
        return rng.choice((alone, f"an empty scene, {alone}", following))
    subject = _subject(scene, rng)
    u = rng.random()
    if u < 0.08:
        return subject
    if u < 0.10:
        return alone
    if u < 0.60:
        return f"{subject} {following}"
    if u < 0.87:
        return f"{subject}, {alone}"
    if u < 0.95:
        return f"{alone}, {subject}"
    return f"{following}, {subject}"


def _with_style(text: str, style: str, rng: Random) -> str:
    if style:
        words = rng.choice(STYLE_WORDS[style])
        return rng.choice((f"{words}, {text}", f"{text}, {words}", f"{text}, {words}", f"{words} of {text}"))
    if rng.random() < 0.22:
        words = rng.choice(PLAIN_WORDS)
        return rng.choice((f"{words}, {text}", f"{text}, {words}", f"{words} of {text}", f"a {words} of {text}"))
    return rng.choice(OPENINGS) + text


def caption(scene: Scene, rng: Random) -> str:
    """One of the scene's many captions; never empty (that is the training loop's caption dropout)."""
    text = _with_style(_plain(scene, rng), scene.style, rng)
    if rng.random() < 0.14:
        junk = rng.choice(JUNK)
        text = rng.choice((f"{text}, {junk}", f"{junk}, {text}", f"{junk} {text}"))
    if rng.random() < 0.20:
        quality = rng.choice(QUALITY)
        text = rng.choice((f"{text}, {quality}", f"{quality}, {text}"))
    return text


def spelled_out(scene: Scene) -> str:
    """The one caption that leaves nothing out and says it plainly: what evaluation asks for."""
    name = scene.background
    behind = SETTINGS[name][0] if name in SETTINGS else f"on {with_article(f'{name} background')}"
    if scene.layout == "empty":
        text = behind
    elif scene.layout == "count":
        text = f"{NUMBERS[len(scene.things)]} {scene.things[0].concept.plural} {behind}"
    else:
        first, *others = (with_article(f"{thing.tint} {thing.concept.name}".strip()) for thing in scene.things)
        text = f"{first} {scene.relation} {others[0]} {behind}" if others else f"{first} {behind}"
    return f"{text}, {scene.style}" if scene.style else text


def with_article(phrase: str) -> str:
    """
    >>> with_article("(orange:1.2) apple"), with_article("unicorn"), with_article("umbrella"), with_article("grapes")
    ('an (orange:1.2) apple', 'a unicorn', 'an umbrella', 'grapes')
    """
    if phrase.endswith("grapes") and not phrase.startswith("bunch"):
        return phrase
    first = phrase.lstrip("(")
    return f"{'an' if first[0] in 'aeio' or first.startswith('umb') else 'a'} {phrase}"


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption may use, in the order of the alphabet. Signs (``,``, ``-``) count as words."""
    return tuple(sorted({word for text in _phrases() for word in split(text)}))


def split(text: str) -> list[str]:
    """
    >>> split("a jack-o-lantern, 8k")
    ['a', 'jack-o-lantern', ',', '8k']
    """
    return text.replace(",", " , ").split()


def _phrases() -> Iterator[str]:
    """All that captions are put together from."""
    for concept in CONCEPTS:
        yield from (concept.name, concept.plural, *concept.also)
    for several in (*SETTINGS.values(), *STYLE_WORDS.values(), *SIZE_WORDS.values()):
        yield from several
    yield from (*QUALITY, *JUNK, *PLAIN_WORDS, *OPENINGS, *KINDS, *NUMBERS.values(), *COLOURS, *TINTS, *PLACES)
    yield from ("a", "an", "gradient", "to", "in front of", "an empty scene,", "of")
    yield from ("to the left of", "to the right of", "above", "below", "next to", "and", "on the left", "on the right")
