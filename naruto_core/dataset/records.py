"""Raw records of a source, and their decoding to pixels; here alone it is decided whether a picture is broken."""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from naruto_core.domain import QuarantinedRecord


class BrokenRecordError(Exception):
    """A record that cannot be used: `reason` is a hyphenated word, `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source: its position (rows from 0), the picture's bytes, and the unchecked caption.

    `repeats` is how often an epoch shows the picture. `uncaptioned`: no picture of the source has a caption, so that
    "" is meant.
    """

    source: str
    row: int
    image: bytes
    caption: object
    repeats: int = 1
    uncaptioned: bool = False

    def quarantined(self, reason: str, detail: str) -> QuarantinedRecord:
        """This record as a quarantined one."""
        return QuarantinedRecord(self.source, self.row, reason, detail)


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source: its name in dataset versions, its number of records, and the records.

    `records` may be called more than once, and streams; what cannot be read as a Record
    (a missing file, a line that is not JSON) is a QuarantinedRecord. `notes` say what was taken for what.
    """

    name: str
    total: int
    records: Callable[[], Iterator[Record | QuarantinedRecord]]
    notes: Sequence[str] = ()


MAX_PIXELS = 64_000_000  # 192 MB as RGB
MAX_BYTES = 4 * MAX_PIXELS  # an uncompressed RGBA picture of that size
MAX_ASPECT = 15  # keeps a short side of 2048 pixels within MAX_PIXELS, too

SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",  # a JPEG with a second view behind it, as some cameras write
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
}
_FORMATS = [name for name in SUFFIXES if name != "MPO"]  # Pillow's JPEG reader opens MPO too

# Files with these names are taken for pictures; also those of formats that are not read, so that they are named.
PICTURE_SUFFIXES = frozenset({*SUFFIXES.values(), ".jpeg", ".jpe", ".jfif", ".tiff", ".heic", ".heif", ".jxl"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_EXIF_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp\0"
_MAX_XMP = 1_000_000  # bytes
_SRGB = ImageCms.createProfile("sRGB")


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A picture as it is displayed: sRGB, upright, alpha on white; `suffix` is that of its file format."""

    image: Image.Image
    suffix: str


def decode(data: bytes) -> DecodedPicture:
    """Decode the picture in `data`. Raises BrokenRecordError when it is damaged, malicious or not a still picture."""
    if not data:
        raise BrokenRecordError("empty", "zero bytes")
    if len(data) > MAX_BYTES:
        raise BrokenRecordError("too-large", f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
    _check_format(data)
    try:
        with Image.open(io.BytesIO(_without_text(data)), formats=_FORMATS) as image:
            _check_header(image)
            image.load()
            return DecodedPicture(_as_rgb(_in_srgb(_upright(image))), SUFFIXES[image.format or ""])
    except (BrokenRecordError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenRecordError("decompression-bomb", str(error)) from None
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # noqa: BLE001 (decoders of damaged bytes raise nearly anything)
        raise _damaged(data, error) from None


def _check_format(data: bytes) -> None:
    """Refuse formats that people have and Pillow does not read, by their names."""
    name, package = "", ""
    brands = _brands(data)
    if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS:
        name, package = "HEIC", "pillow-heif"
    elif data.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")):
        name, package = "JPEG XL", "pillow-jxl-plugin"
    if name:
        raise BrokenRecordError(
            "unsupported-format",
            f"it is a {name} picture, which is not read here: convert it to PNG or JPEG; "
            f"in Python, Pillow reads it with the package {package}",
        )


def _without_text(data: bytes) -> bytes:
    """`data` without the text chunks of a PNG file, except XMP's, which may say the orientation.

    Programs keep a whole workflow there; Pillow refuses a picture with more than 1 MB of text as damaged.
    """
    if not data.startswith(_PNG):
        return data
    kept, start, at = [_PNG], len(_PNG), len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length  # length, kind, content and checksum
        is_xmp = data[at + 8 : at + 8 + len(_XMP)] == _XMP and length <= _MAX_XMP
        if kind in (b"tEXt", b"zTXt", b"iTXt") and not is_xmp and end <= len(data):
            kept.append(data[start:at])
            start = end
        at = end
    return data if start == len(_PNG) else b"".join([*kept, data[start:]])


def _brands(data: bytes) -> set[bytes]:
    """The four-byte brands in the first box of an ISO base media file (ISO/IEC 14496-12), as AVIF and HEIC are."""
    size = min(int.from_bytes(data[:4]), 256)
    return {data[at : at + 4] for at in range(8, size, 4)} if data[4:8] == b"ftyp" else set()


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BrokenRecordError("decompression-bomb", f"{width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BrokenRecordError("too-narrow", f"{width} x {height} pixels; a centre crop would lose most of it")
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format != "MPO":
        raise BrokenRecordError("animated", f"{frames} frames or pages; only single pictures are accepted")


def _unidentified(data: bytes) -> BrokenRecordError:
    """The reason why Pillow does not identify the format; a size of zero is one."""
    sizes = (0xFF,)
    if data.startswith(_PNG) and len(data) >= 24:
        sizes = struct.unpack_from(">II", data, 16)
    elif data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        sizes = struct.unpack_from("<HH", data, 6)
    if _brands(data) & _AVIF_BRANDS:
        return BrokenRecordError("unreadable", "an AVIF picture that is damaged or cut off")
    if 0 in sizes:
        return BrokenRecordError("zero-sized", " x ".join(map(str, sizes)) + " pixels")
    formats = ", ".join(_FORMATS)
    return BrokenRecordError("not-an-image", f"none of {formats}; it begins with {data[:12]!r}")


def _damaged(data: bytes, error: Exception) -> BrokenRecordError:
    detail = " ".join(str(error).split()) or type(error).__name__
    # the header of a RIFF file (WebP) has its length; the decoder's error does not tell that data is missing
    short_riff = data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 > len(data)
    return BrokenRecordError("truncated" if short_riff or "truncated" in detail.lower() else "unreadable", detail)


def _upright(image: Image.Image) -> Image.Image:
    rotation = _EXIF_ROTATIONS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    return image if rotation is None else image.transpose(rotation)


def _in_srgb(image: Image.Image) -> Image.Image:
    """`image` with its embedded colour profile applied, as viewers do; unchanged without a profile, or with one that
    is damaged, of another kind of pixels, or sRGB itself."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode[0] in "IF1":
        return image
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(embedded):
            return image
        if image.mode in ("LA", "PA", "La", "RGBa") or (image.mode != "RGBA" and image.has_transparency_data):
            image = image.convert("RGBA")
        elif image.mode == "P":
            image = image.convert("RGB")
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, embedded, _SRGB, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("F", "I"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise BrokenRecordError("unreadable", f"{kind} pixels have no standard range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        grey = np.asarray(image).astype(np.float64).clip(0, 65535) / 257
        if (transparent := image.info.get("transparency")) is not None:
            grey[np.asarray(image) == transparent] = 255
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
