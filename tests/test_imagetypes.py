from io import BytesIO
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safelight.imagetypes import HEAD, sniff


def name_of(head: bytes) -> str | None:
    found = sniff(head[:HEAD])
    return found.name if found else None


def iso_file(major: bytes, *compatible: bytes) -> bytes:
    box = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return pack(">I", 4 + len(box)) + box + b"\0\0\0\x10mdat" + b"heicavif" * 40


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("pillow_format", "expected", "options"),
    [
        ("PNG", "PNG", {}),
        ("JPEG", "JPEG", {}),
        ("GIF", "GIF", {}),
        ("WEBP", "WebP", {}),
        ("BMP", "BMP", {}),
        ("TIFF", "TIFF", {}),
        ("TIFF", "TIFF", {"big_tiff": True}),
        ("JPEG2000", "JPEG 2000", {}),
        ("JPEG2000", "JPEG 2000 codestream", {"no_jp2": True}),
        ("AVIF", "AVIF", {}),
    ],
)
def test_what_pillow_writes_is_known(pillow_format: str, expected: str, options: dict[str, bool], mode: str) -> None:
    file = BytesIO()
    Image.new(mode, (5, 3)).save(file, pillow_format, **options)
    found = sniff(file.getvalue()[:HEAD])
    assert found is not None
    assert found.name == expected
    if "no_jp2" not in options:  # Pillow has one media type for both
        assert found.media_type == Image.MIME[pillow_format]


# Openings of formats that Pillow does not write, as their specifications and their vendors' files have them.
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (iso_file(b"heic", b"mif1", b"heic"), "HEIC"),
        (iso_file(b"heix", b"mif1", b"heix"), "HEIC"),
        (iso_file(b"mif1", b"mif1", b"heic"), "HEIC"),
        (iso_file(b"msf1", b"msf1", b"hevc"), "HEIC"),
        (iso_file(b"mif1", b"mif1", b"jpeg"), "HEIF"),
        (iso_file(b"mif1", b"mif1", b"avif", b"miaf"), "AVIF"),
        (iso_file(b"crx ", b"crx ", b"isom"), "Canon CR3"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"MM\0+\0\x08\0\0" + bytes(7) + b"\x10", "TIFF"),
        (b"BM" + pack("<IHHI", 100, 0, 0, 26) + pack("<IHHHH", 12, 5, 3, 1, 24), "BMP"),  # OS/2 1.x
        (
            b"BM" + pack("<IHHI", 100, 7, 7, 138) + pack("<IiiHH", 124, 5, -3, 1, 32),
            "BMP",
        ),  # version 5, top-down
        (b"\xff\x0a\xfa\x1f\x41\x91", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL"),
        (bytes(128) + b"DICM\x02\0\0\0", "DICOM"),
        (b"II*\0\x08\0\0\0" + bytes(120) + b"DICM\x02\0\0\0", "DICOM"),  # slide that is a TIFF as well
        (b"II*\0\x10\0\0\0CR\x02\0", "Canon CR2"),
        (b"II\x1a\0\0\0HEAPCCDR\x02\0\x01\0", "Canon CRW"),
        (b"FUJIFILMCCD-RAW 0201FF", "Fujifilm RAF"),
        (b"IIRO\x08\0\0\0", "Olympus ORF"),
        (b"IIRS\x08\0\0\0", "Olympus ORF"),
        (b"MMOR\0\0\0\x08", "Olympus ORF"),
        (b"IIU\0\x18\0\0\0", "Panasonic RW2"),
        (b"\0MRM\0\0\x8a\x08\0PRD", "Minolta MRW"),
        (b"FOVb\x02\0\x02\0", "Sigma X3F"),
    ],
)
def test_phones_scanners_and_cameras_are_known(head: bytes, expected: str) -> None:
    assert name_of(head) == expected


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BM",
        b"BM is also how a letter about the British Museum may begin, which is no bitmap at all.",
        b"BMW 320d, first registered in 2011, one careful owner, no rust, new tyres.",
        b"%PDF-1.7\n",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\x89PNG\n\n\x1a\n",
        b"GIF88a",
        b"HEAPCCDR",
        b"PK\x03\x04",
        bytes(HEAD),
        iso_file(b"isom", b"isom", b"mp42"),
        iso_file(b"qt  "),
        b"\0\0\0\x08ftyp",
    ],
)
def test_what_is_no_image_is_not_taken_for_one(head: bytes) -> None:
    assert sniff(head[:HEAD]) is None


@given(st.text(min_size=1, max_size=HEAD), st.sampled_from(["", "BM", "II", "MM", "GIF", "RIFF", "DICM"]))
def test_text_is_no_image(text: str, beginning: str) -> None:
    text = "".join(letter for letter in text if letter.isprintable())
    assert sniff((beginning + text).encode()[:HEAD]) is None


@given(st.binary(max_size=HEAD))
def test_any_bytes_have_an_answer(head: bytes) -> None:
    found = sniff(head)
    assert found is None or found.media_type
