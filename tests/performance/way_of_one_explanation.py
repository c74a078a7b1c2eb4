"""Count the files of the package that one image crosses on its way through one explanation.

Run as ``python tests/performance/way_of_one_explanation.py`` (``--list`` names the files). A small
network is trained for one epoch with ``GradCAMCallback(samples=1)``; while that runs, every call
into the package is noted, with the file that it comes from. The way of the image begins with the
batch in which it is found and ends with the last picture of its explanation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent), str(HERE.parent / "callbacks")]

from small_runs import TinyModule, make_trainer, train_loader, val_loader  # noqa: E402

import lightning_saliency  # noqa: E402
from lightning_saliency import GradCAMCallback  # noqa: E402

PACKAGE = str(Path(lightning_saliency.__file__).parent)


class Way:
    """Notes calls into the package.

    Attributes:
        files: with at least one function that was called.
        edges: pairs of files of which one calls the other.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.edges: set[tuple[str, str]] = set()

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; to be given to ``sys.setprofile``."""
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(PACKAGE):
            return
        self.files.add(file)
        caller = frame.f_back
        # Through torch and Lightning back to the file of ours that began it.
        while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != file:
            self.edges.add((caller.f_code.co_filename, file))


class Followed(GradCAMCallback):
    """Followed from the batch with the image to the end of its explanation."""

    way = Way()

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Find the image."""
        sys.setprofile(self.way.note)
        super().on_validation_batch_start(*args, **kwargs)
        sys.setprofile(None)

    def on_validation_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Explain it."""
        sys.setprofile(self.way.note)
        super().on_validation_epoch_end(*args, **kwargs)
        sys.setprofile(None)


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), Followed(samples=1), max_epochs=1)
        trainer.fit(TinyModule(), train_loader(), val_loader())
    if options.list:
        print("\n".join(sorted(file.removeprefix(PACKAGE + "/") for file in Followed.way.files)))
    print(f"{len(Followed.way.files)} files, {len(Followed.way.edges)} edges")


if __name__ == "__main__":
    main()
