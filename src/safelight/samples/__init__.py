"""Photographs to try Safelight with: `lighthouse.png` and `lighthouse.jpg`, rendered by `tools/render_samples.py`."""

from pathlib import Path


def path(name: str) -> Path:
    """Where the sample called `name` lies. `FileNotFoundError` if there is none of that name."""
    return (Path(__file__).parent / name).resolve(strict=True)
