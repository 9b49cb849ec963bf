"""Decoding: which pictures are usable, the reasons of the others, and preprocessing."""

import numpy as np
import pytest
from picture_bytes import broken_pictures, encoded, picture, png, swapped_profile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from naruto_core.dataset.ingest import check
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.records import BrokenRecordError, Record, decode
from naruto_core.domain import Picture, QuarantinedRecord
from naruto_core.errors import RecordDamaged

RED, WHITE = (255, 0, 0), (255, 255, 255)


def test_each_kind_of_broken_bytes_has_its_reason() -> None:
    reasons: list[str] = []
    for data, _ in broken_pictures():
        with pytest.raises(BrokenRecordError) as broken:
            decode(data)
        reasons.append(broken.value.reason)
    assert reasons == [reason for _, reason in broken_pictures()]


@pytest.mark.parametrize(
    ("caption", "reason"),
    [(None, "no-caption"), (" \n", "no-caption"), (7, "caption-not-text"), (["a"], "caption-not-text"),
     ("half \ud83d", "caption-not-text")],
)  # fmt: skip
def test_a_caption_that_is_no_text_is_quarantined_with_its_row(caption: object, reason: str) -> None:
    checked = check(Record("a.parquet", 12, png(1), caption))
    assert isinstance(checked, QuarantinedRecord)
    assert (checked.source, checked.row, checked.reason) == ("a.parquet", 12, reason)


def test_a_good_record_keeps_its_caption_verbatim() -> None:
    checked = check(Record("a.parquet", 0, png(1, 30, 20), "  Sakura,\tsmiling "))
    assert isinstance(checked, Picture)
    assert (checked.caption, checked.width, checked.height, checked.suffix) == ("  Sakura,\tsmiling ", 30, 20, ".png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_seven_formats_are_read(kind: str) -> None:
    decoded = decode(encoded(picture(1), kind))
    assert decoded.image.size == (24, 24)
    assert np.abs(np.asarray(decoded.image, int) - np.asarray(picture(1), int)).mean() < 12


def test_formats_that_are_not_read_are_named_with_the_package_that_reads_them() -> None:
    for data, words in (
        (encoded(picture(1), "AVIF").replace(b"avif", b"heic"), "HEIC .* pillow-heif$"),
        (b"\xff\x0a" + bytes(40), "JPEG XL .* pillow-jxl-plugin$"),
    ):
        with pytest.raises(BrokenRecordError, match=words):
            decode(data)


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (8, 8), (*RED, 0))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED])
    decoded = [decode(encoded(clear)), decode(encoded(palette, transparency=1)), decode(encoded(clear.convert("LA")))]
    assert [picture.image.getpixel((4, 4)) for picture in decoded] == [WHITE] * 3


def test_a_sixteen_bit_grey_that_is_transparent_becomes_white_and_pixels_without_a_range_are_refused() -> None:
    clear = Image.fromarray(np.zeros((8, 8), dtype=np.uint16))
    assert decode(encoded(clear, transparency=0)).image.getpixel((4, 4)) == WHITE
    with pytest.raises(BrokenRecordError, match="32-bit integer pixels have no standard range"):
        decode(encoded(Image.fromarray(np.full((8, 8), 128, np.int32)), "TIFF"))


def test_an_embedded_colour_profile_is_applied_and_a_damaged_one_is_not() -> None:
    srgb, swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), swapped_profile()
    for picture_of_red in (Image.new("RGB", (8, 8), RED), Image.new("RGBA", (8, 8), (*RED, 255))):
        for kind in ("PNG", "TIFF", "WEBP"):
            seen = decode(encoded(picture_of_red, kind, icc_profile=swapped, lossless=True)).image
            assert np.abs(np.subtract(seen.getpixel((4, 4)), (0, 0, 255))).max() <= 2, kind
    for profile in (srgb, swapped[:200], b"profile"):
        assert decode(encoded(Image.new("RGB", (8, 8), RED), icc_profile=profile)).image.getpixel((4, 4)) == RED


def test_palette_grey_sixteen_bits_and_cmyk_become_the_rgb_people_see() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED])
    sixteen = Image.fromarray(np.full((8, 8), 0x8080, dtype=np.uint16))
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    colours = [
        decode(data).image.getpixel((4, 4))
        for data in (encoded(palette), encoded(Image.new("L", (8, 8), 90)), encoded(sixteen), encoded(cmyk, "TIFF"))
    ]
    assert colours == [RED, (90, 90, 90), (128, 128, 128), RED]


def test_exif_turns_the_picture_upright() -> None:
    image = Image.new("RGB", (40, 20), RED)
    image.paste((0, 0, 255), (0, 0, 20, 20))  # the left half is blue
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes top
    for kind in ("PNG", "TIFF", "WEBP", "AVIF"):
        upright = decode(encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))).image
        assert upright.size == (20, 40)
        top, bottom = upright.getpixel((10, 5)), upright.getpixel((10, 35))
        assert top == pytest.approx((0, 0, 255), abs=3)  # AVIF loses a little
        assert bottom == pytest.approx(RED, abs=3)


def test_megabytes_of_text_beside_the_pixels_are_no_damage_and_xmp_still_turns_the_picture() -> None:
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    workflow = "a node " * 400_000
    for compressed in (True, False):
        text = PngInfo()
        text.add_text("workflow", workflow, zip=compressed)
        text.add_itxt("prompt", workflow, zip=compressed)
        text.add_itxt("XML:com.adobe.xmp", xmp)
        seen = decode(encoded(Image.new("RGB", (40, 20), RED), pnginfo=text)).image
        assert (seen.size, seen.getpixel((4, 4))) == ((20, 40), RED)


@pytest.mark.parametrize(
    ("width", "height", "crop"), [(40, 20, (0, 8)), (20, 40, (8, 0)), (16, 16, (0, 0)), (33, 16, (0, 8))]
)
def test_the_centre_square_is_cropped_and_its_position_returned(width: int, height: int, crop: tuple[int, int]) -> None:
    ready = prepare(png(3, width, height), (16, 16))
    assert ready.pixels.shape == (16, 16, 3)
    assert ready.pixels.dtype == np.uint8
    assert (ready.original_size, ready.crop) == ((height, width), crop)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    image = picture(4, 64, 64)
    assert np.array_equal(prepare(encoded(image), (64, 64)).pixels, np.asarray(image))


def test_a_wide_picture_loses_its_sides() -> None:
    image = Image.new("RGB", (60, 20), (0, 0, 255))
    image.paste(RED, (20, 0, 40, 20))
    assert (prepare(encoded(image), (20, 20)).pixels == RED).all()


def test_a_stored_picture_that_is_damaged_is_an_error() -> None:
    with pytest.raises(RecordDamaged, match=r"can no longer be read \(truncated"):
        prepare(png(1)[:-40], (16, 16))
