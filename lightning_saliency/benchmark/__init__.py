"""Data with known answers: what a method should find, and how to look at what it finds."""

from lightning_saliency.benchmark.cluttered_digits import ClutteredDigits
from lightning_saliency.benchmark.example import get_example_data, get_example_regions
from lightning_saliency.benchmark.plot_example import plot_example

__all__ = ["ClutteredDigits", "get_example_data", "get_example_regions", "plot_example"]
