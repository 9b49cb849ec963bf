"""Real picture files, whole and broken, and the folders, archives and tables that carry them."""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageCms

Row = tuple[Any, Any]  # picture bytes, caption
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(seed: int, width: int = 24, height: int = 24) -> Image.Image:
    """A soft pattern that looks like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def swapped_profile() -> bytes:
    """A colour profile like sRGB whose red and blue primaries are exchanged: what is stored as red is seen as blue."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    places = {srgb[at : at + 4]: int.from_bytes(srgb[at + 4 : at + 8]) for at in range(132, 132 + 12 * srgb[131], 12)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    swapped = bytearray(srgb.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be")))
    swapped[red : red + 20], swapped[blue : blue + 20] = srgb[blue : blue + 20], srgb[red : red + 20]
    return bytes(swapped)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(seed: int, width: int = 24, height: int = 24) -> bytes:
    return encoded(picture(seed, width, height))


def rows(count: int, start: int = 0) -> list[Row]:
    return [(png(i), f"a character, number {i}") for i in range(start, start + count)]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def declared_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be a PNG of that size."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def moving(kind: str) -> bytes:
    return encoded(picture(1), kind, save_all=True, append_images=[picture(2), picture(3)])


def altered_middle(data: bytes) -> bytes:
    """The same length, its second half overwritten: headers are whole, pixels are not."""
    return data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2)


def broken_pictures() -> list[tuple[bytes, str]]:
    """Bytes that are no usable picture, each with the reason for its quarantine."""
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
    whole = {kind: encoded(picture(9, 64, 64), kind) for kind in formats}
    cut = [(data[: int(len(data) * share)], "truncated") for data in whole.values() for share in (0.5, 0.9)]
    other_reasons = [
        (b"", "empty"),
        (b"this is a text file, not a picture", "not-an-image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not-an-image"),
        (b"%PDF-1.7\n%", "not-an-image"),
        (declared_png(0, 7), "zero-sized"),
        (b"GIF89a" + b"\0" * 20, "zero-sized"),
        (declared_png(12_000, 12_000), "decompression-bomb"),
        (declared_png(60_000, 60_000), "decompression-bomb"),
        (encoded(picture(1, 400, 20)), "too-narrow"),
        (moving("GIF"), "animated"),
        (moving("WEBP"), "animated"),
        (moving("PNG"), "animated"),
        (moving("TIFF"), "animated"),
        (altered_middle(whole["PNG"]), "unreadable"),
        (encoded(Image.new("F", (9, 9)), "TIFF"), "unreadable"),
        (encoded(picture(9), "AVIF")[:300], "truncated"),
        (altered_middle(encoded(picture(9), "AVIF")), "unreadable"),
        (encoded(picture(1), "AVIF").replace(b"avif", b"heic"), "unsupported-format"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "unsupported-format"),
        (b"\xff\x0a" + bytes(40), "unsupported-format"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "unsupported-format"),
    ]
    return cut + other_reasons


def write_parquet(path: Path, content: list[Row], columns: tuple[str, str] = ("image", "text")) -> Path:
    """The hub's layout: pictures as struct{bytes, path}."""
    images = [
        image if image is None or isinstance(image, dict) else {"bytes": image, "path": None} for image, _ in content
    ]
    kind = pa.string() if all(isinstance(c, str | None) for _, c in content) else None
    table = pa.table({columns[0]: pa.array(images, IMAGE), columns[1]: pa.array([c for _, c in content], kind)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=7)
    return path


def write_imagefolder(folder: Path, content: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w") as lines:
        for i, (data, caption) in enumerate(content):
            (folder / f"{i:04}.png").write_bytes(data)
            lines.write(json.dumps({"file_name": f"{i:04}.png", "text": caption}) + "\n")
    return folder


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """A folder with these files; text is written as UTF-8."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes | str], mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            content = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_saved(folder: Path, content: list[Row]) -> Path:
    """What `save_to_disk` of the datasets library leaves: two arrow streams and a state."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("image", IMAGE), ("text", pa.string())])
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    half = len(content) // 2
    for name, part in zip(names, (content[:half], content[half:]), strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            entries = [{"image": {"bytes": image, "path": None}, "text": caption} for image, caption in part]
            stream.write_batch(pa.RecordBatch.from_pylist(entries, schema=schema))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder
