"""Loggers and experiments that have the documented methods of the real ones, and remember calls."""

from __future__ import annotations

from typing import Any


class WithExperiment:
    """A logger of which nothing but its experiment is used."""

    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment


class WeightsAndBiases:
    """The documented methods of ``WandbLogger``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    @property
    def experiment(self) -> object:
        raise AssertionError("a run would be started for the question alone")

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        self.calls.append((key, images, step))

    def log_text(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[str]] | None = None,
        dataframe: Any | None = None,
        step: int | None = None,
    ) -> None:
        self.calls.append((key, columns, data, step))


class MlflowClient:
    """The documented methods of ``mlflow.MlflowClient``, from version 2.13 on."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log_image(
        self,
        run_id: str,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
        synchronous: bool | None = None,
    ) -> None:
        self.calls.append((run_id, image, artifact_file, key, step))

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        raise AssertionError("a file of the run is no text of a step")


class OldMlflowClient:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log_image(self, run_id: str, image: Any, artifact_file: str) -> None:
        self.calls.append((run_id, image, artifact_file))


class MlflowLogger(WithExperiment):
    @property
    def run_id(self) -> str:
        return "abc"


class CometExperiment:
    """The documented methods of Comet's experiments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log_image(
        self,
        image_data: Any,
        name: str | None = None,
        overwrite: bool = False,
        image_format: str = "png",
        step: int | None = None,
    ) -> None:
        self.calls.append((image_data, name, step))

    def log_text(
        self, text: str, step: int | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self.calls.append((text, step, metadata))

    def log_histogram_3d(
        self, values: Any, name: str | None = None, step: int | None = None, **kwargs: Any
    ) -> None:
        self.calls.append((values, name, step))
