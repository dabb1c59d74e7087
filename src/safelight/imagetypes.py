r"""What the first bytes of a file say it is.

A table of our own, because the sniffing libraries that were tried (filetype, puremagic) miss CR3, ORF, MRW,
BigTIFF and HEIC under the brand 'heix', and take a text that begins with 'BM' for a bitmap. It only answers
'is this an image, and what would its suffix be?'; nothing here decodes anything.

Most camera raw formats (NEF, ARW, DNG, PEF and others) are TIFF files with private tags, and are called TIFF
here: a file that has a suffix keeps it.
"""

import re
from dataclasses import dataclass

HEAD = 132  # bytes that `sniff` wants: DICOM's signature ends here, and 29 brands of an ISO file fit


@dataclass(frozen=True, slots=True)
class ImageType:
    """A file format."""

    name: str  # for people
    extension: str  # without a dot
    media_type: str  # as registered with IANA; for camera raw, which nobody registered, as in shared-mime-info


_HEIC = ImageType("HEIC", "heic", "image/heic")
_JXL = ImageType("JPEG XL", "jxl", "image/jxl")
_TIFF = ImageType("TIFF", "tiff", "image/tiff")

# The first that matches decides. Sources:
#  [DICOM] PS3.10 section 7.1. Its 128 bytes of preamble may hold a TIFF header, so it is asked first.
#  [PNG] W3C PNG, section 5.2        [GIF] GIF89a specification, section 17    [WebP] RFC 9649, section 2.4
#  [JPEG] ITU-T T.81, annex B: SOI, and the first byte of the next marker
#  [JXL] ISO/IEC 18181-2, the container; 18181-1, the bare codestream
#  [JP2] ISO/IEC 15444-1, annex I.5.1 and, for the bare codestream, annex A (SOC, SIZ)
#  [BMP] Microsoft's BITMAPFILEHEADER and BITMAPINFOHEADER. 'BM' alone begins many a text, so the size of the
#        second header has to be one of those that exist, and the count of colour planes has to be 1.
#  [TIFF] TIFF 6.0, section 2; BigTIFF as in libtiff's description: 43, offsets of 8 bytes, 0
#  [CR2] http://lclevy.free.fr/cr2/      [CRW] Phil Harvey, "The Canon RAW (CRW) File Format"
#  [raw] the vendors' other signatures, from the tables of ExifTool and LibRaw
_SIGNATURES: tuple[tuple[ImageType, re.Pattern[bytes]], ...] = tuple(
    (image_type, re.compile(signature, re.DOTALL))
    for image_type, signature in (
        (ImageType("DICOM", "dcm", "application/dicom"), rb".{128}DICM"),
        (ImageType("PNG", "png", "image/png"), rb"\x89PNG\r\n\x1a\n"),
        (ImageType("JPEG", "jpg", "image/jpeg"), rb"\xff\xd8\xff"),
        (ImageType("GIF", "gif", "image/gif"), rb"GIF8[79]a"),
        (ImageType("WebP", "webp", "image/webp"), rb"RIFF.{4}WEBP"),
        (_JXL, rb"\0\0\0\x0cJXL \r\n\x87\n"),
        (_JXL, rb"\xff\x0a"),
        (ImageType("JPEG 2000", "jp2", "image/jp2"), rb"\0\0\0\x0cjP  \r\n\x87\n"),
        (ImageType("JPEG 2000 codestream", "j2c", "image/j2c"), rb"\xff\x4f\xff\x51"),
        (
            ImageType("BMP", "bmp", "image/bmp"),
            rb"BM.{12}(?:\x0c\0\0\0.{4}|[\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0.{8})\x01\0",
        ),
        (ImageType("Canon CR2", "cr2", "image/x-canon-cr2"), rb"II\x2a\0.{4}CR"),
        (_TIFF, rb"II\x2a\0|MM\0\x2a"),
        (_TIFF, rb"II\x2b\0\x08\0\0\0|MM\0\x2b\0\x08\0\0"),
        (ImageType("Canon CRW", "crw", "image/x-canon-crw"), rb"(?:II|MM).{4}HEAPCCDR"),
        (ImageType("Fujifilm RAF", "raf", "image/x-fuji-raf"), rb"FUJIFILMCCD-RAW "),
        (ImageType("Olympus ORF", "orf", "image/x-olympus-orf"), rb"IIRO|IIRS|MMOR"),
        (ImageType("Panasonic RW2", "rw2", "image/x-panasonic-rw2"), rb"IIU\0"),
        (ImageType("Minolta MRW", "mrw", "image/x-minolta-mrw"), rb"\0MRM"),
        (ImageType("Sigma X3F", "x3f", "image/x-sigma-x3f"), rb"FOVb"),
    )
)

# Brands in the 'ftyp' box that opens a file of the ISO base media family (ISO/IEC 14496-12, section 4.3).
# HEIF and HEIC: ISO/IEC 23008-12. AVIF: AOM's AV1 Image File Format. CR3: https://github.com/lclevy/canon_cr3
# The general brands come last: an AVIF carries 'mif1' as well.
_BRANDS: tuple[tuple[ImageType, frozenset[bytes]], ...] = (
    (ImageType("Canon CR3", "cr3", "image/x-canon-cr3"), frozenset({b"crx "})),
    (ImageType("AVIF", "avif", "image/avif"), frozenset({b"avif", b"avis"})),
    (_HEIC, frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})),
    (ImageType("HEIF", "heif", "image/heif"), frozenset({b"mif1", b"mif2", b"msf1"})),
)


def sniff(head: bytes) -> ImageType | None:
    """The type, if known, of the image whose first HEAD bytes (or all, if it has fewer) are `head`."""
    for image_type, signature in _SIGNATURES:
        if signature.match(head):
            return image_type
    carried = _brands(head)
    for image_type, brands in _BRANDS:
        if carried & brands:
            return image_type
    return None


def _brands(head: bytes) -> frozenset[bytes]:
    """The major and the compatible brands of an ISO base media file; none for any other file.

    The box is: size (4, big-endian), 'ftyp', major brand (4), minor version (4), compatible brands (4 each).
    """
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4]), len(head))
    return frozenset({head[8:12], *(head[at : at + 4] for at in range(16, end, 4))})
