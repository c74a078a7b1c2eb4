"""``lightning-saliency benchmark``: the pointing game from the command line."""

import argparse
import logging
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_figure import pointing_figure
from lightning_saliency.benchmark.pointing_models import MODELS
from lightning_saliency.benchmark.pointing_recipes import METHODS
from lightning_saliency.benchmark.pointing_report import PointingReport
from lightning_saliency.cli.factories import (
    count_workers,
    make_data,
    make_model,
    make_trainer,
    suggestion,
)
from lightning_saliency.cli.tetrominoes import run_tetromino_benchmark
from lightning_saliency.errors import InputError
from lightning_saliency.evaluation import run_pointing_game

DATA = ("voc", "coco", "digits", "digits_off_center", "digits_off_centre", "tetrominoes")

_HELP = """\
Play the pointing game: does the largest value of a map lie on the object?

Explains every class in every picture, writes the results to results.sqlite, and makes the
table. If it is stopped, the same command resumes where it was.

With --data tetrominoes: which share of the pixels that matter do maps find, and how far are they
from them? Makes pictures and trains small networks; no pointing, and nothing to resume.
"""
_EXAMPLES = """\
examples:
  without any download, a few minutes:
    lightning-saliency benchmark --method all --data digits
  the published benchmark, on four GPUs:
    lightning-saliency benchmark --method all --model vgg16 --data voc --root ~/data --devices 4
  precision and earth mover's distance on generated tetrominoes, a quarter of an hour:
    lightning-saliency benchmark --method all --data tetrominoes
  a model of your own, from the function make() in mine.py:
    lightning-saliency benchmark --method grad_cam rise --model mine:make --data voc --root ~/data

methods:
  {methods}

exit code: 0 all done, 1 pictures were skipped (0 with --allow-skipped), 2 something cannot be used,
130 stopped by Ctrl-C.
"""


def add_benchmark(commands: Any) -> None:
    """Add the command and its arguments.

    Args:
        commands: from ``add_subparsers``.
    """
    parser = commands.add_parser(
        "benchmark",
        help="the pointing game on VOC, COCO or handwritten digits; tetrominoes",
        description=_HELP,
        epilog=_EXAMPLES.format(methods="\n  ".join(METHODS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--method", nargs="+", required=True, type=_method, metavar="NAME", help="or all"
    )
    parser.add_argument(
        "--data", required=True, choices=DATA, help="digits and tetrominoes need no download"
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of the dataset")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"{', '.join(MODELS)}, or module:function that returns a torch.nn.Module whose scores "
        "are in the order of the dataset's classes (default: vgg16; example for digits)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="state_dict for vgg16 or resnet50 (default: the published weights, downloaded)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="for results.sqlite, table.md, .csv and .png (default: pointing_game/DATA_MODEL)",
    )
    parser.add_argument("--year", default="2007", help="of VOC (default: 2007)")
    parser.add_argument(
        "--split", help="of VOC or COCO (default: test, val2014, which published figures are of)"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="only the first N pictures")
    parser.add_argument(
        "--seeds", type=_count, metavar="N", help="of tetrominoes and their networks (default: 3)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="PIXELS",
        help="a point hits if it is nearer than this (default: 15; 4 for digits)",
    )
    parser.add_argument(
        "--preset",
        choices=["torchray"],
        help="RISE and extremal perturbation as published, at many times the cost",
    )
    parser.add_argument(
        "--allow-skipped",
        action="store_true",
        help="begin although pictures are missing, and exit with 0 although some were skipped",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--devices", default="1", help="number, or auto (default: 1)")
    machine.add_argument("--nodes", type=_count, default=1, help="(default: 1)")
    machine.add_argument("--accelerator", default="auto", help="cpu, gpu, ... (default: auto)")
    machine.add_argument(
        "--batch-size", type=_count, default=16, metavar="N", help="maps at once (default: 16)"
    )
    machine.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read pictures, for each device (default: 2; 0 for digits)",
    )
    machine.add_argument("--log-dir", type=Path, metavar="DIR", help="log to TensorBoard, too")
    own = parser.add_argument_group("a model of your own")
    own.add_argument("--layer", help="of Grad-CAM and linear approximation (default: the last)")
    own.add_argument("--excitation-layer", help="where excitation backprop stops")
    own.add_argument("--contrast-layer", help="where its contrastive form subtracts")
    own.add_argument("--mean", type=float, nargs=3, help="of the channels (default: ImageNet's)")
    own.add_argument("--std", type=float, nargs=3)
    own.add_argument("--side", type=_count, help="shorter side of the images (default: 224)")


def run_benchmark(options: Namespace) -> int:
    """Do what the arguments say.

    Args:
        options: parsed.

    Returns:
        The exit code.

    Raises:
        InputError: an argument does not apply, or cannot be used.
        KeyboardInterrupt: it was stopped.
    """
    if options.data == "tetrominoes":
        return run_tetromino_benchmark(options)
    if options.seeds is not None:
        raise InputError(
            f"Expected --seeds with --data tetrominoes alone, got --data {options.data}, for which "
            "nothing is trained."
        )
    data = make_data(options)
    model = make_model(options, data)
    folder = options.output or Path("pointing_game", f"{data.name}_{_file_name(model.name)}")
    methods = METHODS if "all" in options.method else list(dict.fromkeys(options.method))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = make_trainer(options)
    try:
        report = run_pointing_game(
            list(methods),
            model,
            data,
            folder / "results.sqlite",
            trainer,
            batch_size=options.batch_size,
            num_workers=count_workers(options),
            limit=options.limit,
            preset=options.preset,
            allow_missing=options.allow_skipped,
        )
    except SystemExit as stop:
        # So Lightning ends after Ctrl-C.
        raise KeyboardInterrupt from stop
    if not trainer.is_global_zero:
        return 0
    return write_report(report, data, folder, options.allow_skipped)


def write_report(
    report: PointingReport, data: PointingData, folder: Path, allow_skipped: bool = False
) -> int:
    """Write the table as Markdown, CSV and figure, and print it with what was skipped.

    Args:
        report: the scores.
        data: the dataset.
        folder: where to.
        allow_skipped: whether skipped pictures are no failure.

    Returns:
        The exit code.
    """
    table = report.markdown()
    (folder / "table.md").write_text(table, encoding="utf-8")
    (folder / "table.csv").write_text(report.csv(data.class_names), encoding="utf-8")
    pointing_figure(report).savefig(folder / "table.png", dpi=150)
    print(f"\n{table}\nWritten to {folder}: table.md, table.csv, table.png, results.sqlite.")
    listed = folder / "skipped.txt"
    listed.unlink(missing_ok=True)
    if report.skipped:
        lines = [f"{name}: {said}" for name, said in sorted(report.skipped.items())]
        listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
        shown = "\n  ".join(lines[:10])
        more = f"\n  ... all {len(lines)} in {listed}" if len(lines) > 10 else ""
        print(f"{len(lines)} pictures were skipped:\n  {shown}{more}", file=sys.stderr)
    return 1 if report.skipped and not allow_skipped else 0


def _method(name: str) -> str:
    if name not in (*METHODS, "all"):
        raise argparse.ArgumentTypeError(
            f"there is no method '{name}'.{suggestion(name, METHODS)} "
            f"Methods: {', '.join(METHODS)}, or all."
        )
    return name


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got '{text}'")
    return int(text)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
