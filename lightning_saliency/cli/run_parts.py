"""From the arguments of the command to module, data and callbacks of a run that is over."""

import os
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl

from lightning_saliency import attribution
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks import DriftAlarm, SaliencyCallback
from lightning_saliency.cli.factories import suggestion
from lightning_saliency.errors import DependencyError, InputError

# What a file of LightningCLI may hold besides, such as ckpt_path, is of training.
_OF_A_RUN = ("seed_everything", "trainer", "model", "data")


class RunParts(NamedTuple):
    """What a replay is made of."""

    module: Any
    data: Any
    callbacks: list[pl.Callback]


def add_run_arguments(parser: Any) -> None:
    """Add the arguments that say what run it was, and how to explain it.

    Args:
        parser: of one command.
    """
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="PATH", help="checkpoints, or their folder"
    )
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--module",
        metavar="MODULE:CLASS",
        help="the LightningModule; its hyperparameters are read from the first checkpoint",
    )
    run.add_argument(
        "--data", metavar="MODULE:CLASS", help="its LightningDataModule (default: the module's own)"
    )
    run.add_argument(
        "--config", type=Path, metavar="FILE", help="of LightningCLI: module, data and callbacks"
    )
    run.add_argument(
        "--trust-checkpoints",
        action="store_true",
        help="load checkpoints that could run any program",
    )
    how = parser.add_argument_group("the explanations (default: the callbacks of --config)")
    how.add_argument("--method", nargs="+", metavar="NAME", help="for instance grad_cam")
    how.add_argument(
        "--samples",
        type=_samples,
        default=8,
        metavar="N",
        help="how many first validation samples, or indices such as 3,17,20 (default: 8)",
    )
    how.add_argument("--accelerator", default="auto", help="cpu, gpu, ... (default: auto)")
    how.add_argument("--devices", default="1", help="number, or auto (default: 1)")


def run_parts(options: Namespace, save_maps: bool) -> RunParts:
    """Return what the arguments name.

    Args:
        options: parsed.
        save_maps: of the callback that is made for ``--method``.

    Raises:
        InputError: something is missing, or cannot be made.
    """
    module = None if options.module is None else _class(options.module, pl.LightningModule)
    data = None if options.data is None else _class(options.data, pl.LightningDataModule)
    callbacks: list[pl.Callback] = []
    if options.config is not None:
        module, data, callbacks = _of_config(options.config, module, data)
    elif data is not None:
        data = _made(data, options.data)
    if module is None:
        raise InputError(
            "Expected --module, such as mine:Classifier, or --config, a file of LightningCLI."
        )
    if options.method or not callbacks:
        methods: list[Any] = [_method(name) for name in options.method or ["gradient"]]
        callbacks = [SaliencyCallback(methods, options.samples, save_maps=save_maps)]
    return RunParts(module, data, callbacks)


def _samples(text: str) -> int | list[int]:
    numbers = [int(part) for part in text.split(",")]
    return numbers if "," in text else numbers[0]


def _method(name: str) -> AttributionMethod:
    exported = (getattr(attribution, each) for each in attribution.__all__)
    known: dict[str, type[AttributionMethod]] = {
        each.name: each
        for each in exported
        if isinstance(each, type)
        and issubclass(each, AttributionMethod)
        and isinstance(getattr(each, "name", None), str)
    }
    if name not in known:
        raise InputError(
            f"Expected --method among {', '.join(sorted(known))}, got '{name}'."
            + suggestion(name, known)
        )
    made: AttributionMethod = _made(known[name], name)
    return made


def _class(name: str, kind: type) -> type:
    module, _, found = name.replace(":", ".").rpartition(".")
    # As with python -m, what lies in the current folder can be imported.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        named: Any = getattr(import_module(module), found)
    except Exception as error:
        raise InputError(
            f"Expected {name} to be a class that can be imported, but: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(named, type) or not issubclass(named, kind):
        raise InputError(f"Expected {name} to be a {kind.__name__}, got {named!r}.")
    return named


def _made(kind: Any, name: str) -> Any:
    try:
        return kind()
    except Exception as error:
        raise InputError(
            f"Expected to make {name} without arguments, but: {type(error).__name__}: {error}. "
            "With arguments, write them into a file for --config."
        ) from error


def _of_config(path: Path, module: Any, data: Any) -> RunParts:
    try:
        import yaml
        from lightning.pytorch.cli import LightningCLI

        content = yaml.safe_load(path.read_text())
    except ImportError as error:
        raise DependencyError(
            "Expected jsonargparse to read files of LightningCLI: pip install "
            "'jsonargparse[signatures]'."
        ) from error
    except Exception as error:
        raise InputError(
            f"Expected --config to be a YAML file, but {path}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"Expected settings in {path}, got {type(content).__name__}.")
    arguments = {name: content[name] for name in _OF_A_RUN if content.get(name) is not None}
    if module is None and "class_path" not in (content.get("model") or {}):
        raise InputError(
            f"Expected the class of the module as model.class_path in {path}, or as --module."
        )
    try:
        made = LightningCLI(
            module,
            data,
            args=arguments,
            run=False,
            save_config_callback=None,
            subclass_mode_model=module is None,
            subclass_mode_data=data is None and "data" in arguments,
            auto_configure_optimizers=False,
        )
    # The parser says on stderr what it does not like.
    except SystemExit as error:
        raise InputError(f"Expected settings of a run in {path}; see above.") from error
    ours: list[pl.Callback] = [
        each
        for each in made.trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(each, (SaliencyCallback, DriftAlarm))
    ]
    return RunParts(made.model, made.datamodule, ours)
