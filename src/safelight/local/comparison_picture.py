"""A picture of an image, its ciphertext and the decrypted image side by side, with a histogram under each.

Pure: bytes in, a Pillow image out. Everything that looks like data is data: each pixel of the ciphertext is three bytes
of the sealed file, and all histograms have the same scale. Importing this module raises `SafelightError` if Pillow is
not installed.
"""

import hashlib
import io
import math
from collections.abc import Sequence

from safelight.errors import SafelightError, missing_extra

try:
    from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps
except ModuleNotFoundError as error:
    if error.name != "PIL":
        raise
    raise SafelightError(missing_extra("page", "drawing the picture")) from None

WIDTH, MARGIN, GAP = 1500, 44, 28  # pixels, as all sizes here
PANEL = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
LOWEST, HIGHEST = 150, 620  # a panel's height, whatever the original's shape
CHART = 120

NIGHT, LIFTED, RULE = (12, 10, 11), (19, 16, 17), (52, 44, 45)
TEXT, QUIET, SAFELIGHT = (232, 226, 222), (150, 140, 137), (214, 45, 32)
CHANNELS = ((150, 30, 26), (24, 112, 48), (26, 46, 112))  # where all three meet they add up to a warm grey


def draw(original: bytes, sealed: bytes, decrypted: bytes, title: str) -> Image.Image:
    """The picture, RGB, 1500 pixels wide.

    `original` and `decrypted` are image files in any format that Pillow reads; `sealed` is a sealed file or a
    classic file. "Identical, byte for byte" stands under the third panel only if `decrypted == original`.
    Raises `SafelightError` if `original` is not an image or `sealed` is empty.
    """
    first = decode(original)
    if first is None:
        raise SafelightError("This is not an image that can be drawn; choose a PNG, JPEG, GIF, WebP or TIFF file.")
    if not sealed:
        raise SafelightError("The sealed file is empty, so there is nothing to draw; encrypt the image again.")
    second = lay_out(sealed, first.width / first.height)
    third = first if decrypted == original else decode(decrypted)
    images = (first, second, third)

    height = min(max(round(PANEL * first.height / first.width), LOWEST), HIGHEST)
    top = 156
    chart_top = top + height + 14
    text_top = chart_top + CHART + 34
    page = Image.new("RGB", (WIDTH, text_top + 128), NIGHT)
    pen = ImageDraw.Draw(page)

    pen.ellipse((MARGIN, 42, MARGIN + 22, 64), fill=SAFELIGHT)
    pen.text((MARGIN + 38, 53), fit(title, 30, WIDTH - 2 * MARGIN - 38), TEXT, font(30), "lm")
    pen.line((MARGIN, 92, WIDTH - MARGIN, 92), RULE)

    verdict = "identical, byte for byte" if decrypted == original else "DIFFERENT"
    captions = (
        (f"{first.width:,} by {first.height:,} pixels", QUIET),
        (f"the sealed bytes themselves, as {second.width:,} by {second.height:,} RGB pixels", QUIET),
        (verdict, TEXT if decrypted == original else SAFELIGHT),
    )
    files = (original, sealed, decrypted)
    ceiling = scale(first)
    for n, heading in enumerate(("Original", "Ciphertext", "Decrypted")):
        left, image, file = MARGIN + n * (PANEL + GAP), images[n], files[n]
        pen.text((left, top - 30), heading, TEXT, font(21), "lm")
        pen.text((left + PANEL, top - 29), f"{len(file):,} bytes", QUIET, font(16), "rm")
        page.paste(mount(image, height, mix=n != 1), (left, top))
        page.paste(chart(image, ceiling), (left, chart_top))
        for value, x, anchor in (("0", left, "lt"), ("255", left + PANEL, "rt")):
            pen.text((x, chart_top + CHART + 7), value, QUIET, font(13), anchor)
        measure = f"{entropy(image):.3f} bits/byte" if image else "no pixels"
        pen.text((left, text_top), measure, TEXT, font(24), "lt")
        pen.text((left + PANEL, text_top + 5), "entropy of the pixels", QUIET, font(16), "rt")
        words, colour = captions[n]
        pen.text((left, text_top + 44), words, colour, font(17), "lt")
        fingerprint = hashlib.sha256(file).hexdigest()
        pen.text((left, text_top + 74), f"SHA-256  {fingerprint[:24]}…", QUIET, font(15), "lt")
    return page


