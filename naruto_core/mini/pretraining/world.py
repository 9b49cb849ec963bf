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
VIEWS = ("front", "three-quarter", "side")
DIRECTIONS = ("left", "right")  # where a character looks who is not seen from the front
BUILDS = ("child", "average", "tall")

BASE_STYLES = ("flat", "sketch", "pixel", "watercolor", "oil", "halftone")
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
    "oil": ("an oil painting of", "an oil on canvas of", "a painting with brush strokes of"),
    "halftone": ("a halftone print of", "a pop art print of", "a printed comic of"),
}

# Synonyms: the first word is the attribute's own, and the most frequent.
HAIR_WORDS: dict[str, tuple[str, ...]] = {
    "blond": ("blond", "blonde", "yellow"),
    "black": ("black", "dark"),
    "white": ("white", "silver"),
    "red": ("red", "ginger"),
}
EXPRESSION_WORDS: dict[str, tuple[str, ...]] = {
    "smiling": ("smiling", "happy"),
    "angry": ("angry", "furious"),
    "calm": ("calm", "serious"),
    "surprised": ("surprised", "shocked"),
    "sad": ("sad", "unhappy"),
}
GARMENT_WORDS: dict[str, tuple[str, ...]] = {
    "jacket": ("jacket", "coat"),
    "kimono": ("kimono", "robe"),
    "hoodie": ("hoodie", "hooded sweater"),
    "shirt": ("shirt", "top"),
}
VIEW_PHRASES: dict[str, tuple[str, ...]] = {
    "front": ("seen from the front", "looking at the camera", "facing the viewer"),
    "three-quarter": ("in three-quarter view", "turned to the {direction}"),
    "side": ("seen from the side", "in profile", "in profile facing {direction}"),
}
PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "forest": ("in the forest", "among trees"),
    "rain": ("in the rain", "on a rainy day"),
    "desert": ("in the desert", "on sand dunes"),
    "night": ("at night", "under the moon"),
    "sunset": ("at sunset", "in the evening sun"),
    "snow": ("in the snow", "on a snowy day"),
    "village": ("in a village", "in front of houses"),
}
SUBJECTS = ("person", "character", "cartoon character", "anime character", "ninja")
# Subjects that say more; a person with long hair is called a woman more often than a man.
_ADULTS, _CHILDREN = ("man", "woman"), ("boy", "girl")

# Words without meaning in the drawn world. Mixed into captions, they teach the base model to
# ignore unknown phrases and to follow the words that it knows.
FILLER_WORDS = (
    "anime detailed beautiful cute famous digital art style colorful scene image "
    "official fan poster show series episode manga hero friend leader master student "
    "the best quality high resolution trending masterpiece portrait of "
    "very cool epic dramatic light wallpaper screenshot drawn by an artist modern classic "
    "design illustration figure model avatar card sticker cover paper studio"
).split()  # fmt: skip


