"""Renders the sample photograph: a lighthouse on a rocky shore, with the sun going down.

`python -m tools.render_samples` writes `lighthouse.png` and `lighthouse.jpg` into `src/safelight/samples/`, the same
bytes each time, in about a minute.

It is a small ray tracer. Metres; x to the right, y up, z into the picture; the sea is y = 0; radiance is
linear RGB until `develop`. All irregularity comes from one function, `fractal`: power-law noise, which is what
clouds, rock and weathered paint have in common (Mandelbrot, The Fractal Geometry of Nature, 1982).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

SAMPLES = Path(__file__).parents[1] / "src" / "safelight" / "samples"

WIDTH, HEIGHT = 1200, 800
PASSES = 6  # jittered renderings that are averaged: antialiasing, soft shadows, depth of field
FOCAL = 1450.0  # pixels: 45 degrees across, a 43 mm lens on 35 mm film
HORIZON = 505.0  # pixels from the top: a shifted lens, so that the tower's sides stay parallel
EYE = np.array([0.0, 5.0, 0.0])
APERTURE, FOCUS = 0.035, 130.0  # metres: the lens' radius, and the distance that is sharp

SUN_AZIMUTH, SUN_ELEVATION = np.radians(-47.0), np.radians(6.0)
SUN_COLOUR = np.array([2.9, 1.45, 0.62])
SKY_FILL = np.array([0.25, 0.305, 0.43])
GLOW_FILL = np.array([0.42, 0.27, 0.17])

rng = np.random.default_rng(1822)  # the year of Fresnel's first lighthouse lens


def heading(azimuth: Array | float, elevation: Array | float) -> Array:
    """The unit vector, right of straight ahead by `azimuth` and up by `elevation` (radians)."""
    flat = np.cos(elevation)
    parts = np.sin(azimuth) * flat, np.sin(elevation), np.cos(azimuth) * flat
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


SUN = heading(SUN_AZIMUTH, SUN_ELEVATION)


# -- noise and sampling ----------------------------------------------------------------------------------------------


def fractal(shape: tuple[int, ...], slope: float, largest: float) -> Array:
    """Tileable noise of mean 0 and variance 1 whose amplitude falls as frequency ** -slope.

    `largest` is the size, in cells, of the biggest feature.
    """
    axes = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    frequency = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    spectrum = np.fft.rfftn(rng.standard_normal(shape)) * np.maximum(frequency, 1.0 / largest) ** -slope
    spectrum[frequency < 0.5 / largest] = 0
    noise = np.fft.irfftn(spectrum, s=shape, axes=range(len(shape)))
    return np.asarray(noise / noise.std(), np.float32)


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of the first two axes (wrapping around)."""
    y, x = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None]
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (x**2 + y**2))
    kernel = kernel.reshape(kernel.shape + (1,) * (image.ndim - 2))
    return np.fft.irfft2(np.fft.rfft2(image, axes=(0, 1)) * kernel, s=image.shape[:2], axes=(0, 1))


def lookup(grid: Array, *at: Array, wrap: bool = True) -> Array:
    """Linear interpolation in a grid of any rank, at fractional indices; further axes are channels."""
    corner, fraction = [], []
    for a, size in zip(at, grid.shape, strict=False):
        floor = np.floor(a if wrap else np.clip(a, 0, size - 1))
        low = floor.astype(np.int32)
        near, far = (low % size, (low + 1) % size) if wrap else (low, np.minimum(low + 1, size - 1))
        corner.append((near, far))
        fraction.append((a - floor if wrap else np.clip(a, 0, size - 1) - floor).astype(np.float32))
    rank = len(at)
    cells = grid.reshape(-1, *grid.shape[rank:])
    total: Any = 0.0
    for bits in np.ndindex(*(2,) * rank):
        index: Any = 0
        weight: Any = np.float32(1)
        for ends, part, size, bit in zip(corner, fraction, grid.shape, bits, strict=False):
            index = index * size + ends[bit]
            weight = weight * (part if bit else 1 - part)
        value = cells.take(index, axis=0)
        total = total + value * (weight[..., None] if value.ndim > weight.ndim else weight)
    return np.asarray(total)


def step(low: float, high: float, value: Array) -> Array:
    """From 0 at `low` to 1 at `high`, without a corner."""
    s: Array = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(s * s * (3 - 2 * s))


def normalise(v: Array) -> Array:
    """The vectors of this direction with length 1."""
    return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))


def crossing(low: Array, high: Array, origin: Array, ray: Array) -> tuple[Array, Array]:
    """Where rays enter and leave the box between two corners; they miss it if they enter after they leave."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (low - origin) / ray, (high - origin) / ray
    return np.maximum(np.minimum(a, b).max(axis=1), 0.0), np.maximum(a, b).min(axis=1)


# -- sky -------------------------------------------------------------------------------------------------------------


def clear_sky(ray: Array) -> Array:
    """Radiance of the cloudless sky: bluer upward, warmer around the sun and along the horizon."""
    up = np.clip(ray[..., 1:2], 0, 1)
    near = np.clip(ray @ SUN, 0, 1)[..., None]
    blue = np.array([0.17, 0.27, 0.46]) + np.array([0.22, 0.20, 0.14]) * np.exp(-up * 6)
    warm = np.array([0.80, 0.47, 0.27]) * np.exp(-up * 11) * (0.28 + 0.72 * near**5)
    halo = np.array([1.5, 0.85, 0.40]) * (0.30 * near**24 + 0.9 * near**220)
    return np.asarray(blue + warm + halo)


class Clouds:
    """A broken layer of cumulus, ray-marched once into a panorama that rays then look up."""

    BOTTOM, TOP = 1500.0, 2500.0
    AZIMUTH, ELEVATION = np.radians(50.0), np.radians(42.0)
    SHAPE = (500, 1250)

    def __init__(self) -> None:
        self.cover = fractal((512, 512), 1.7, 40)
        self.volume = fractal((192, 48, 192), 2.15, 40)
        # Rows are spaced by the root of the elevation: most of the picture's sky is near the horizon.
        elevation = (np.linspace(0.03, 1, self.SHAPE[0]) ** 2 * self.ELEVATION)[:, None]
        azimuth = np.linspace(-self.AZIMUTH, self.AZIMUTH, self.SHAPE[1])[None]
        self.light, self.clear = self.march(heading(azimuth, elevation).reshape(-1, 3))

    def density(self, p: Array, fine: bool) -> Array:
        """Extinction per metre."""
        high = (p[:, 1] - self.BOTTOM) / (self.TOP - self.BOTTOM)
        cover = lookup(self.cover, p[:, 0] / 190, p[:, 2] / 190)
        shape = lookup(self.volume, p[:, 0] / 55, p[:, 1] / 55, p[:, 2] / 55)
        body = 0.55 * cover + 0.42 * shape - 0.62 - 1.7 * (high - 0.25) ** 2
        if fine:
            body = body + 0.21 * lookup(self.volume, p[:, 0] / 11, p[:, 1] / 11, p[:, 2] / 11)
        inside = (high > 0) & (high < 1)
        return np.clip(body, 0, 0.9) * inside * step(0, 0.12, high) * 0.011

    def march(self, ray: Array) -> tuple[Array, Array]:
        """Radiance of the clouds along each ray, and what they let through."""
        steps = 36
        near, far = self.BOTTOM / ray[:, 1], self.TOP / ray[:, 1]
        stride = (far - near) / steps
        t = near + stride * rng.random(len(ray))
        phase = 0.25 + 1.1 * np.clip(ray @ SUN, 0, 1) ** 6  # cloud droplets scatter forward
        light, clear = np.zeros((len(ray), 3)), np.ones(len(ray))
        for _ in range(steps):
            p = ray * t[:, None]
            density = self.density(p, fine=True)
            live = np.flatnonzero((density > 1e-6) & (clear > 0.01))
            if len(live):
                towards, q = np.zeros(len(live)), p[live]
                for length in (60.0, 120.0, 240.0, 480.0):
                    q = q + SUN * length
                    towards += self.density(q, fine=False) * length
                high = (p[live, 1] - self.BOTTOM) / (self.TOP - self.BOTTOM)
                sunlit = (np.exp(-towards) + 0.30 * np.exp(-0.2 * towards)) * phase[live]
                glow = sunlit[:, None] * SUN_COLOUR * np.array([1.0, 1.02, 1.25])
                glow = glow + (0.45 + 0.55 * high)[:, None] * np.array([0.25, 0.265, 0.34])
                through = np.exp(-density[live] * stride[live])
                distance = np.exp(-t[live] / 32000.0)[:, None]
                glow = glow * distance + clear_sky(ray[live]) * (1 - distance)
                light[live] += glow * (clear[live] * (1 - through))[:, None]
                clear[live] *= through
            t += stride
        return blur(light.reshape(*self.SHAPE, 3), 0.75), blur(clear.reshape(self.SHAPE), 0.75)

    def over(self, ray: Array, sky: Array) -> Array:
        azimuth = np.arctan2(ray[:, 0], ray[:, 2])
        elevation = np.arcsin(np.clip(ray[:, 1], 0, 1))
        row = (np.sqrt(elevation / self.ELEVATION) - 0.03) / 0.97 * (self.SHAPE[0] - 1)
        column = (azimuth / self.AZIMUTH + 1) / 2 * (self.SHAPE[1] - 1)
        row = np.clip(row, 0, self.SHAPE[0] - 1)
        light = lookup(self.light, row, column, wrap=False)
        return np.asarray(light + sky * lookup(self.clear, row, column, wrap=False)[:, None])


# -- land ------------------------------------------------------------------------------------------------------------


class Land:
    """A height field of fractured rock: islands given as (x, z, radius x, radius z, height)."""

    def __init__(
        self,
        corner: tuple[float, float],
        size: tuple[float, float],
        cell: float,
        islands: list[tuple[float, float, float, float, float]],
        level: tuple[float, float, float, float] | None = None,
    ) -> None:
        self.corner, self.cell = corner, cell
        shape = int(size[1] / cell), int(size[0] / cell)
        x = corner[0] + np.arange(shape[1])[None] * cell
        z = corner[1] + np.arange(shape[0])[:, None] * cell
        warp_x, warp_z = (fractal(shape, 2.6, 9 / cell) for _ in range(2))
        ground = np.full(shape, -2.5)
        for cx, cz, rx, rz, high in islands:
            shift = 0.09 * min(rx, rz, 16.0)
            r = np.hypot((x - cx + shift * warp_x) / rx, (z - cz + shift * warp_z) / rz)
            ground = np.maximum(ground, high * step(1.08, 0.42, r) - 2.5 * step(0.9, 1.15, r))
        coarse = min(9.0, 0.16 * size[0])
        for block, relief in ((coarse, 0.17), (coarse * 0.38, 0.26), (coarse * 0.15, 0.30), (coarse * 0.06, 0.26)):
            ground += relief * block * self.blocks(x + 0.28 * block * warp_x, z + 0.28 * block * warp_z, block)
        ground += 0.008 * coarse * fractal(shape, 1.8, 2 / cell)
        if level is not None:  # the keepers' levelled ground
            lx, ly, lz, radius = level
            flat = step(1.5, 0.75, np.hypot((x - lx) / 1.6, z - lz) / radius)
            ground = ground * (1 - flat) + (ly + 0.12 * fractal(shape, 1.6, 2 / cell)) * flat
        self.height = ground.astype(np.float32)
        slope_z, slope_x = np.gradient(self.height, cell)
        self.slope = np.stack([slope_x, slope_z], axis=-1)
        hollow = sum(blur(self.height, r / cell) - self.height for r in (0.5, 1.5, 4.0))
        self.open = np.clip(1 - 0.32 * hollow, 0.2, 1.15).astype(np.float32)
        self.tint = fractal(shape, 1.3, 8 / cell)
        self.grain = fractal((64, 64, 64), 1.9, 32)
        self.bump = np.stack(list(np.gradient(self.grain)), axis=-1)
        self.summit = float(self.height.max())

    @staticmethod
    def blocks(x: Array, z: Array, size: float) -> Array:
        """Cellular noise (Worley 1996) whose cells are tilted planes: the joints and faces of broken granite."""
        x, z = x * 0.83 + z * 0.56, z * 0.83 - x * 0.56
        table = rng.random((64, 64, 5)).astype(np.float32)
        x, z = (x / size).astype(np.float32), (z / size).astype(np.float32)
        ix, iz = np.floor(x).astype(np.int32), np.floor(z).astype(np.int32)
        nearest, plane = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.float32)
        for ox in (-1, 0, 1):
            for oz in (-1, 0, 1):
                px, pz, high, tx, tz = np.moveaxis(table[(ix + ox) % 64, (iz + oz) % 64], -1, 0)
                dx, dz = x - ix - ox - px, z - iz - oz - pz
                distance = dx * dx + dz * dz
                nearer = distance < nearest
                nearest = np.where(nearer, distance, nearest)
                plane = np.where(nearer, high - 0.5 + (tx - 0.5) * 1.1 * dx + (tz - 0.5) * 1.1 * dz, plane)
        return plane

    def at(self, grid: Array, p: Array) -> Array:
        row, column = (p[:, 2] - self.corner[1]) / self.cell, (p[:, 0] - self.corner[0]) / self.cell
        return lookup(grid, row, column, wrap=False)

    def march(self, origin: Array, ray: Array, coarse: float = 1.0) -> Array:
        """Distance to the land along each ray; infinite where the ray misses it."""
        low = np.array([self.corner[0], -0.3, self.corner[1]])
        high = low + np.array([self.height.shape[1] * self.cell, 0, self.height.shape[0] * self.cell])
        high[1] = self.summit
        enter, leave = crossing(low, high, origin, ray)
        found = np.full(len(ray), np.inf)
        live = np.flatnonzero(enter < leave)
        t, last = enter[live], enter[live]
        while len(live):
            p = origin[live] + ray[live] * t[:, None]
            above = p[:, 1] - self.at(self.height, p)
            hit = above < 0
            if hit.any():
                who, near, far = live[hit], last[hit], t[hit]
                for _ in range(5):
                    middle = (near + far) / 2
                    q = origin[who] + ray[who] * middle[:, None]
                    under = q[:, 1] < self.at(self.height, q)
                    near, far = np.where(under, near, middle), np.where(under, middle, far)
                found[who] = far
            going = ~hit & (t < leave[live])
            live, last = live[going], t[going]
            t = last + np.clip(0.45 * above[going], self.cell * 1.2 * coarse, 6.0)
        return found

    def shade(self, p: Array, ray: Array, shadow: Callable[[Array], Array]) -> Array:
        slope, tint = self.at(self.slope, p), self.at(self.tint, p)
        texel = p.T * (0.6 / self.cell)
        grain = lookup(self.grain, *texel)
        normal = normalise(np.stack([-slope[:, 0], np.ones(len(p)), -slope[:, 1]], axis=-1))
        normal = normalise(normal - 0.9 * lookup(self.bump, *texel))
        band = np.sin(p[:, 1] * 3.5 + p[:, 0] * 0.5 + 2.2 * tint)[:, None]
        rock = np.array([0.265, 0.222, 0.19]) * (1 + 0.12 * tint + 0.14 * grain)[:, None] * (1 + 0.07 * band)
        lichen = (step(0.9, 1.7, tint) * step(2.5, 4.5, p[:, 1]))[:, None]
        rock = rock * (1 - 0.5 * lichen) + np.array([0.34, 0.25, 0.09]) * 0.5 * lichen
        grass = (step(5.2, 7.4, p[:, 1] + 0.9 * tint) * step(0.62, 0.86, normal[:, 1]))[:, None]
        rock = rock * (1 - grass) + np.array([0.135, 0.14, 0.055]) * (1 + 0.25 * tint)[:, None] * grass
        wet = step(1.5, 0.5, p[:, 1] + 0.25 * tint)[:, None]
        shine = ray + 2 * np.abs(np.sum(normal * ray, axis=1, keepdims=True)) * normal
        albedo = rock * (1 - 0.62 * wet)
        gloss = 0.10 * wet * clear_sky(shine)
        return np.asarray(albedo * lit(normal, self.at(self.open, p), shadow(p + 0.12 * normal)) + gloss)


def lit(normal: Array, openness: Array, sunlight: Array) -> Array:
    """Light that arrives at a matt surface: the sun, the sky's dome, the glow around the sun."""
    towards_glow = heading(SUN_AZIMUTH, 0.15)
    fill = SKY_FILL * (0.55 + 0.45 * normal[:, 1:2]) * 1.25
    fill = fill + GLOW_FILL * np.clip(0.5 + 0.5 * (normal @ towards_glow), 0, 1)[:, None] ** 2 * 1.5
    direct = SUN_COLOUR * 1.6 * (np.clip(normal @ SUN, 0, 1) * sunlight)[:, None]
    return np.asarray(fill * openness[:, None] + direct)


# -- lighthouse ------------------------------------------------------------------------------------------------------


class Lighthouse:
    """Tower and keepers' cottage as signed distances to simple solids (Hart, Sphere tracing, 1996)."""

    BASE = np.array([25.0, 10.0, 136.0])
    WALL, IRON, GLASS, SLATE, HOUSE, STONE = range(6)
    COLOURS = np.array([[0.74, 0.72, 0.68], [0.20, 0.035, 0.03], [0.3, 0.2, 0.1],
                        [0.085, 0.088, 0.10], [0.72, 0.69, 0.63], [0.26, 0.23, 0.20]])  # fmt: skip

    def __init__(self) -> None:
        self.stains = fractal((256, 256), 1.2, 64)

    @staticmethod
    def box(q: Array, centre: tuple[float, float, float], half: tuple[float, float, float]) -> Array:
        d = np.abs(q - np.array(centre)) - np.array(half)
        return np.asarray(np.linalg.norm(np.maximum(d, 0), axis=1) + np.minimum(d.max(axis=1), 0))

    def parts(self, q: Array) -> Array:
        """Distances to each material's solids, shape (n, 6)."""
        y, radius = q[:, 1], np.hypot(q[:, 0], q[:, 2])

        def drum(bottom: float, top: float, low: float, high: float) -> Array:
            wide = low + (high - low) * (y - bottom) / (top - bottom)
            return np.maximum(radius - wide, np.maximum(bottom - y, y - top)) * 0.9

        turn = np.arctan2(q[:, 2], q[:, 0])
        post = np.abs((turn / (2 * np.pi) * 20) % 1 - 0.5) * 2 * np.pi * 3.05 / 20
        posts = np.maximum(np.hypot(post, radius - 3.05) - 0.045, np.maximum(18.4 - y, y - 19.5))
        rails = np.minimum(np.hypot(radius - 3.05, y - 19.5), np.hypot(radius - 3.05, y - 19.0)) - 0.05
        wall = np.minimum.reduce([drum(-3, 17.2, 3.35, 2.25), drum(17.2, 18.2, 2.25, 3.0)])
        iron = np.minimum.reduce([
            drum(18.2, 18.45, 3.25, 3.25), posts, rails, drum(18.45, 19.3, 1.72, 1.72),
            drum(21.2, 21.5, 2.05, 2.0), drum(21.5, 22.5, 1.85, 0.75), drum(22.5, 22.9, 0.75, 0.2),
            np.hypot(radius, y - 23.0) - 0.28, drum(23, 24.6, 0.05, 0.04),
        ])  # fmt: skip
        glass = drum(19.3, 21.2, 1.55, 1.55)
        house = np.minimum(
            self.box(q, (-12.5, 0.6, 1.5), (5.2, 2.3, 3.0)), self.box(q, (-5.5, -0.3, 1.5), (2.2, 1.6, 2.0))
        )
        gable = ((y - 5.0) + np.abs(q[:, 2] - 1.5) * 0.72) / 1.24
        slate = np.maximum.reduce([gable, 2.85 - y, np.abs(q[:, 0] + 12.5) - 5.45])
        lean = ((y - 2.9) + np.abs(q[:, 2] - 1.5) * 0.75) / 1.25
        slate = np.minimum(slate, np.maximum.reduce([lean, 1.25 - y, np.abs(q[:, 0] + 5.5) - 2.3]))
        stone = np.minimum.reduce([
            self.box(q, (-16.2, 4.9, 1.5), (0.45, 1.0, 0.45)), self.box(q, (-9.0, 4.9, 1.5), (0.45, 1.0, 0.45)),
            self.box(q, (-7.0, -1.2, -5.2), (12.5, 1.5, 0.25)), drum(-4, 0.35, 4.1, 3.9),
        ])  # fmt: skip
        return np.stack([wall, iron, glass, slate, house, stone], axis=-1)

    def march(self, origin: Array, ray: Array, coarse: float = 1.0) -> Array:
        """Distance along each ray; infinite where it misses."""
        low, high = self.BASE - np.array([20.5, 4, 6.5]), self.BASE + np.array([6, 25, 6.5])
        enter, leave = crossing(low, high, origin, ray)
        found = np.full(len(ray), np.inf)
        live = np.flatnonzero(enter < leave)
        t = enter[live]
        for _ in range(90):
            if not len(live):
                break
            distance = self.parts(origin[live] + ray[live] * t[:, None] - self.BASE).min(axis=1)
            hit = distance < 0.012 * coarse
            found[live[hit]] = t[hit]
            going = ~hit & (t < leave[live])
            live, t = live[going], t[going] + distance[going] * 0.92
        return found

    def shade(self, p: Array, ray: Array, shadow: Callable[[Array], Array]) -> Array:
        q = p - self.BASE
        material = self.parts(q).argmin(axis=1)
        slopes = [self.parts(q + d).min(axis=1) - self.parts(q - d).min(axis=1) for d in np.eye(3) * 0.02]
        normal = normalise(np.stack(slopes, axis=-1) + 1e-9)
        around = np.arctan2(q[:, 2], q[:, 0])
        stain = lookup(self.stains, q[:, 1] * 1.2, around * 40 + q[:, 0] * 3)
        streak = lookup(self.stains, q[:, 1] * 6 + 50, q[:, 0] * 14)
        colour = self.COLOURS[material] * (1 + 0.045 * stain + 0.03 * streak)[:, None]

        painted = material == self.WALL
        colour[painted & (q[:, 1] > 6.2) & (q[:, 1] < 11.8)] *= np.array([0.56, 0.10, 0.085])
        rust = step(14.5, 17.4, q[:, 1]) * step(0.2, 1.4, stain) * painted
        colour *= 1 - rust[:, None] * np.array([0.15, 0.3, 0.4])
        facing = np.abs(around + np.pi / 2 + 0.25)
        window = painted & (facing < 0.14) & (np.abs((q[:, 1] - 4.6) % 4.6 - 0.8) < 0.62) & (q[:, 1] > 4)
        pane = (material == self.HOUSE) & (normal[:, 2] < -0.7) & (np.abs((q[:, 0] + 17.5) % 2.6 - 1.3) < 0.42)
        pane &= (np.abs(q[:, 1] - 1.35) < 0.62) & (q[:, 0] < -8)
        colour[window | pane] = np.array([0.03, 0.035, 0.045])

        ground = np.clip(0.35 + q[:, 1] * 0.25, 0.3, 1.0)
        eaves = 1 - 0.55 * step(1.2, 0.0, 18.2 - q[:, 1]) * (q[:, 1] < 18.2) * painted
        result = colour * lit(normal, ground * eaves, shadow(p + 0.08 * normal))
        lamp = material == self.GLASS
        axis = np.hypot(q[:, 0] * ray[:, 2] - q[:, 2] * ray[:, 0], (q[:, 1] - 20.2))
        mullion = np.abs((around / (2 * np.pi) * 10) % 1 - 0.5) > 0.44
        glow = np.array([1.0, 0.72, 0.36]) * (0.7 + 16 * np.exp(-((axis / 0.42) ** 2)))[:, None]
        result[lamp] = np.where(mullion[:, None], 0.08, glow)[lamp]
        lit_pane = pane & (q[:, 0] < -12.2)
        result[lit_pane] = np.array([1.25, 0.66, 0.24])
        return np.asarray(result)


