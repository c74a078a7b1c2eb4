"""One page about a run, to hand on: HTML that needs nothing else, and its numbers as JSON."""

from lightning_saliency.reporting.comparison import write_comparison
from lightning_saliency.reporting.report import report

__all__ = ["report", "write_comparison"]
