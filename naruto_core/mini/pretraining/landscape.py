"""Drawing of the places of the world, behind the characters, and of rain in front of them."""

from random import Random

import numpy as np
from PIL import Image, ImageDraw

from naruto_core.mini.pretraining.pen import OVERSAMPLING as K
from naruto_core.mini.pretraining.pen import Colour, blend, jitter, saturate

_SKY: dict[str, tuple[Colour, Colour]] = {
    "forest": ((150, 205, 130), (72, 132, 70)),
    "rain": ((118, 138, 168), (80, 95, 125)),
    "desert": ((160, 210, 235), (245, 215, 160)),
    "night": ((22, 24, 66), (48, 44, 100)),
    "sunset": ((250, 165, 90), (235, 90, 95)),
    "snow": ((205, 222, 240), (240, 246, 252)),
    "village": ((150, 200, 240), (205, 228, 240)),
}
_PLAIN: dict[str, Colour] = {
    "red": (214, 70, 66),
    "blue": (96, 150, 220),
    "green": (120, 190, 110),
    "orange": (246, 160, 70),
    "gray": (165, 168, 174),
    "white": (246, 246, 246),
    "purple": (160, 110, 200),
    "yellow": (246, 220, 100),
}


class Backdrop:
    """Draws a place on a square of `size` pixels; `bold` as in `naruto_core.mini.pretraining.pen.Pen`."""

    def __init__(self, place: str, size: int, bold: bool, rng: Random) -> None:
        self.place, self.size, self.bold, self.rng = place, size, bold, rng
        self.image = Image.fromarray(self._gradient())
        self.draw = ImageDraw.Draw(self.image)

    def _tone(self, colour: Colour, spread: float = 8.0) -> Colour:
        colour = jitter(colour, self.rng, spread)
        return saturate(colour, 1.25) if self.bold else blend(colour, (205, 205, 205), 0.2)

    def _gradient(self) -> np.ndarray:
        if self.place.endswith("background"):
            top = bottom = self._tone(_PLAIN[self.place.split()[0]])
        else:
            top, bottom = (self._tone(c) for c in _SKY[self.place])
        share = np.linspace(0, 1, self.size * K)[:, None, None]
        rows = np.array(top) * (1 - share) + np.array(bottom) * share
        return np.broadcast_to(rows, (self.size * K, self.size * K, 3)).astype(np.uint8)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self.draw.ellipse([(x - rx) * K, (y - ry) * K, (x + rx) * K, (y + ry) * K], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.draw.rectangle([left * K, top * K, right * K, bottom * K], fill=fill)

    def paint(self) -> Image.Image:
        match self.place:
            case "forest":
                self._forest()
            case "desert":
                self._desert()
            case "night":
                self._night()
            case "sunset":
                self._sunset()
            case "snow":
                self._snow()
            case "village":
                self._village()
            case "rain":
                self._rain_clouds()
            case _:
                pass
        return self.image

    def _forest(self) -> None:
        rng, s = self.rng, self.size
        for x in [s * (i + rng.uniform(0.0, 0.8)) / 6 for i in range(6)]:
            width = s * rng.uniform(0.05, 0.08)
            self.box(x, s * 0.2, x + width, s, self._tone((96, 66, 42)))
            for _ in range(3):
                crown = s * rng.uniform(0.08, 0.15)
                self.oval(
                    x + rng.uniform(-0.08, 0.1) * s, rng.uniform(0, 0.26) * s, crown, crown, self._tone((46, 118, 56))
                )
        self.box(0, s * 0.86, s, s, self._tone((70, 128, 58)))

    def _desert(self) -> None:
        rng, s = self.rng, self.size
        self.oval(s * rng.uniform(0.1, 0.9), s * 0.14, s * 0.07, s * 0.07, self._tone((255, 245, 190)))
        for level, colour in ((0.62, (236, 200, 135)), (0.78, (222, 178, 108))):
            self.oval(s * rng.uniform(0, 1), s * (level + 0.32), s * 0.75, s * 0.36, self._tone(colour))

    def _night(self) -> None:
        rng, s = self.rng, self.size
        for _ in range(18):
            radius = s * rng.uniform(0.006, 0.012)
            self.oval(rng.uniform(0, s), rng.uniform(0, s * 0.8), radius, radius, (250, 248, 220))
        x = s * rng.choice([0.14, 0.86])
        self.oval(x, s * 0.14, s * 0.09, s * 0.09, (250, 244, 200))

    def _sunset(self) -> None:
        rng, s = self.rng, self.size
        x = s * rng.choice([0.16, 0.84])
        self.oval(x, s * 0.55, s * 0.2, s * 0.2, self._tone((255, 228, 140)))
        self.box(0, s * 0.74, s, s, self._tone((140, 60, 90)))

    def _snow(self) -> None:
        rng, s = self.rng, self.size
        for _ in range(3):
            self.oval(rng.uniform(0, s), s * 1.02, s * 0.4, s * 0.25, (252, 253, 255))
        for _ in range(34):
            radius = s * rng.uniform(0.010, 0.018)
            self.oval(rng.uniform(0, s), rng.uniform(0, s), radius, radius, (255, 255, 255))

    def _village(self) -> None:
        rng, s = self.rng, self.size
        for i in range(4):
            left, width = s * (i / 4 + rng.uniform(-0.03, 0.03)), s * 0.22
            top = s * rng.uniform(0.3, 0.5)
            self.box(left, top, left + width, s, self._tone((232, 214, 182)))
            peak = [(left - s * 0.03, top), (left + width / 2, top - s * 0.13), (left + width + s * 0.03, top)]
            self.draw.polygon([(x * K, y * K) for x, y in peak], fill=self._tone((186, 78, 58)))
            self.box(left + width * 0.3, top + s * 0.07, left + width * 0.7, top + s * 0.16, self._tone((110, 90, 90)))
        self.box(0, s * 0.88, s, s, self._tone((196, 172, 132)))

    def _rain_clouds(self) -> None:
        rng, s = self.rng, self.size
        for _ in range(6):
            self.oval(rng.uniform(0, s), s * rng.uniform(0.0, 0.12), s * 0.16, s * 0.09, self._tone((92, 104, 130)))

    def rain_in_front(self, image: Image.Image) -> None:
        """Draw rain in front of the characters."""
        draw, s, rng = ImageDraw.Draw(image), self.size, self.rng
        for _ in range(24):
            x, y = rng.uniform(-0.05, 1) * s, rng.uniform(-0.05, 1) * s
            line = [(x * K, y * K), ((x + 0.03 * s) * K, (y + 0.1 * s) * K)]
            draw.line(line, fill=(206, 222, 244), width=round(0.65 * K))
