"""``python -m lightning_saliency`` is the command ``lightning-saliency``."""

import sys

from lightning_saliency.cli import main

if __name__ == "__main__":
    sys.exit(main())
