"""The file format of every picture that this program draws: PNG, with the facts of its drawing in a text chunk.

Whoever writes, names, finds or serves such a picture uses these names; another format is a change of this file.
The service sends JPEG and WebP too, to clients that ask for it. Dataset pictures keep the format they came in.
"""

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIX = ".png"
FORMAT = "PNG"  # as Pillow names it
_CHUNK = "naruto"  # of the text chunk

SentFormat = Literal["png", "jpeg", "webp"]
MEDIA_TYPES: dict[SentFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class SentEncoding:
    """How the service sends a picture: the format, and the quality of JPEG and WebP from 0 to 100."""

    file_format: SentFormat = "png"
    quality: int = 100


PNG = SentEncoding()


def encode_picture(picture: "Image", facts: dict[str, object]) -> bytes:
    """The bytes of a picture file with `facts` as JSON; the same picture and facts give the same bytes."""
    from PIL.PngImagePlugin import PngInfo

    info, memory = PngInfo(), io.BytesIO()
    info.add_itxt(_CHUNK, json.dumps(facts, sort_keys=True, ensure_ascii=False))
    picture.save(memory, format=FORMAT, pnginfo=info)
    return memory.getvalue()


def encode_sent_picture(picture: "Image", facts: dict[str, object], encoding: SentEncoding) -> bytes:
    """The bytes of a picture as a client asked for it. Only a PNG holds the `facts`."""
    if encoding.file_format == "png":
        return encode_picture(picture, facts)
    memory = io.BytesIO()
    picture.save(memory, format=encoding.file_format, quality=encoding.quality)
    return memory.getvalue()


def read_facts(picture: "Image") -> dict[str, Any]:
    """The facts in an opened picture file. Raises KeyError when it has none, and ValueError when they are no JSON."""
    return json.loads(picture.info[_CHUNK])
