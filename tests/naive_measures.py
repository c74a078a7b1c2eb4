"""The measures once more, written from their definitions with NumPy and SciPy in float64.

Each takes two maps (H, W) and gives a number.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

Map = NDArray[np.float64]


def top10(image: Map) -> set[int]:
    flat = image.ravel()
    count = max(1, round(flat.size / 10))
    fits = {i for i in range(flat.size) if np.sum(flat >= flat[i]) <= count}
    return fits or {int(i) for i in np.flatnonzero(flat == flat.max())}


def top10_iou(first: Map, second: Map) -> float:
    a, b = top10(first), top10(second)
    return len(a & b) / len(a | b)


def spearman(first: Map, second: Map) -> float:
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)


def unit_range(image: Map) -> Map:
    return (image - image.min()) / (image.max() - image.min())


def ssim(first: Map, second: Map) -> float:
    a, b = unit_range(first), unit_range(second)
    sigmas = [1.5 if side >= 6 else max(side - 1, 0.1) / 3.5 for side in a.shape]
    radii = [min(5, side - 1) for side in a.shape]

    def blur(image: Map) -> Map:
        # SciPy's "mirror" reflects about the center of the last pixel.
        return ndimage.gaussian_filter(image, sigmas, mode="mirror", radius=radii)

    mean_a, mean_b = blur(a), blur(b)
    variance_a = np.maximum(blur(a * a) - mean_a**2, 0)
    variance_b = np.maximum(blur(b * b) - mean_b**2, 0)
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.0001, 0.0009
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return float(np.mean(numerator / denominator))


def center_shift(first: Map, second: Map) -> float:
    a, b = (ndimage.center_of_mass(unit_range(image)) for image in (first, second))
    height, width = first.shape
    return float(np.hypot(a[0] - b[0], a[1] - b[1]) / np.sqrt(height**2 + width**2))


def log2_norm_ratio(first: Map, second: Map) -> float:
    return float(np.log2(np.abs(first).sum() / np.abs(second).sum()))


def coarse(first: Map, second: Map) -> float:
    if min(first.shape) < 14:
        return spearman(first, second)
    (a, b), (c, d) = halves(first), halves(second)
    root = np.sqrt(max(0, spearman(a, b)) * max(0, spearman(c, d)))
    if not root >= 0.2:
        return float("nan")
    return float(np.clip((spearman(a, d) + spearman(b, c)) / 2 / root, -1, 1))


def halves(image: Map) -> list[Map]:
    """The means of 7 x 7 cells over the pixels of each color of a checkerboard."""
    height, width = image.shape
    found = [np.zeros((7, 7)), np.zeros((7, 7))]
    for row in range(7):
        for column in range(7):
            seen: list[list[float]] = [[], []]
            for y in range(row * height // 7, -(-(row + 1) * height // 7)):
                for x in range(column * width // 7, -(-(column + 1) * width // 7)):
                    seen[(x + y) % 2].append(image[y, x])
            for color in (0, 1):
                # Sums of equal values in another order are equal.
                mean = sum(seen[color]) / len(seen[color])
                found[color][row, column] = np.round(mean / np.abs(image).max(), 11)
    return found


MEASURES = {
    "top10_iou": top10_iou,
    "spearman": spearman,
    "ssim": ssim,
    "center_shift": center_shift,
    "log2_norm_ratio": log2_norm_ratio,
    "coarse": coarse,
}
