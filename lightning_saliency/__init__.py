"""Watch what a network looks at while it trains."""

__version__ = "0.1.0"
