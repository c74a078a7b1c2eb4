"""CSV files, and every logger that takes numbers alone."""

from lightning_saliency.loggers.adapter import LogAdapter

__all__ = ["CSVAdapter"]


class CSVAdapter(LogAdapter):
    """Takes numbers alone."""
