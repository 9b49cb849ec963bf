"""The file format of every picture that this program draws: PNG, with the facts of its drawing in a text chunk.

Whoever writes, names, finds or serves such a picture uses these names; another format is a change of this file.
Dataset pictures keep the format they came in.
"""

import io
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIX = ".png"
MEDIA_TYPE = "image/png"
FORMAT = "PNG"  # as Pillow names it
_CHUNK = "naruto"  # of the text chunk


def encode_picture(picture: "Image", facts: dict[str, object]) -> bytes:
    """The bytes of a picture file with `facts` as JSON; the same picture and facts give the same bytes."""
    from PIL.PngImagePlugin import PngInfo

    info, memory = PngInfo(), io.BytesIO()
    info.add_itxt(_CHUNK, json.dumps(facts, sort_keys=True, ensure_ascii=False))
    picture.save(memory, format=FORMAT, pnginfo=info)
    return memory.getvalue()


def read_facts(picture: "Image") -> dict[str, Any]:
    """The facts in an opened picture file. Raises KeyError when it has none, and ValueError when they are no JSON."""
    return json.loads(picture.info[_CHUNK])
