"""The samples are what they claim to be: photographs, small, of one scene, and nothing else."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from safelight import samples

NAMES = ("lighthouse.png", "lighthouse.jpg")


def pixels(name: str) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(samples.path(name)).convert("RGB"), np.float64)


def correlation(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize(
    ("name", "kind", "most"), [("lighthouse.png", "PNG", 1_800_000), ("lighthouse.jpg", "JPEG", 500_000)]
)
def test_a_sample_is_a_whole_image_of_the_kind_its_name_says(name: str, kind: str, most: int) -> None:
    file = samples.path(name).read_bytes()
    assert len(file) <= most
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        assert (image.format, image.mode, image.size) == (kind, "RGB", (1200, 800))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_carries_no_metadata(name: str) -> None:
    with Image.open(samples.path(name)) as image:
        image.load()
        assert not image.getexif()
        assert not set(image.info) - {"jfif", "jfif_version", "jfif_density", "jfif_unit", "progressive", "progression"}


def test_both_samples_show_the_same_scene() -> None:
    png, jpg = (pixels(name) for name in NAMES)
    assert np.abs(png - jpg).mean() < 6
    assert correlation(png, jpg) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_a_photograph_and_not_noise(name: str) -> None:
    image = pixels(name)
    for channel in np.moveaxis(image, -1, 0):
        assert correlation(channel[:, 1:], channel[:, :-1]) > 0.95
        assert correlation(channel[1:], channel[:-1]) > 0.95
        counts = np.bincount(channel.astype(int).ravel(), minlength=256)
        assert counts.max() > 2 * counts.mean()  # a histogram with hills; noise's is level, within 10%
    assert image.min() < 40  # it uses the paper from dark ...
    assert image.max() > 230  # ... to light


def test_asking_for_a_sample_that_is_not_there_fails_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        samples.path("windmill.png")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_samples_are_what_the_tool_renders(tmp_path: Path) -> None:
    program = "import sys, pathlib; from tools.render_samples import render; render(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=Path(__file__).parents[1], check=True)
    for name in NAMES:
        # Another processor may round its arithmetic differently in a few pixels.
        rendered = np.asarray(Image.open(tmp_path / name).convert("RGB"), np.float64)
        assert np.abs(rendered - pixels(name)).mean() < 0.5
