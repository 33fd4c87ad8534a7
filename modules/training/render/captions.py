"""A scene in words: many captions for one picture, so that the model learns the words and not the sentence."""

from __future__ import annotations

from random import Random

from modules.training.render.scenes import Scene, Thing

QUALITY = ("masterpiece, best quality", "best quality", "highly detailed", "masterpiece", "high quality, 4k")
"""Carried by some captions of every kind of picture, so these words come to mean nothing."""
JUNK = (
    "trending on artstation", "very", "nice", "beautiful", "cinematic lighting", "sharp focus", "cute", "amazing",
    "digital", "8k", "render", "award winning", "intricate", "lovely", "fantasy", "detailed", "modern", "classic",
    "happy", "simple",
)  # fmt: skip
NUMBERS = {2: "two", 3: "three", 4: "four"}
SETTINGS = {
    "meadow": ("in a meadow", "on a green meadow", "meadow"),
    "beach": ("on a beach", "at the beach", "beach"),
    "sunset": ("at sunset", "in the sunset", "sunset"),
    "night": ("at night", "in the night", "night"),
    "snow": ("in the snow", "in snow", "snow"),
    "mountains": ("in the mountains", "in front of mountains", "mountains"),
    "forest": ("in a forest", "in the forest", "forest"),
    "desert": ("in the desert", "in a desert", "desert"),
    "city": ("in a city", "in the city", "city"),
    "underwater": ("underwater", "under water", "underwater"),
    "space": ("in space", "in outer space", "space"),
}
STYLE_WORDS = {
    "pixel art": ("pixel art", "pixel art style", "8-bit pixel art"),
    "line art": ("line art", "lineart", "a line drawing"),
    "pencil sketch": ("pencil sketch", "a pencil drawing", "sketch"),
    "watercolor": ("watercolor", "watercolor painting", "in watercolor"),
    "black and white": ("black and white", "monochrome", "black and white photo"),
    "neon": ("neon", "neon lights", "glowing neon"),
    "sepia": ("sepia", "sepia photo", "old sepia photograph"),
}


def _name(thing: Thing, rng: Random, size: str = "") -> str:
    """``a big blue cat``; one in ten without its article."""
    size = rng.choice(("big", "large", "big")) if size == "big" else size
    words = [w for w in (size, _tint(thing), thing.concept.name) if w]
    phrase = " ".join(words)
    if rng.random() < 0.1:
        return phrase
    return _with_article(phrase)


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
    if u < 0.8 and scene.relation == "to the left of":
        return f"{first} on the left and {second} on the right"
    return f"{first} and {second}"


def _setting(scene: Scene, rng: Random) -> tuple[str, str]:
    """The background as words that follow the subject, and as words that stand alone."""
    name = scene.background
    if name in SETTINGS:
        *behind, alone = SETTINGS[name]
        return rng.choice(behind), rng.choice((alone, alone, *behind))
    kind = "gradient background" if " to " in name else rng.choice(("background", "background", "backdrop"))
    article = "an" if name[0] == "o" else "a"
    return rng.choice((f"on {article} {name} {kind}", f"in front of {article} {name} {kind}")), f"{name} {kind}"


def _plain(scene: Scene, rng: Random) -> str:
    """Subject and background in one of several orders."""
    following, alone = _setting(scene, rng)
    if not scene.things:
        return rng.choice((alone, f"an empty scene, {alone}", following))
    subject = _subject(scene, rng)
    u = rng.random()
    if u < 0.05:
        return subject
    if u < 0.08:
        return alone
    if u < 0.55:
        return f"{subject} {following}"
    if u < 0.85:
        return f"{subject}, {alone}"
    if u < 0.95:
        return f"{alone}, {subject}"
    return f"{following}, {subject}"


def _with_style(text: str, style: str, rng: Random) -> str:
    if not style:
        opening = rng.choice(("", "", "", "", "a picture of ", "a photo of ", "an illustration of ", "an emoji of "))
        return opening + text
    words = rng.choice(STYLE_WORDS[style])
    return rng.choice((f"{words}, {text}", f"{text}, {words}", f"{words} of {text}"))


def caption(scene: Scene, rng: Random) -> str:
    """One of the scene's many captions; never empty (that is the training loop's caption dropout)."""
    text = _with_style(_plain(scene, rng), scene.style, rng)
    if rng.random() < 0.12:
        junk = rng.choice(JUNK)
        text = rng.choice((f"{text}, {junk}", f"{junk}, {text}"))
    if rng.random() < 0.22:
        quality = rng.choice(QUALITY)
        text = rng.choice((f"{text}, {quality}", f"{quality}, {text}"))
    return text


def spelled_out(scene: Scene) -> str:
    """The one caption that leaves nothing out and says it plainly: what evaluation asks for."""
    name = scene.background
    behind = SETTINGS[name][0] if name in SETTINGS else f"on {'an' if name[0] == 'o' else 'a'} {name} background"
    if scene.layout == "empty":
        text = behind
    elif scene.layout == "count":
        text = f"{NUMBERS[len(scene.things)]} {scene.things[0].concept.plural} {behind}"
    else:
        first, *others = (_with_article(f"{thing.tint} {thing.concept.name}".strip()) for thing in scene.things)
        text = f"{first} {scene.relation} {others[0]} {behind}" if others else f"{first} {behind}"
    return f"{text}, {scene.style}" if scene.style else text


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase.lstrip('(')[0] in 'aeiou' else 'a'} {phrase}"