# -- scene -----------------------------------------------------------------------------------------------------------


class Scene:
    """What is in the picture, and the light that falls on it."""

    def __init__(self) -> None:
        self.clouds = Clouds()
        base = Lighthouse.BASE
        self.head = Land((-62, 88), (150, 92), 0.10, [
            (42, 142, 50, 30, 9.6), (12, 124, 22, 14, 4.6), (-16, 119, 9, 5, 2.6), (-33, 126, 7, 4, 1.9),
            (-47, 140, 6, 4, 2.2), (30, 112, 12, 7, 3.2), (62, 120, 22, 14, 6.5),
        ], level=(base[0] - 5, base[1] - 0.6, base[2], 10.5))  # fmt: skip
        self.near = Land((-15, 14.5), (14, 14), 0.02, [(-8.6, 21, 3.8, 2.6, 1.5), (-5.6, 24.6, 1.5, 1.0, 0.75)])
        self.light = Lighthouse()
        self.solids: list[Land | Lighthouse] = [self.head, self.near, self.light]
        self.coast = np.linspace(-1.2, 1.2, 4096)
        self.ridges = [
            (
                np.maximum(0.006 + 0.0055 * fractal((4096,), 1.35, 900), 0) * step(0.55, -0.35, self.coast),
                0.80,
            ),
            (
                np.maximum(0.002 + 0.0048 * fractal((4096,), 1.30, 700), 0) * step(-0.05, -0.6, self.coast),
                0.58,
            ),
        ]
        # A wind sea: many small sines, long ones steering the pattern, amplitudes by wavelength.
        length = np.exp(rng.uniform(np.log(0.25), np.log(14), 64))
        course = 0.5 + rng.normal(0, 0.75, 64)
        self.wave_number = (2 * np.pi / length)[:, None] * np.stack([np.sin(course), np.cos(course)], axis=-1)
        self.wave_slope = 0.0142 * np.minimum(1.0, (length / 2.0) ** 0.35)
        self.wave_length, self.wave_phase = length, rng.uniform(0, 2 * np.pi, 64)
        self.gusts = fractal((512, 512), 1.6, 160)
        self.froth = fractal((512, 512), 1.1, 90)

    def sky(self, ray: Array) -> Array:
        ray = normalise(np.where(np.arange(3) == 1, np.maximum(ray, 1e-4), ray))
        colour = self.clouds.over(ray, clear_sky(ray))
        elevation, azimuth = np.arcsin(ray[:, 1]), np.arctan2(ray[:, 0], ray[:, 2])
        for ridge, veil in self.ridges:
            behind = step(-0.0004, 0.0004, np.interp(azimuth, self.coast, ridge) - elevation)[:, None]
            hill = np.array([0.10, 0.11, 0.15]) * (1 - veil) + clear_sky(ray) * veil * 0.86
            colour = colour * (1 - behind) + hill * behind
        return np.asarray(colour)

    def sunlight(self, p: Array) -> Array:
        """1 where the sun is seen, 0 in shadow; the sun is given the width of its haze for a soft edge."""
        spread = normalise(SUN + rng.normal(0, 0.012, (len(p), 3)))
        return np.asarray(np.isinf(np.minimum.reduce([s.march(p, spread) for s in self.solids])).astype(float))

    def radiance(self, origin: Array, ray: Array, mirrored: bool = False) -> Array:
        dip = np.minimum(ray[:, 1], -1e-9)
        sea = np.where(ray[:, 1] < -6e-4, -origin[:, 1] / dip, np.inf)  # the earth curves away at 8 km
        ways = [solid.march(origin, ray, coarse=2.5 if mirrored else 1.0) for solid in self.solids]
        distance = np.minimum.reduce([sea, *ways])
        result = np.empty_like(ray)
        sky = np.isinf(distance)
        result[sky] = self.sky(ray[sky])
        points = origin + ray * np.where(sky, 0, distance)[:, None]
        for solid, way in zip(self.solids, ways, strict=True):
            here = (way == distance) & ~sky
            if here.any():
                result[here] = solid.shade(points[here], ray[here], self.sunlight)
        water = (sea == distance) & ~sky
        if water.any() and not mirrored:
            result[water] = self.water(points[water], ray[water], distance[water])
        elif water.any():
            result[water] = clear_sky(ray[water] * np.array([1, -1, 1]))
        veil = np.where(sky, 0, 1 - np.exp(-distance / 1900.0))[:, None]
        far = clear_sky(normalise(ray * np.array([1, 0, 1]) + np.array([0, 0.015, 0])))
        return np.asarray(result * (1 - veil) + far * veil)

    def water(self, p: Array, ray: Array, distance: Array) -> Array:
        gust = lookup(self.gusts, p[:, 2] / 1.1, p[:, 0] / 0.8)
        slope, unresolved = np.zeros((len(p), 2)), np.zeros(len(p))
        footprint = distance**2 / FOCAL / EYE[1] * 0.5  # metres of sea that one pixel covers, foreshortened
        for number, steep, length, phase in zip(
            self.wave_number, self.wave_slope, self.wave_length, self.wave_phase, strict=True
        ):
            seen = step(0.7, 2.2, length / footprint)
            angle = p[:, 0] * number[0] + p[:, 2] * number[1] + phase
            slope += (steep * seen * np.cos(angle))[:, None] * number / np.hypot(*number)
            unresolved += (1 - seen) * steep**2 / 2
        slope += rng.standard_normal(slope.shape) * np.sqrt(unresolved / 2)[:, None]
        slope *= (1 + 0.35 * np.clip(gust, -1.5, 1.5))[:, None]
        normal = normalise(np.stack([-slope[:, 0], np.ones(len(p)), -slope[:, 1]], axis=-1))
        cosine = np.clip(-np.sum(normal * ray, axis=1, keepdims=True), 0.02, 1)
        mirror = ray + 2 * cosine * normal
        mirror[:, 1] = np.abs(mirror[:, 1]) + 0.002
        fresnel = 0.02 + 0.98 * (1 - cosine) ** 5
        depth = -np.maximum(*(np.where(self.inside(s, p), s.at(s.height, p), -9.0) for s in (self.head, self.near)))
        shallow = step(2.4, 0.0, depth)[:, None]
        body = np.array([0.012, 0.034, 0.046]) * (1 - shallow) + np.array([0.05, 0.07, 0.06]) * shallow
        colour = fresnel * self.radiance(p, normalise(mirror), mirrored=True) + (1 - fresnel) * body
        lace = lookup(self.froth, p[:, 2] * 9, p[:, 0] * 9)
        foam = (step(1.5, 0.0, depth + 0.3 * gust) * step(0.0, 1.3, lace + 1.3 * step(0.9, 0.0, depth)))[:, None]
        return np.asarray(colour * (1 - 0.75 * foam) + np.array([0.60, 0.50, 0.46]) * 0.75 * foam)

    @staticmethod
    def inside(land: Land, p: Array) -> Array:
        x, z = (p[:, 0] - land.corner[0]) / land.cell, (p[:, 2] - land.corner[1]) / land.cell
        return (x > 0) & (z > 0) & (x < land.height.shape[1] - 1) & (z < land.height.shape[0] - 1)


