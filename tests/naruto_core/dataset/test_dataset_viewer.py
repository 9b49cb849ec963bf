"""Pictures are decoded as ImageMagick shows them, on a grid of formats and modes; skipped where it is not installed."""

import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from picture_bytes import encoded, picture, swapped_profile
from PIL import Image, ImageCms

from naruto_core.dataset.records import decode

_SIDE = 24


def _imagemagick() -> list[str]:
    """The command of a real ImageMagick, version 7 or 6; [] where there is none."""
    for name in ("magick", "convert"):
        if path := shutil.which(name):
            version = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stdout
            if version.startswith("Version: ImageMagick"):
                return [path]
    return []


COMMAND = _imagemagick()


def _png16(colour_type: int, channels: int) -> bytes:
    """A PNG with 16 bits a channel, which Pillow cannot write: a ramp."""
    values = np.linspace(0, 65535, _SIDE * _SIDE * channels).astype(">u2").reshape(_SIDE, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 16, colour_type, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _pictures() -> Iterator[tuple[str, bytes]]:
    rgb = picture(3)
    rgba = rgb.copy()
    rgba.putalpha(picture(4).convert("L"))
    modes = {mode: rgb.convert(mode) for mode in ("1", "L", "P", "RGB")} | {"RGBA": rgba, "LA": rgba.convert("LA")}
    for mode, image in modes.items():
        for kind in ("PNG", "TIFF", "BMP", "GIF", "WEBP"):
            if kind in ("BMP", "GIF", "WEBP") and mode in ("LA", "RGBA") and kind != "WEBP":
                continue
            yield f"{mode} {kind}", encoded(image, kind, lossless=True)
    for mode in ("L", "RGB", "CMYK"):
        yield f"{mode} JPEG", encoded(rgb.convert(mode), "JPEG", quality=95, subsampling=0)
    yield "CMYK TIFF", encoded(rgb.convert("CMYK"), "TIFF")
    yield "P PNG, one colour transparent", encoded(rgb.quantize(8), "PNG", transparency=3)
    yield "L PNG, one grey transparent", encoded(rgb.convert("L").point(lambda v: v // 64 * 64), transparency=64)
    yield "RGB PNG, one colour transparent", encoded(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3))
    sixteen = Image.fromarray((np.asarray(rgb.convert("L")).astype(np.uint16) * 257) // 512 * 512)
    yield "16-bit grey PNG", encoded(sixteen)
    yield "16-bit grey TIFF", encoded(sixteen, "TIFF")
    yield "16-bit grey PNG, one grey transparent", encoded(sixteen, transparency=int(np.asarray(sixteen)[0, 0]))
    for colour_type, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        yield f"16-bit PNG of {channels} channels", _png16(colour_type, channels)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = picture(5, 32, 20)
        yield f"JPEG, orientation {orientation}", encoded(image, "JPEG", quality=95, subsampling=0, exif=exif)
    for kind in ("PNG", "TIFF", "WEBP"):
        yield f"colour profile {kind}", encoded(rgb, kind, icc_profile=swapped_profile(), lossless=True)
    yield "colour profile JPEG", encoded(rgb, "JPEG", quality=95, subsampling=0, icc_profile=swapped_profile())


@pytest.mark.skipif(not COMMAND, reason="ImageMagick is not installed")
def test_pictures_look_as_imagemagick_shows_them(tmp_path: Path) -> None:
    srgb = tmp_path / "srgb.icc"
    srgb.write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    differences: dict[str, float] = {}
    for name, data in _pictures():
        (tmp_path / "picture").write_bytes(data)
        seen = np.asarray(decode(data).image, dtype=float)
        profile = ["-profile", str(srgb)] if name.startswith("colour profile") else ["-colorspace", "sRGB"]
        flat = ["-auto-orient", "-background", "white", "-alpha", "remove", "-alpha", "off", *profile]
        command = [*COMMAND, str(tmp_path / "picture"), *flat, "-depth", "8", "rgb:-"]
        shown = subprocess.run(command, capture_output=True, check=True).stdout
        other = np.frombuffer(shown, dtype=np.uint8).reshape(seen.shape).astype(float)
        differences[name] = np.abs(seen - other).mean()
    assert len(differences) >= 50
    assert {name: value for name, value in differences.items() if value > 1} == {}
