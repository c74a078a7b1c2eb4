"""The command ``lightning-saliency``: one parser, and what goes wrong as one line."""

import argparse
import sys
from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_saliency.cli.after_run import add_after_run
from lightning_saliency.cli.benchmark import add_benchmark, run_benchmark
from lightning_saliency.errors import SaliencyError

_WRONG_USE = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what stands behind ``lightning-saliency``; None for this process's.

    Returns:
        The exit code: 0 if everything was done, 1 if something was skipped, 2 if something cannot
        be used, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        "lightning-saliency", description="Explain networks, judge the explanations, and look back."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_benchmark(commands)
    commands.choices["benchmark"].set_defaults(run=run_benchmark)
    add_after_run(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except SaliencyError as error:
        print(f"lightning-saliency: {error}", file=sys.stderr)
        return _WRONG_USE
    except KeyboardInterrupt:
        _say_stopped()
        return _INTERRUPTED


# The signal reaches all processes of the command.
@rank_zero_only
def _say_stopped() -> None:
    print(
        "\nStopped. What was finished is kept; the same command resumes from there.",
        file=sys.stderr,
    )