# -- camera and darkroom ---------------------------------------------------------------------------------------------


def expose(scene: Scene) -> Array:
    """The picture's radiance, (HEIGHT, WIDTH, 3): the mean of several jittered passes through a thin lens."""
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    total = np.zeros((HEIGHT * WIDTH, 3))
    for number in range(PASSES):
        # An even spread over the pixel (the R2 sequence of M. Roberts, 2018), loosened by chance.
        evenly = np.array([0.7549, 0.5698])[:, None, None] * (number + 1)
        jitter = (evenly + 0.4 * rng.random((2, HEIGHT, WIDTH))) % 1
        x, y = (column + jitter[0] - WIDTH / 2) / FOCAL, (HORIZON - row - jitter[1]) / FOCAL
        ray = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        turn, reach = 2.39996 * (number + rng.random(len(ray))), APERTURE * np.sqrt(rng.random(len(ray)))
        lens = np.stack([reach * np.cos(turn), reach * np.sin(turn), np.zeros(len(ray))], axis=-1)
        total += np.minimum(scene.radiance(EYE + lens, normalise(ray * FOCUS - lens)), 20.0)
    return (total / PASSES).reshape(HEIGHT, WIDTH, 3)


def develop(light: Array) -> Image.Image:
    """Bloom, vignette, a film's shoulder, grain."""
    wide = np.pad(light, ((90, 90), (90, 90), (0, 0)), mode="edge")
    bloom = sum(weight * blur(wide, sigma) for sigma, weight in ((2.0, 0.05), (9.0, 0.035), (30.0, 0.02)))
    light = light * 0.895 + np.asarray(bloom)[90:-90, 90:-90]
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    light = light * (1 - 0.20 * (x**2 + 0.8 * y**2) / 1.8)[..., None] * np.array([0.60, 0.575, 0.58])
    # Rational fit of the ACES curve by K. Narkowicz (2015).
    tone = np.clip(light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14), 0, 1) ** (1 / 2.2)
    tone = tone + 0.28 * tone * (1 - tone) * (2 * tone - 1)  # a harder paper
    grain = blur(rng.standard_normal((HEIGHT, WIDTH)), 0.55)
    tone += (grain / grain.std() * 0.010)[..., None] * (1.15 - tone)
    return Image.fromarray((np.clip(tone, 0, 1) * 255 + 0.5).astype(np.uint8))


def render(directory: Path = SAMPLES) -> None:
    """Write both samples into `directory`. Call it once in a process: the scene depends on the random state."""
    picture = develop(expose(Scene()))
    picture.save(directory / "lighthouse.png", optimize=True)
    picture.save(directory / "lighthouse.jpg", quality=90, optimize=True, progressive=True)


if __name__ == "__main__":
    render()
