"""One page about a run that is over, to hand on."""

import os
from os import PathLike
from pathlib import Path

from lightning_saliency.errors import InputError
from lightning_saliency.reporting.page import report_page
from lightning_saliency.reporting.record import RunRecord
from lightning_saliency.reporting.saved_run import read_run
from lightning_saliency.whole_file import write_whole

NAME = "saliency_report.html"
"""What a report is called."""


def report(
    run: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    title: str | None = None,
) -> Path:
    """Write what a run has left as one HTML page: what happened, where, and what moved.

    Read are the saved maps (``save_maps=True``), and next to them TensorBoard's event files or
    ``metrics.csv``, for loss and alarms. The page needs no other file, no script and no network,
    and can be printed. Beside it, ``.json`` instead of ``.html``, are the same numbers for
    programs.

    Args:
        run: folder of the run, see :func:`~lightning_saliency.history.load_maps`.
        output: the file; None for ``saliency_report.html`` in the run's folder.
        title: of the page; None for the name of the run's folder.

    Returns:
        The page.

    Raises:
        InputError: before anything is written, if there are no maps, those of several runs, or a
            file cannot be read; or if one of the two files exists.
    """
    folder = Path(run)
    path = Path(output) if output is not None else folder / NAME
    check_new(path)
    record = read_run(folder)
    if title is not None:
        record = RunRecord(**{**vars(record), "title": title})
    write_report(record, path)
    return path


def check_new(path: Path) -> None:
    """Check that a page can be written without overwriting anything.

    Args:
        path: of the page.

    Raises:
        InputError: it, or the JSON file beside it, exists; or it is no HTML file.
    """
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"Expected the output as a file such as {NAME}, got {path}.")
    for each in (path, path.with_suffix(".json")):
        if os.path.lexists(each):
            raise InputError(
                f"Expected a new file, but {each} exists. Remove it, or give another output: "
                "nothing is overwritten."
            )


def write_report(record: RunRecord, path: Path) -> int:
    """Draw and write a report.

    Args:
        record: of the run.
        path: of the page; its folder is made if needed.

    Returns:
        The size of both files in bytes.

    Raises:
        OSError: it cannot be written; no partial file is left.
    """
    page, numbers = report_page(record)
    files = {path: page.encode(), path.with_suffix(".json"): numbers.encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    for each, content in files.items():
        write_whole(each, content)
    return sum(map(len, files.values()))
