"""Networks of six packages: which layer and grid are found, and which methods apply.

Not a test by its name, because the packages are large and it takes minutes: run
``python tests/compat/model_table.py [--only PART OF A NAME] [--results FILE]``. All weights are
random. What is in the file of results already is not tried again. At the end it prints the tables
of the documentation, in Markdown; ``--page`` writes all networks to a file. The exit status is the
number of networks with something wrong.

What is right is said in ``model_checks.py``, the truth about the networks in ``model_cases.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model_cases import Case, every_case
from model_checks import REFUSED, RIGHT, WRONG, Verdict, verdict

from lightning_saliency.attribution import METHODS

_WORDS = (RIGHT, REFUSED, WRONG)


def results(wanted: str, kept: Path) -> list[dict[str, Any]]:
    """Return a row for each network, after trying those that the file does not have."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = {row["name"] + str(row["size"]): row for row in map(json.loads, lines)}
    rows = []
    for case in every_case():
        key = case.name + str(list(case.size))
        if wanted not in case.name:
            continue
        if key not in known:
            row = _row(case)
            print(_line(row), flush=True)
            known[key] = row
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(known[key])
    return rows


def _row(case: Case) -> dict[str, Any]:
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = verdict(case)
        except Exception as error:
            found = Verdict(WRONG, f"{type(error).__name__}: {error}"[:200], "")
    row = {"name": case.name, "size": list(case.size), **asdict(found)}
    row["truth"] = f"{case.truth()}" if case.stride else "not the prediction"
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _line(row: dict[str, Any]) -> str:
    cells = row["cells"] or {}
    methods = " ".join(f"{name}:{word}" for name, word in row["methods"].items() if word != RIGHT)
    return (
        f"{row['layer']:8} {row['name']:44} {row['size']} {row['found']}; truth {row['truth']} "
        f"({row['source']}); cells {list(cells.values())} [{row['seconds']} s]\n         {methods}"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _word(text: str) -> str:
    return text.partition(" ")[0]


def by_package(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many layers and grids of each package are right."""
    packages = dict.fromkeys(row["name"].partition("/")[0] for row in rows)
    counted = []
    for package in packages:
        counts = Counter(r["layer"] for r in rows if r["name"].startswith(f"{package}/"))
        counted.append([package, *(counts[word] for word in _WORDS)])
    return _table(["package", "right", "refused rightly", "wrong"], counted)


def by_method(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many networks each method is right for."""
    counted = []
    for kind in METHODS:
        counts = Counter(_word(row["methods"].get(kind.name, "")) for row in rows)
        if sum(counts[word] for word in _WORDS):
            counted.append([f"`{kind.__name__}`", *(counts[word] for word in _WORDS)])
    return _table(["method", "right", "refused rightly", "wrong"], counted)


_PAGE = """\
# Networks that were tried

Of each: the layer that `GradCAM()` finds, its grid, the tokens that it leaves out, and the methods
that do not apply, which say so. All others are right, see
[Layers and grids](compatibility.md#layers-and-grids). Weights are random, and networks that come in
many sizes are cut to two blocks. Written by `python tests/compat/model_table.py --page`.

"Guided" stands for guided backprop and DeconvNet, "excitation" for excitation backprop and its
contrastive form, "layers" for Grad-CAM and its relatives as long as no layer is named.

"""
_GROUPS = {
    "guided": {"deconvnet", "guided_backprop"},
    "excitation": {"excitation_backprop", "contrastive_excitation_backprop"},
    "layers": {"linear_approx", "grad_cam", "grad_cam_pp", "hires_cam", "layer_cam"},
}


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return all networks, as a page of the documentation."""
    lines = []
    for row in rows:
        height, width = row["size"]
        found = row["found"].replace("'", "`").removeprefix("layer ")
        lines.append(
            [
                row["name"].replace("/", ": ", 1),
                f"{height} x {width}",
                found if row["layer"] == RIGHT else "`LayerError`",
                ", ".join(_refusing(row["methods"])),
            ]
        )
    return _PAGE + _table(["network", "image", "layer and grid", "does not apply"], lines) + "\n"


def _refusing(methods: dict[str, str]) -> list[str]:
    refusing = {name for name, word in methods.items() if word == REFUSED}
    grouped = [group for group, names in _GROUPS.items() if names <= refusing]
    rest = refusing.difference(*(_GROUPS[group] for group in grouped))
    kinds = {kind.name: f"`{kind.__name__}`" for kind in METHODS}
    return grouped + [kinds[name] for name in sorted(rest)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--results", type=Path, default=Path("build/model_table.jsonl"))
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    rows = results(given.only, given.results)
    print(by_package(rows), by_method(rows), sep="\n\n")
    if given.page:
        given.page.write_text(page(rows))
    wrong = [
        row
        for row in rows
        if row["layer"] == WRONG or any(_word(w) == WRONG for w in row["methods"].values())
    ]
    for row in wrong:
        print(_line(row))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
