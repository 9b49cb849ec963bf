"""The colours of the drawn world's words."""

from naruto_core.mini.pretraining.pen import Colour

HAIR_PAINT: dict[str, Colour] = {
    "blond": (250, 208, 72),
    "red": (206, 52, 40),
    "black": (44, 42, 56),
    "pink": (246, 142, 184),
    "white": (234, 234, 242),
    "blue": (62, 104, 214),
    "green": (66, 160, 88),
    "brown": (128, 82, 50),
}
EYE_PAINT: dict[str, Colour] = {
    "blue": (38, 120, 232),
    "green": (32, 168, 78),
    "red": (218, 28, 36),
    "brown": (136, 82, 40),
    "purple": (148, 66, 208),
    "black": (36, 34, 44),
}
GARMENT_PAINT: dict[str, Colour] = {
    "orange": (244, 130, 32),
    "blue": (50, 88, 196),
    "red": (198, 40, 48),
    "green": (58, 142, 76),
    "black": (50, 48, 58),
    "white": (234, 234, 238),
    "purple": (128, 64, 176),
    "yellow": (242, 210, 66),
}
SKIN_PAINT: tuple[Colour, ...] = ((254, 226, 196), (244, 204, 164), (212, 160, 118), (156, 108, 76))
DARK: Colour = (40, 28, 36)
MOUTH: Colour = (128, 40, 46)