def decode(file: bytes) -> Image.Image | None:
    """The file's (first) image as RGB, upright, on black where it is transparent; None if it is not an image."""
    try:
        with Image.open(io.BytesIO(file)) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits of grey
                image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
            rgba = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow's readers raise
        return None
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB")


def lay_out(sealed: bytes, aspect: float) -> Image.Image:
    """The sealed bytes in their order as RGB pixels, width / height near `aspect`.

    Each byte is used once, except the last few, which do not fill a row. One or two bytes are repeated to make a pixel.
    """
    if len(sealed) < 3:
        sealed = (sealed * 3)[:3]
    pixels = len(sealed) // 3
    width = min(max(round(math.sqrt(pixels * aspect)), 1), pixels)
    height = pixels // width
    return Image.frombytes("RGB", (width, height), sealed[: width * height * 3])


def entropy(image: Image.Image) -> float:
    """Shannon's entropy of the pixels' bytes, all channels together, in bits a byte: 0 to 8."""
    counts = [sum(channel) for channel in zip(*histograms(image), strict=True)]
    total = sum(counts)
    return math.fsum(n / total * math.log2(total / n) for n in counts if n)


def histograms(image: Image.Image) -> list[list[int]]:
    """How many pixels have each of the 256 values, for red, green and blue."""
    counts = image.histogram()
    return [counts[start : start + 256] for start in (0, 256, 512)]


def scale(image: Image.Image) -> float:
    """The share of pixels that reaches the charts' top.

    Just above the image's own curves, except a few values (an overexposed sky, a white page) that would flatten all
    others, and at least three times an even distribution, so that the ciphertext's flat curve is visible.
    """
    shares = sorted(n / (image.width * image.height) for curve in histograms(image) for n in curve)
    return max(1.12 * shares[-8], 3 / 256)


def chart(image: Image.Image | None, ceiling: float) -> Image.Image:
    """The image's histograms in three colours, which add up where they overlap."""
    area = Image.new("RGB", (PANEL, CHART), LIFTED)
    if image is None:
        return area
    pixels = image.width * image.height
    for counts, colour in zip(histograms(image), CHANNELS, strict=True):
        light = Image.new("RGB", area.size)
        area = ImageChops.add(area, paint(light, counts, colour, pixels * ceiling))
    even = CHART - round(CHART / 256 / ceiling)  # where every value would be equally frequent
    ImageDraw.Draw(area).line((0, even, PANEL, even), SAFELIGHT)
    return area


def paint(light: Image.Image, counts: Sequence[int], colour: tuple[int, int, int], full: float) -> Image.Image:
    """Draw the bars of one channel into `light`, and return it; a count of `full` is as high as the chart."""
    pen = ImageDraw.Draw(light)
    for x in range(PANEL):
        bar = min(round(CHART * counts[x * 256 // PANEL] / full), CHART)
        if bar:
            pen.line((x, CHART - bar, x, CHART - 1), colour)
    return light


def mount(image: Image.Image | None, height: int, mix: bool) -> Image.Image:
    """The image, whole, in the middle of a panel.

    When it is reduced, neighbouring pixels are averaged; with `mix` false, single pixels are picked, so that each one
    shown is a pixel of the image.
    """
    board = Image.new("RGB", (PANEL, height), LIFTED)
    if image is None:
        ImageDraw.Draw(board).text((PANEL // 2, height // 2), "not an image", QUIET, font(18), "mm")
        return board
    ratio = min(PANEL / image.width, height / image.height)
    size = min(math.ceil(image.width * ratio), PANEL), min(math.ceil(image.height * ratio), height)
    shown = image.resize(size, Image.Resampling.LANCZOS if ratio < 1 and mix else Image.Resampling.NEAREST)
    board.paste(shown, ((PANEL - size[0]) // 2, (height - size[1]) // 2))
    return board


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which every machine has."""
    return ImageFont.load_default(size=size)


def fit(text: str, size: int, width: int) -> str:
    """The text, shortened to the width."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
