"""Drawing of the places of the world in layers, far to near, and of rain and snow in front of the characters.

Coordinates are shares of the picture's side. Far layers are mixed with the colour of the sky.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from naruto_core.mini.pretraining.geometry import Points, arc, smooth
from naruto_core.mini.pretraining.pen import OVERSAMPLING as K
from naruto_core.mini.pretraining.pen import WHITE, Colour, blend, jitter, saturate

_SKY: dict[str, tuple[Colour, Colour]] = {
    "forest": ((168, 218, 190), (206, 232, 170)),
    "rain": ((96, 112, 144), (150, 164, 186)),
    "desert": ((122, 190, 232), (248, 226, 178)),
    "night": ((16, 20, 62), (62, 66, 132)),
    "sunset": ((120, 84, 150), (252, 160, 92)),
    "snow": ((170, 200, 230), (228, 238, 248)),
    "village": ((112, 182, 240), (214, 234, 244)),
}
_PLAIN: dict[str, Colour] = {
    "red": (214, 74, 70),
    "blue": (92, 148, 222),
    "green": (118, 190, 112),
    "orange": (246, 160, 72),
    "gray": (164, 167, 174),
    "white": (246, 246, 246),
    "purple": (160, 112, 202),
    "yellow": (246, 220, 104),
}


class Backdrop:
    """Draws a place on a square of `size` pixels; `bold` as in `naruto_core.mini.pretraining.pen.Pen`."""

    def __init__(self, place: str, size: int, bold: bool, rng: Random) -> None:
        self.place, self.size, self.bold, self.rng = place, size, bold, rng
        self.sky: Colour = WHITE
        self.image = self._ground()
        self.draw = ImageDraw.Draw(self.image)

    def _tone(self, colour: Colour, fade: float = 0.0, spread: float = 5.0) -> Colour:
        """`colour` as the style has it, with `fade` (0..1) of the sky."""
        colour = jitter(colour, self.rng, spread)
        colour = saturate(colour, 1.22) if self.bold else blend(colour, (208, 204, 200), 0.14)
        return blend(colour, self.sky, fade)

    def _ground(self) -> Image.Image:
        side = self.size * K
        if self.place.endswith("background"):
            return self._vignette(self._tone(_PLAIN[self.place.split()[0]]), side)
        top, bottom = (self._tone(colour) for colour in _SKY[self.place])
        self.sky = bottom
        share = np.minimum(1.0, np.linspace(0, 1.35, 64))[:, None]
        column = Image.fromarray((np.array(top) * (1 - share) + np.array(bottom) * share).astype(np.uint8)[:, None])
        return column.resize((1, side), Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.NEAREST)

    @staticmethod
    def _vignette(colour: Colour, side: int) -> Image.Image:
        """A plain ground, a little lighter in the middle and darker in the corners."""
        axis = np.linspace(-1, 1, 32)
        distance = (axis[:, None] * axis[:, None] + axis[None] * axis[None])[..., None]
        light = np.array(blend(colour, WHITE, 0.16)) * (1 - np.minimum(1, distance / 1.1))
        rim = np.array(blend(colour, (40, 30, 60), 0.1)) * np.minimum(1, distance / 1.1)
        picture = Image.fromarray((light + rim).clip(0, 255).astype(np.uint8))
        return picture.resize((side, side), Image.Resampling.BILINEAR)

    def shape(self, points: Points | Sequence[tuple[float, float]], fill: Colour, outlined: bool = False) -> None:
        scaled = np.round(np.asarray(points, dtype=np.float64) * self.size * K)
        flat = [tuple(p) for p in scaled.tolist()]
        self.draw.polygon(flat, fill=fill)
        if outlined and self.bold:
            self.draw.line(
                [*flat, flat[0]], fill=blend(fill, (14, 12, 20), 0.75), width=max(1, round(self.size / 128 * 0.8 * K))
            )

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour, outlined: bool = False) -> None:
        self.shape(arc((x, y), (rx, ry), points=25)[:-1], fill, outlined)

    def paint(self) -> Image.Image:
        """The finished place, without characters."""
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
                self._rain()
            case _:
                pass
        return self.image

    def _ridge(self, level: float, rough: float, fill: Colour, count: int = 7) -> None:
        """Hills or a treeline at the height `level`, down to the lower edge."""
        rng = self.rng
        tops = [(i / (count - 1), level + rng.uniform(-rough, rough)) for i in range(count)]
        line = smooth([(-0.2, level), *tops, (1.2, level)], closed=False, steps=4)
        self.shape(np.concatenate([line, [(1.2, 1.1), (-0.2, 1.1)]]), fill)

    def _floor(self, level: float, near: Colour, far: Colour, stripes: int = 5) -> None:
        """Ground in perspective: bands that grow towards the viewer."""
        for i in range(stripes):
            top = level + (1 - level) * (i / stripes) * (i / stripes)
            self.shape([(0, top), (1, top), (1, 1.02), (0, 1.02)], blend(far, near, i / (stripes - 1)))

    def _tree(self, x: float, base: float, size: float, fade: float) -> None:
        rng = self.rng
        trunk = self._tone((104, 72, 50), fade)
        w = 0.075 * size
        self.shape(
            [(x - w, base), (x - w * 0.6, base - size * 0.7), (x + w * 0.6, base - size * 0.7), (x + w, base)],
            trunk,
            True,
        )
        self.shape(
            [(x + w * 0.1, base), (x + w * 0.1, base - size * 0.7), (x + w * 0.6, base - size * 0.7), (x + w, base)],
            blend(trunk, (40, 26, 40), 0.35),
        )
        for dx, dy, share in ((-0.22, 0.72, 0.24), (0.22, 0.7, 0.25), (0.0, 0.92, 0.3)):
            crown = self._tone((52, 128, 66), fade)
            cx, cy, r = x + dx * size, base - dy * size, share * size * rng.uniform(0.92, 1.1)
            self.oval(cx, cy, r, r * 0.86, crown, True)
            self.oval(cx - r * 0.24, cy - r * 0.26, r * 0.55, r * 0.4, blend(crown, (216, 240, 150), 0.28))

    def _forest(self) -> None:
        rng = self.rng
        self._ridge(0.42, 0.04, self._tone((86, 150, 100), 0.6), 12)
        self._floor(0.66, self._tone((92, 150, 68)), self._tone((150, 190, 104), 0.3))
        for i in range(6):
            self._tree(i / 5 + rng.uniform(-0.06, 0.06), 0.66, 0.44, 0.42)
        for x in (rng.uniform(-0.04, 0.12), rng.uniform(0.86, 1.04), rng.uniform(0.2, 0.8)):
            self._tree(x, 0.82, 0.8, 0.0)
        for _ in range(9):
            x, y = rng.uniform(0, 1), rng.uniform(0.84, 0.98)
            self.shape(
                [(x - 0.02, y), (x - 0.012, y - 0.05), (x, y), (x + 0.014, y - 0.045), (x + 0.022, y)],
                self._tone((58, 116, 52)),
            )

    def _desert(self) -> None:
        rng = self.rng
        x = rng.uniform(0.12, 0.88)
        self.oval(x, 0.16, 0.105, 0.105, blend(self.sky, (255, 250, 210), 0.5))
        self.oval(x, 0.16, 0.075, 0.075, (255, 250, 214))
        for level, colour, fade in (
            (0.5, (214, 158, 110), 0.55),
            (0.6, (234, 190, 122), 0.2),
            (0.74, (226, 176, 100), 0.0),
        ):
            lit, shade = self._tone(colour, fade), self._tone(colour, fade)
            peak = rng.uniform(0.2, 0.8)
            low = level + 0.1
            left = smooth([(-0.3, low), (peak - 0.3, level + 0.06), (peak, level)], closed=False)
            self.shape(np.concatenate([left, [(1.3, low + 0.02), (1.3, 1.1), (-0.3, 1.1)]]), lit)
            right = smooth(
                [(peak, level), (peak + 0.05, level + 0.12), (peak - 0.12, 0.95), (peak - 0.2, 1.1)], closed=False
            )
            self.shape(np.concatenate([right, [(1.3, 1.1), (1.3, low + 0.02)]]), blend(shade, (120, 60, 70), 0.2))
        x = rng.choice([0.1, 0.9])
        green = self._tone((78, 138, 84))
        for side in (-1, 1):  # an arm of the cactus
            arm = ((0.015, 0.78), (0.065, 0.76), (0.065, 0.66), (0.04, 0.66), (0.04, 0.72), (0.015, 0.73))
            self.shape([(x + side * dx, y) for dx, y in arm], green, True)
        stem = [(x - 0.02, 0.9), (x + 0.02, 0.9), (x + 0.02, 0.58), (x, 0.56), (x - 0.02, 0.58)]
        self.shape(stem, green, True)

    def _night(self) -> None:
        rng = self.rng
        for _ in range(26):
            radius = rng.choice([0.004, 0.006, 0.008])
            self.oval(rng.uniform(0, 1), rng.uniform(0, 0.6), radius, radius, (252, 250, 224))
        x = rng.choice([0.15, 0.85])
        self.oval(x, 0.17, 0.135, 0.135, blend(self._tone(_SKY["night"][0]), (250, 244, 200), 0.22))
        self.oval(x, 0.17, 0.1, 0.1, (252, 246, 206))
        for dx, dy, r in ((-0.03, -0.02, 0.024), (0.035, 0.03, 0.018), (0.01, -0.05, 0.012)):
            self.oval(x + dx, 0.17 + dy, r, r, (230, 222, 178))
        self._ridge(0.62, 0.06, self._tone((44, 50, 106), 0.3))
        self._ridge(0.74, 0.04, self._tone((30, 36, 80)), 9)
        self._ridge(0.87, 0.02, self._tone((20, 24, 56)), 9)

    def _sunset(self) -> None:
        rng = self.rng
        x = rng.choice([0.16, 0.84])
        glow = self._tone((255, 226, 130))
        self.oval(x, 0.56, 0.27, 0.27, blend(self.sky, glow, 0.4))
        self.oval(x, 0.56, 0.19, 0.19, glow)
        for _ in range(4):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0.1, 0.42), rng.uniform(0.1, 0.2)
            self.oval(cx, cy, r, r * 0.14, self._tone((246, 150, 130), 0.25))
        self._ridge(0.62, 0.05, self._tone((166, 84, 116), 0.35))
        sea = self._tone((128, 62, 104))
        self.shape([(0, 0.72), (1, 0.72), (1, 1.02), (0, 1.02)], sea)
        for i in range(7):
            y, half = 0.735 + 0.038 * i, rng.uniform(0.05, 0.14) + 0.012 * i
            self.oval(x + rng.uniform(-0.04, 0.04), y, half, 0.008 + 0.0012 * i, blend(sea, glow, 0.75))

    def _pine(self, x: float, base: float, size: float, fade: float) -> None:
        green, white = self._tone((64, 110, 104), fade), self._tone((246, 250, 255), fade * 0.6, 2)
        self.shape(
            [
                (x - 0.03 * size, base),
                (x + 0.03 * size, base),
                (x + 0.03 * size, base - 0.2 * size),
                (x - 0.03 * size, base - 0.2 * size),
            ],
            self._tone((96, 76, 70), fade),
        )
        for level, half in ((0.12, 0.3), (0.38, 0.24), (0.62, 0.17)):
            y = base - level * size
            tip = y - 0.42 * size
            self.shape([(x - half * size, y), (x, tip), (x + half * size, y)], green, True)
            self.shape(
                [
                    (x - half * 0.62 * size, y - 0.14 * size),
                    (x, tip),
                    (x + half * 0.5 * size, y - 0.16 * size),
                    (x + 0.04 * size, y - 0.1 * size),
                    (x - 0.1 * size, y - 0.17 * size),
                ],
                white,
            )

    def _snow(self) -> None:
        rng = self.rng
        peak = rng.uniform(0.3, 0.7)
        rock = self._tone((140, 158, 190), 0.45)
        self.shape([(peak - 0.5, 0.7), (peak, 0.24), (peak + 0.5, 0.7)], rock)
        self.shape(
            [
                (peak - 0.16, 0.39),
                (peak, 0.24),
                (peak + 0.16, 0.39),
                (peak + 0.06, 0.36),
                (peak, 0.42),
                (peak - 0.07, 0.36),
            ],
            WHITE,
        )
        self._ridge(0.62, 0.03, self._tone((222, 232, 246), 0.3))
        for x in (rng.uniform(0.02, 0.2), rng.uniform(0.3, 0.45), rng.uniform(0.58, 0.72), rng.uniform(0.82, 0.98)):
            self._pine(x, 0.7, 0.34, 0.35)
        self._ridge(0.72, 0.02, self._tone((238, 244, 252), 0.1))
        self._pine(rng.choice([0.07, 0.93]), 0.86, 0.6, 0.0)
        self._ridge(0.86, 0.02, self._tone((250, 252, 255), 0.0, 2))
        for _ in range(30):
            radius = rng.uniform(0.004, 0.011)
            self.oval(rng.uniform(0, 1), rng.uniform(0, 1), radius, radius, WHITE)

    def _house(self, x: float, base: float, size: float, fade: float) -> None:
        rng = self.rng
        wall = self._tone((236, 218, 186), fade)
        roof = self._tone(rng.choice([(190, 82, 62), (176, 66, 66), (86, 112, 150), (98, 132, 96)]), fade)
        half, top = 0.36 * size, base - 0.62 * size
        self.shape([(x - half, base), (x - half, top), (x + half, top), (x + half, base)], wall, True)
        self.shape(
            [(x + half * 0.45, base), (x + half * 0.45, top), (x + half, top), (x + half, base)],
            blend(wall, (90, 60, 90), 0.2),
        )
        self.shape(
            [
                (x - half * 1.3, top),
                (x - half * 0.5, top - 0.36 * size),
                (x + half * 0.5, top - 0.36 * size),
                (x + half * 1.3, top),
            ],
            roof,
            True,
        )
        self.shape(
            [
                (x - half * 1.3, top + 0.04 * size),
                (x - half * 1.3, top),
                (x + half * 1.3, top),
                (x + half * 1.3, top + 0.04 * size),
            ],
            blend(roof, (50, 20, 40), 0.4),
        )
        pane = self._tone((112, 134, 160), fade)
        for dx in (-0.55, 0.2):
            self.shape(
                [
                    (x + dx * half, base - 0.46 * size),
                    (x + (dx + 0.34) * half, base - 0.46 * size),
                    (x + (dx + 0.34) * half, base - 0.28 * size),
                    (x + dx * half, base - 0.28 * size),
                ],
                pane,
                True,
            )

    def _village(self) -> None:
        rng = self.rng
        for _ in range(3):
            cx, cy = rng.uniform(0, 1), rng.uniform(0.06, 0.3)
            for dx, r in ((-0.07, 0.05), (0, 0.07), (0.08, 0.05)):
                self.oval(cx + dx, cy, r, r * 0.6, blend(self.sky, WHITE, 0.75))
        self._ridge(0.5, 0.05, self._tone((112, 164, 118), 0.45))
        for i in range(5):
            self._house(i / 4 + rng.uniform(-0.04, 0.04), 0.7, 0.3, 0.35)
        self._floor(0.7, self._tone((206, 180, 138)), self._tone((222, 202, 164), 0.2))
        for x in (rng.uniform(0.02, 0.12), rng.uniform(0.88, 0.98)):
            self._house(x, 0.84, 0.56, 0.0)

    def _rain(self) -> None:
        rng = self.rng
        for _ in range(8):
            x, y, r = rng.uniform(0, 1), rng.uniform(0.0, 0.16), rng.uniform(0.12, 0.2)
            self.oval(x, y, r, r * 0.5, self._tone((86, 98, 124)))
        self._ridge(0.6, 0.05, self._tone((92, 108, 130), 0.5))
        self._ridge(0.72, 0.03, self._tone((84, 104, 112), 0.2))
        wet = self._tone((96, 110, 128))
        self._floor(0.8, wet, blend(wet, self.sky, 0.3))
        for _ in range(5):
            x, y = rng.uniform(0, 1), rng.uniform(0.84, 0.97)
            self.oval(x, y, 0.1, 0.016, blend(wet, WHITE, 0.3))

    def shadow(self, x: float, y: float, half: float) -> None:
        """A soft shadow on the ground, `half` wide, below a character; pixels."""
        s = float(self.size)
        box = [round(v * K) for v in (x - half, y - half * 0.22, x + half, y + half * 0.22)]
        left, top, right, bottom = box
        patch = self.image.crop((left, top, right, bottom))
        mask = Image.new("L", patch.size)
        ImageDraw.Draw(mask).ellipse([s / 64, s / 64, patch.width - s / 64, patch.height - s / 64], fill=110)
        mask = mask.filter(ImageFilter.BoxBlur(s / 42))
        self.image.paste((30, 24, 50), (left, top), mask)

    def weather(self, image: Image.Image) -> None:
        """Draw rain or snow in front of the characters."""
        self.image, self.draw, rng = image, ImageDraw.Draw(image), self.rng
        if self.place == "rain":
            for _ in range(30):
                x, y, length = rng.uniform(-0.05, 1), rng.uniform(-0.1, 1), rng.uniform(0.06, 0.12)
                w = 0.005
                self.shape(
                    [(x, y), (x + w, y), (x + w + length * 0.3, y + length), (x + length * 0.3, y + length)],
                    (212, 226, 246),
                )
        elif self.place == "snow":
            for _ in range(14):  # at the sides, so that no flake hides a face
                radius, x = rng.uniform(0.008, 0.014), rng.uniform(0, 0.56)
                self.oval(x if x < 0.28 else x + 0.44, rng.uniform(0, 1), radius, radius, WHITE)
