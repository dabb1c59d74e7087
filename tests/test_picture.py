"""The picture of one image's way tells the truth about the three files it was given."""

import hashlib
import io
import random

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from safelight import samples
from safelight.errors import SafelightError
from safelight.local import comparison_picture as picture


def noise(length: int, seed: int = 7) -> bytes:
    """Stands for sealed bytes, which nobody without the key can tell from these."""
    return random.Random(seed).randbytes(length)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def ramp(mode: str = "RGB", size: tuple[int, int] = (90, 60)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


def panel(page: Image.Image, number: int, height: int) -> npt.NDArray[np.int64]:
    left = picture.MARGIN + number * (picture.PANEL + picture.GAP)
    return np.asarray(page.crop((left, 156, left + picture.PANEL, 156 + height)), np.int64)


def words(monkeypatch: pytest.MonkeyPatch, original: bytes, sealed: bytes, decrypted: bytes, title: str = "t") -> str:
    """All that the picture writes."""
    said: list[str] = []
    write = ImageDraw.ImageDraw.text

    def listen(pen: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, *rest: object) -> None:
        said.append(text)
        write(pen, xy, text, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", listen)
    picture.draw(original, sealed, decrypted, title)
    return "\n".join(said)


@pytest.mark.parametrize("name", ["lighthouse.png", "lighthouse.jpg"])
def test_original_and_decrypted_look_alike_and_the_ciphertext_shows_nothing(name: str) -> None:
    file = samples.path(name).read_bytes()
    page = picture.draw(file, noise(len(file)), file, name)
    assert (page.mode, page.width) == ("RGB", 1500)
    original, ciphertext, decrypted = (panel(page, n, 301) for n in range(3))
    assert (original == decrypted).all()
    apart = ciphertext[:, ::2]  # the few bytes of a small file are enlarged: a pixel may be shown twice in a row

    def neighbours(pixels: npt.NDArray[np.int64]) -> float:
        return float(np.corrcoef(pixels[:, 1:].ravel(), pixels[:, :-1].ravel())[0, 1])

    assert neighbours(original) > 0.9
    assert abs(neighbours(apart)) < 0.03


def test_identical_is_said_only_of_identical_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    file = encoded(ramp())
    same = words(monkeypatch, file, noise(3000), file)
    assert "identical, byte for byte" in same
    assert "DIFFERENT" not in same


@pytest.mark.parametrize(
    "decrypted",
    [encoded(ramp()) + b"\0", encoded(ramp(), "TIFF"), b"", b"not an image", encoded(ramp())[:100]],
    ids=["one byte more", "same pixels, other file", "empty", "no image", "cut short"],
)
def test_different_is_said_of_everything_else(monkeypatch: pytest.MonkeyPatch, decrypted: bytes) -> None:
    said = words(monkeypatch, encoded(ramp()), noise(3000), decrypted)
    assert "DIFFERENT" in said
    assert "identical" not in said


def test_the_ciphertext_panel_shows_the_sealed_bytes_in_their_order() -> None:
    sealed = noise(3 * 600 + 2)
    image = picture.lay_out(sealed, 3 / 2)
    assert image.size == (30, 20)
    assert image.tobytes() == sealed[:1800]
    page = picture.draw(encoded(ramp()), sealed, encoded(ramp()), "t")
    shown = panel(page, 1, 301).reshape(-1, 3)
    assert {tuple(p) for p in shown.tolist()} == {tuple(sealed[i : i + 3]) for i in range(0, 1800, 3)}


def test_each_pixel_shown_of_a_large_ciphertext_is_three_real_bytes() -> None:
    sealed = noise(3 * 600 * 400)
    page = picture.draw(encoded(ramp()), sealed, encoded(ramp()), "t")
    real = {sealed[i : i + 3] for i in range(0, len(sealed), 3)}
    assert {bytes(p) for p in panel(page, 1, 301).reshape(-1, 3).tolist()} <= real


def test_the_ciphertext_histogram_is_level_and_comes_from_the_sealed_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    original = encoded(ramp())
    level = picture.draw(original, noise(900_000), original, "t")
    steep = picture.draw(original, bytes([200]) * 900_000, original, "t")

    def chart(page: Image.Image) -> npt.NDArray[np.bool_]:
        left, top = picture.MARGIN + picture.PANEL + picture.GAP, 156 + 301 + 14
        colours = np.asarray(page.crop((left, top, left + picture.PANEL, top + picture.CHART)), np.int64)
        bars: npt.NDArray[np.bool_] = (colours == np.sum(picture.CHANNELS, axis=0) + picture.LIFTED).all(axis=-1)
        return bars

    heights = chart(level).sum(axis=0)
    assert heights.max() - heights.min() <= 6
    assert heights.min() > 20
    column = chart(steep).sum(axis=0)
    assert set(np.flatnonzero(column) * 256 // picture.PANEL) == {200}

    assert "8.000 bits/byte" in words(monkeypatch, original, noise(900_000), original)
    assert "0.000 bits/byte" in words(monkeypatch, original, bytes([200]) * 900_000, original)


def test_entropy_agrees_with_numpy() -> None:
    image = Image.open(samples.path("lighthouse.jpg"))
    share = np.bincount(np.asarray(image).ravel(), minlength=256) / (1200 * 800 * 3)
    share = share[share > 0]
    assert picture.entropy(image) == pytest.approx(float(-(share * np.log2(share)).sum()))


def test_sizes_and_fingerprints_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    original, sealed = encoded(ramp()), noise(12_345)
    said = words(monkeypatch, original, sealed, original)
    assert "12,345 bytes" in said
    assert f"{len(original):,} bytes" in said
    for file in (original, sealed):
        assert hashlib.sha256(file).hexdigest()[:24] in said


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_of_pixels_is_drawn(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.linspace(0, 65535, 5400).reshape(60, 90).astype(np.uint16))
    elif mode == "LA":
        image = ramp("L").convert("LA")
    else:
        image = ramp(mode)
    file = encoded(image, "TIFF")
    shown = panel(picture.draw(file, noise(3000), file, mode), 0, 301)
    assert shown.min() < 30
    assert shown.max() > 225
    assert np.ptp(shown, axis=-1).max() <= 3  # grey stays grey


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3000, 2000), (7, 5)])
def test_every_shape_fits_its_panel(size: tuple[int, int]) -> None:
    file = encoded(ramp("L", size))
    page = picture.draw(file, noise(1000), file, "a title that is far too long for its line " * 5)
    assert page.width == 1500
    assert 500 < page.height < 1200


@pytest.mark.parametrize("length", [1, 2, 3, 4, 100])
def test_a_few_sealed_bytes_are_enough(length: int) -> None:
    assert picture.draw(encoded(ramp()), noise(length), b"", "t").width == 1500


def test_what_cannot_be_drawn_is_refused_in_one_line() -> None:
    with pytest.raises(SafelightError, match=r"^This is not an image.*choose a PNG"):
        picture.draw(b"hello", b"sealed", b"hello", "t")
    with pytest.raises(SafelightError, match=r"^The sealed file is empty"):
        picture.draw(encoded(ramp()), b"", b"", "t")