@dataclass(frozen=True, slots=True)
class Character:
    """A person. Every field is a word from the tuples above, except `skin` (0..3).

    `direction` has no effect on a front view; `pose` shows in full body pictures only.
    """

    hair: str
    cut: str
    eyes: str
    expression: str
    garment: str
    garment_colour: str
    pose: str
    skin: int
    view: str = "front"
    direction: str = "left"
    build: str = "average"


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a picture: one or two characters (the left one first), a place, a framing and a style."""

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
        view=rng.choices(VIEWS, weights=(50, 30, 20))[0],
        direction=rng.choice(DIRECTIONS),
        build=rng.choices(BUILDS, weights=(25, 50, 25))[0],
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


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _synonym(words: Sequence[str], rng: Random) -> str:
    """The first of `words` with a probability of at least 3/4, otherwise any of them."""
    return words[0] if rng.random() < 0.75 else rng.choice(words)


def _hair_phrase(character: Character, rng: Random) -> str:
    colour = _synonym(HAIR_WORDS.get(character.hair, (character.hair,)), rng)
    if character.cut in ("bun", "twin tails"):
        article = "a " if character.cut == "bun" else ""
        return f"{colour} hair in {article}{character.cut}"
    if character.cut == "bob":
        return f"{_article(colour)} {colour} bob" if rng.random() < 0.7 else f"{colour} hair in a bob"
    if rng.random() < 0.2:
        return f"{colour} {character.cut} hair"
    return f"{character.cut} {colour} hair"


def place_phrase(place: str) -> str:
    """`place` as in captions: "in the rain", "at night", "on a red background"."""
    if place.endswith("background"):
        return f"on {_article(place)} {place}"
    return PLACE_PHRASES[place][0]


def _any_place_phrase(place: str, rng: Random) -> str:
    if not place.endswith("background"):
        return _synonym(PLACE_PHRASES[place], rng)
    behind = place.replace("gray", "grey") if rng.random() < 0.25 else place
    preposition = _synonym(("on", "with", "against"), rng)
    return f"{preposition} {_article(behind)} {behind}"


def _garment_phrase(character: Character, rng: Random) -> str:
    colour, garment = character.garment_colour, _synonym(GARMENT_WORDS[character.garment], rng)
    return f"{_article(colour)} {colour} {garment}"


def describe_character(character: Character, rng: Random, drop: float, eyes: bool = True) -> str:
    """A description of a character; each attribute is left out with probability `drop`, eyes unless `eyes`."""

    def keep() -> bool:
        return rng.random() >= drop

    features: list[str] = []
    if keep():
        colour = _synonym(HAIR_WORDS.get(character.hair, (character.hair,)), rng)
        features.append(_hair_phrase(character, rng) if keep() else f"{colour} hair")
    if eyes and keep():
        features.append(f"{character.eyes} eyes")
    if rng.random() < 0.2:
        features.reverse()
    dressed = _garment_phrase(character, rng) if keep() else ""
    has = rng.choices(("with", "who has", "has"), weights=(8, 1, 1))[0]
    body = f" {has} {' and '.join(features)}" if features else ""
    if not dressed:
        return body
    if rng.random() < 0.25:  # the clothes first
        return f" in {dressed}{body.replace(' has ', ' with ', 1) if has == 'has' else body}"
    return f"{body}{' and wears' if has != 'with' and body else ' wearing'} {dressed}"


def _subject(character: Character, rng: Random) -> str:
    """A noun for `character`: neutral, or one that fits its build and hair."""
    if rng.random() < 0.5:
        return rng.choice(SUBJECTS)
    female = 0.15 if character.cut in ("spiky", "short") else 0.85
    return (_CHILDREN if character.build == "child" else _ADULTS)[rng.random() < female]


def _person(character: Character, framing: str, rng: Random, drop: float) -> str:
    """ "a sad girl", "a tall man standing": what `character` is and does, without its colours."""
    noun = _subject(character, rng)
    full_body = framing == "full body"
    mood = "" if full_body or rng.random() < drop else _synonym(EXPRESSION_WORDS[character.expression], rng)
    build = {"child": "young", "tall": "tall"}.get(character.build, "")
    build = build if full_body and rng.random() >= max(drop, 0.3) else ""
    pose = character.pose if full_body and rng.random() >= drop else ""
    before, after = ("", mood) if rng.random() < 0.3 else (mood, "")
    words = " ".join(word for word in (before, build, noun, after, pose) if word)
    return f"{_article(words)} {words}"


def _view_phrase(character: Character, rng: Random) -> str:
    phrase = _synonym(VIEW_PHRASES[character.view], rng)
    return phrase.format(direction=character.direction)


_FRAMING_PHRASES: dict[str, tuple[str, ...]] = {
    "close-up": ("a close-up of ", "close up of "),
    "full body": ("a full body picture of ", "full body of "),
    "portrait": ("", "", "", "a portrait of "),
}


def _describe_single(scene: Scene, rng: Random, drop: float) -> str:
    character = scene.characters[0]
    opening = _synonym(_FRAMING_PHRASES[scene.framing], rng) if rng.random() >= drop else ""
    text = opening + _person(character, scene.framing, rng, drop) + describe_character(character, rng, drop)
    return f"{text} {_view_phrase(character, rng)}" if rng.random() >= drop else text


def _describe_pair(scene: Scene, rng: Random, drop: float) -> str:
    one, other = (describe_character(character, rng, drop, eyes=False) for character in scene.characters)
    noun = _synonym(("people", "people", "characters"), rng)
    return f"two {noun}, one{one or ' person'} and one{other or ' other'}"


def describe(scene: Scene, rng: Random, drop: float = 0.25) -> str:
    """A caption for `scene` as of a captioning model: correct, but not complete.

    `drop` (0..1) is the probability that an attribute is left out. 0 names all that can be seen: of one character
    hair, cut, eyes, garment, view, and expression (in a full body picture its pose instead); of two, hair, cut and
    garment. At most 36 words.
    The held-out style is never named: its name comes from the instance prompt.
    """
    text = (_describe_pair if len(scene.characters) == 2 else _describe_single)(scene, rng, drop)
    place = _any_place_phrase(scene.place, rng) if rng.random() >= drop else ""
    phrases = STYLE_PHRASES.get(scene.style)
    style = rng.choices(phrases, weights=(4, 1, 1))[0] if phrases and rng.random() >= drop / 2 else ""
    if style and rng.random() < 0.85:
        return f"{style} {text} {place}".rstrip()
    suffix = f", {style.removesuffix(' of')}" if style else ""
    if place and rng.random() < 0.3:
        return f"{place}, {text}{suffix}"
    return f"{text} {place}".rstrip() + suffix


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
