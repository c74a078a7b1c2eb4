"""From the arguments of ``lightning-saliency benchmark`` to dataset, model and trainer."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_saliency.benchmark.coco import COCOPointing
from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_digits import DigitsPointing
from lightning_saliency.benchmark.pointing_models import (
    MODELS,
    Layers,
    PointingModel,
    load_pointing_model,
)
from lightning_saliency.benchmark.preprocessing import IMAGENET, Preprocessing
from lightning_saliency.benchmark.voc import VOCPointing
from lightning_saliency.errors import InputError


def make_data(options: Namespace) -> PointingData:
    """Return the dataset that the arguments name.

    Args:
        options: parsed.

    Raises:
        InputError: it is not there, or cannot be used.
    """
    data: PointingData
    if options.data.startswith("digits"):
        data = DigitsPointing(max(100, options.limit or 0), off_center=options.data != "digits")
    elif options.root is None:
        raise InputError(f"Expected --root, the folder of {options.data.upper()}.")
    elif options.data == "voc":
        data = VOCPointing(options.root, options.year, options.split or "test")
    else:
        data = COCOPointing(options.root, options.split or "val2014")
    if options.tolerance is not None:
        if not options.tolerance >= 0:
            raise InputError(f"Expected a tolerance of 0 pixels or more, got {options.tolerance}.")
        data.tolerance = options.tolerance
    return data


def make_model(options: Namespace, data: PointingData) -> PointingModel:
    """Return the model that the arguments name.

    Args:
        options: parsed.
        data: the dataset that it is for.

    Raises:
        InputError: there is no such model, or it cannot be made.
    """
    name = options.model or ("example" if options.data.startswith("digits") else "vgg16")
    if ":" not in name:
        if name not in MODELS:
            raise InputError(
                f"Expected --model as one of {', '.join(MODELS)}, or as module:function for your "
                f"own, got '{name}'.{suggestion(name, MODELS)}"
            )
        return load_pointing_model(name, data.name, len(data.class_names), options.weights)
    preprocessing = Preprocessing(
        tuple(options.mean or IMAGENET.mean),
        tuple(options.std or IMAGENET.std),
        options.side or IMAGENET.side,
    )
    layers = Layers(options.layer, options.excitation_layer or "", options.contrast_layer)
    return PointingModel(name, _imported(name), preprocessing, layers)


def _imported(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    # As with python -m, what lies in the current folder can be imported.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made: Any = getattr(import_module(module), function)()
    except Exception as error:
        raise InputError(
            f"Expected to get a model by calling {function}() of the module {module}, but: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"Expected {name} to return a torch.nn.Module, got {type(made).__name__}.")
    return made


def make_trainer(options: Namespace) -> pl.Trainer:
    """Return a trainer for the devices that the arguments name.

    Args:
        options: parsed.

    Raises:
        InputError: they are not there.
    """
    devices = options.devices
    if devices != "auto":
        if not devices.isdigit() or int(devices) < 1:
            raise InputError(f"Expected --devices as a number above 0, or auto, got {devices}.")
        devices = int(devices)
    logger = TensorBoardLogger(options.log_dir) if options.log_dir else False
    try:
        return pl.Trainer(
            accelerator=options.accelerator,
            devices=devices,
            num_nodes=options.nodes,
            logger=logger,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"Expected devices that are there: {error}") from error


def count_workers(options: Namespace) -> int:
    """Return how many processes read pictures.

    Args:
        options: parsed.
    """
    if options.workers is not None:
        return int(options.workers)
    return 0 if options.data.startswith("digits") else 2


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a question whether another name was meant; empty if none is similar.

    Args:
        name: what was written.
        known: names that there are.
    """
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
