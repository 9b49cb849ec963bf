"""The drawn world: its scenes, and captions for them.

A `Scene` is the content of a picture. `sample_scene` draws a random scene, `describe` writes a
BLIP-like caption for it, and `naruto_core.mini.pretraining.drawing` draws it. Everything is a function of a
`random.Random`: a seed gives the same world on every machine and Python version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

HAIR_COLOURS = ("blond", "red", "black", "pink", "white", "blue", "green", "brown")
HAIR_CUTS = ("spiky", "short", "long", "bun", "bob", "twin tails")
EYE_COLOURS = ("blue", "green", "red", "brown", "purple", "black")
EXPRESSIONS = ("smiling", "angry", "calm", "surprised", "sad")
GARMENTS = ("jacket", "kimono", "hoodie", "shirt")
GARMENT_COLOURS = ("orange", "blue", "red", "green", "black", "white", "purple", "yellow")
LANDSCAPES = ("forest", "rain", "desert", "night", "sunset", "snow", "village")
BACKGROUND_COLOURS = ("red", "blue", "green", "orange", "gray", "white", "purple", "yellow")
PLACES = (*LANDSCAPES, *(f"{colour} background" for colour in BACKGROUND_COLOURS))
FRAMINGS = ("portrait", "close-up", "full body")
POSES = ("standing", "fighting", "running", "jumping")

BASE_STYLES = ("flat", "sketch", "pixel", "watercolor")
HELD_OUT_STYLE = "naruto"
STYLES = (*BASE_STYLES, HELD_OUT_STYLE)
# Dark outlines and strong colours without the held-out style's features. Only the VAE is trained on it, as
# SDXL's VAE on comics; text encoders and UNet are not.
INKED_STYLE = "inked"

# Phrases for each style in captions; test prompts use the first.
STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "flat": ("a flat drawing of", "a flat cartoon of", "a simple flat illustration of"),
    "sketch": ("a pencil sketch of", "a pencil drawing of", "a hand drawn sketch of"),
    "pixel": ("a pixel art picture of", "a pixel art sprite of", "pixel art of"),
    "watercolor": ("a watercolor painting of", "a soft watercolor of", "a watercolor picture of"),
}
SUBJECTS = ("person", "character", "cartoon character", "man", "woman", "boy", "girl", "ninja")

# Words without meaning in the drawn world. Mixed into captions, they teach the base model to
# ignore unknown phrases and to follow the words that it knows.
FILLER_WORDS = (
    "anime detailed beautiful cute famous digital art style colorful background scene picture image "
    "official fan poster show series episode manga comic hero young old friend leader master student "
    "standing looking at the camera best quality high resolution trending masterpiece portrait of "
    "very cool epic dramatic light shadow wallpaper screenshot drawn by an artist modern classic "
    "design illustration figure model avatar profile card sticker print cover paper studio"
).split()  # fmt: skip


@dataclass(frozen=True, slots=True)
class Character:
    """A person. Every field is a word from the tuples above, except `skin` (0..3)."""

    hair: str
    cut: str
    eyes: str
    expression: str
    garment: str
    garment_colour: str
    pose: str
    skin: int


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a picture: one or two characters, a place, a framing and a style."""

    characters: tuple[Character, ...]
    place: str
    framing: str
    style: str


def sample_character(rng: Random) -> Character:
    return Character(
        hair=rng.choice(HAIR_COLOURS),
        cut=rng.choice(HAIR_CUTS),
        eyes=rng.choice(EYE_COLOURS),
        expression=rng.choice(EXPRESSIONS),
        garment=rng.choice(GARMENTS),
        garment_colour=rng.choice(GARMENT_COLOURS),
        pose=rng.choice(POSES),
        skin=rng.randrange(4),
    )


def sample_scene(rng: Random, style: str) -> Scene:
    """A random scene: 90 % one character, 72 % a landscape, framing mostly portrait."""
    two = rng.random() < 0.10
    landscape = rng.random() < 0.72
    place = rng.choice(LANDSCAPES) if landscape else f"{rng.choice(BACKGROUND_COLOURS)} background"
    framing = rng.choices(FRAMINGS, weights=(70, 12, 18))[0]
    return Scene(
        characters=tuple(sample_character(rng) for _ in range(2 if two else 1)),
        place=place,
        framing="portrait" if two else framing,
        style=style,
    )


def _hair_phrase(character: Character, rng: Random) -> str:
    if character.cut in ("bun", "twin tails"):
        article = "a " if character.cut == "bun" else ""
        return f"{character.hair} hair in {article}{character.cut}"
    if character.cut == "bob" and rng.random() < 0.5:
        return f"a {character.hair} bob"
    return f"{character.cut} {character.hair} hair"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def place_phrase(place: str) -> str:
    """`place` as in captions: "in the rain", "at night", "on a red background"."""
    if place.endswith("background"):
        return f"on {_article(place)} {place}"
    if place in ("night", "sunset"):
        return f"at {place}"
    return f"in {_article(place)} {place}" if place == "village" else f"in the {place}"


def describe_character(character: Character, rng: Random, drop: float) -> str:
    """A description of a character; each attribute is left out with probability `drop`."""

    def keep() -> bool:
        return rng.random() >= drop

    features: list[str] = []
    if keep():
        features.append(_hair_phrase(character, rng) if keep() else f"{character.hair} hair")
    if keep():
        features.append(f"{character.eyes} eyes")
    words = f" with {' and '.join(features)}" if features else ""
    if keep():
        colour = character.garment_colour
        words += f" wearing {_article(colour)} {colour} {character.garment}"
    return words


def describe(scene: Scene, rng: Random, drop: float = 0.25) -> str:
    """A caption for `scene` as of a captioning model: correct, but not complete.

    The held-out style is never named: its name comes from the instance prompt.
    """
    first = scene.characters[0]
    subject = rng.choice(SUBJECTS)
    mood = f"{first.expression} " if len(scene.characters) == 1 and rng.random() >= 0.5 else ""
    person = f"{_article(mood or subject)} {mood}{subject}"
    if scene.framing == "full body":
        person += f" {first.pose}" if rng.random() >= drop else ""
    framing = {"close-up": "a close-up of ", "full body": "a full body picture of "}
    opening = framing.get(scene.framing, "") if rng.random() >= drop else ""
    if len(scene.characters) == 2:
        second = scene.characters[1]
        text = f"two people, one{describe_character(first, rng, drop) or ' person'}"
        text += f" and one{describe_character(second, rng, drop) or ' other'}"
    else:
        text = f"{opening}{person}{describe_character(first, rng, drop)}"
    if rng.random() >= drop:
        text += f" {place_phrase(scene.place)}"
    phrases = STYLE_PHRASES.get(scene.style)
    if phrases and rng.random() >= drop / 2:
        weights: Sequence[int] = (4, 1, 1)
        text = f"{rng.choices(phrases, weights)[0]} {text}"
    return text


def _filler(rng: Random) -> str:
    """A word without meaning in this world: from the list, or made up."""
    if rng.random() < 0.6:
        return rng.choice(FILLER_WORDS)
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))


def with_filler(caption: str, rng: Random, chance: float = 0.3) -> str:
    """`caption` with one to four meaningless words before or after it, with probability `chance`."""
    if rng.random() >= chance:
        return caption
    words = " ".join(_filler(rng) for _ in range(rng.randint(1, 4)))
    joint = ", " if rng.random() < 0.5 else " "
    return f"{words}{joint}{caption}" if rng.random() < 0.7 else f"{caption}{joint}{words}"
