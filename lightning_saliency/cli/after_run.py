"""``lightning-saliency replay``, ``bisect``, ``report``, ``compare`` and ``export``."""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_saliency.cli.run_parts import add_run_arguments, run_parts
from lightning_saliency.errors import InputError
from lightning_saliency.history import compare, export_maps
from lightning_saliency.replaying import bisect, replay
from lightning_saliency.reporting import report, write_comparison
from lightning_saliency.reporting.report import check_new

_REPLAY = """\
Explain the checkpoints of a run that is over, as a callback in it would have done: the same maps,
drift, filmstrip and alarms, as far as there are checkpoints. A stopped replay goes on.
"""
_BISECT = """\
Find the first checkpoint at which a number of the maps is above or below a bound, with few
explanations if what has changed once stays changed; with --scan, whether or not it does.
"""
_REPORT = """\
Write what a run has left, its saved maps and what its loggers wrote, as one HTML page that needs no
other file, no script and no network; beside it the same numbers as JSON.
"""
_COMPARE = "Compare the saved maps of two runs, relative to how much runs of one recipe differ."
_EXPORT = "Write the saved maps of a run as NumPy file, table, pictures and film."


def add_after_run(commands: Any) -> None:
    """Add the commands and their arguments.

    Args:
        commands: from ``add_subparsers``.
    """
    parser = _command(commands, "replay", "explain the checkpoints of a run", _REPLAY)
    add_run_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("replay"), metavar="DIR")
    parser.add_argument(
        "--validate", action="store_true", help="make the module's own validation too, and log it"
    )
    parser.set_defaults(run=_run_replay)

    parser = _command(commands, "bisect", "find where the maps of a run changed", _BISECT)
    add_run_arguments(parser)
    parser.add_argument(
        "--tag", help="of the number (default: top10_iou with the first checkpoint's maps)"
    )
    parser.add_argument("--above", type=float, metavar="BOUND")
    parser.add_argument("--below", type=float, metavar="BOUND")
    parser.add_argument("--reference", type=Path, metavar="PATH", help="(default: the first)")
    parser.add_argument("--scan", action="store_true", help="explain all checkpoints")
    parser.set_defaults(run=_run_bisect)

    parser = _command(commands, "report", "write one page about a run", _REPORT)
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="(default: saliency_report.html in RUN)"
    )
    parser.add_argument("--title", help="of the page (default: the name of the folder)")
    parser.set_defaults(run=_run_report)

    parser = _command(commands, "compare", "compare the saved maps of two runs", _COMPARE)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--seeds", nargs="+", type=Path, default=[], metavar="RUN", help="runs of one recipe"
    )
    parser.add_argument("--series", help="the method as in the tags (default: the only one)")
    parser.add_argument("--match", choices=("content", "order"), default="content")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it, as .png, .svg, .pdf")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page, and JSON")
    parser.set_defaults(run=_run_compare)

    parser = _command(commands, "export", "write the saved maps of a run", _EXPORT)
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--output", type=Path, default=Path("export"), metavar="DIR")
    parser.add_argument("--series", help="the method as in the tags (default: all)")
    parser.add_argument(
        "--forms",
        nargs="+",
        default=["numpy", "csv", "png", "gif"],
        choices=("numpy", "csv", "png", "gif"),
    )
    parser.set_defaults(run=_run_export)


def _command(commands: Any, name: str, short: str, text: str) -> Any:
    return commands.add_parser(
        name,
        help=short,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _run_replay(options: Namespace) -> int:
    parts = run_parts(options, save_maps=True)
    found = replay(
        parts.module,
        options.checkpoints,
        parts.callbacks,
        parts.data,
        options.output,
        weights_only=not options.trust_checkpoints,
        validate=options.validate,
        enable_progress_bar=True,
        **_machine(options),
    )
    print(found)
    return 1 if found.skipped else 0


def _run_bisect(options: Namespace) -> int:
    parts = run_parts(options, save_maps=False)
    if len(parts.callbacks) != 1:
        raise InputError(
            f"Expected one saliency callback, got {len(parts.callbacks)}. Name a --method."
        )
    callback: Any = parts.callbacks[0]
    tag = options.tag or f"saliency_drift/{next(iter(callback.series))}/pinned/top10_iou"
    found = bisect(
        parts.module,
        options.checkpoints,
        callback,
        tag,
        options.above,
        options.below,
        parts.data,
        options.reference,
        options.scan,
        weights_only=not options.trust_checkpoints,
        **_machine(options),
    )
    print(found)
    return 0


def _run_report(options: Namespace) -> int:
    print(f"Report: {report(options.folder, options.output, options.title)}")
    return 0


def _run_compare(options: Namespace) -> int:
    if options.figure is not None and options.figure.exists():
        raise InputError(f"Expected --figure to be a new file, but {options.figure} exists.")
    if options.html is not None:
        check_new(options.html)
    one, other = options.runs
    found = compare(one, other, options.series, options.match, seeds=options.seeds)
    print(found)
    if options.figure is not None:
        found.figure().savefig(options.figure)
        print(f"Figure: {options.figure}")
    if options.html is not None:
        print(f"Page: {write_comparison(found, options.html)}")
    return 0


def _run_export(options: Namespace) -> int:
    files = export_maps(options.folder, options.output, options.series, options.forms)
    print(f"{len(files)} files in {options.output}.")
    return 0


def _machine(options: Namespace) -> dict[str, Any]:
    devices = options.devices
    if devices != "auto":
        if not devices.isdigit() or int(devices) < 1:
            raise InputError(f"Expected --devices as a number above 0, or auto, got {devices}.")
        devices = int(devices)
    return {"accelerator": options.accelerator, "devices": devices}
