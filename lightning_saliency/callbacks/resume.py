"""Whether a checkpoint's references are of the same samples and methods as the run's."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.callbacks.explanation import ClassChoice, NamedMethod, choice_name
from lightning_saliency.callbacks.failures import describe_error
from lightning_saliency.callbacks.samples.sample_set import Samples
from lightning_saliency.errors import SaliencyWarning

STATE_VERSION = 3
"""Of the callbacks' state in a checkpoint. Version 1 named none, and held samples by index too; the
filmstrips of version 2 were painted pictures."""


class ResumeFingerprint:
    """What the references of a callback belong to, in words.

    Args:
        samples: that are explained.
        dataloader_idx: the validation loader that they come from.
        methods: as the user gave them.
        choices: of the classes that they explain.
    """

    def __init__(
        self,
        samples: Samples,
        dataloader_idx: int,
        methods: Sequence[NamedMethod],
        choices: Sequence[ClassChoice],
    ) -> None:
        self.samples = describe_samples(samples, dataloader_idx)
        classes = " and ".join(map(choice_name, choices))
        self.methods = {
            entry.name: f"{entry.method.describe()} for target {classes}" for entry in methods
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the words for a checkpoint."""
        return {"samples": self.samples, "methods": dict(self.methods)}

    def same_samples(self, state: Mapping[str, Any]) -> bool:
        """Return whether the checkpoint's samples are this run's; warn if they are not.

        Args:
            state: from :meth:`state_dict`, of the run that saved the checkpoint.
        """
        if state["samples"] == self.samples:
            return True
        rank_zero_warn(
            f"The checkpoint's references are of other samples ({state['samples']}) than this run "
            f"explains ({self.samples}). Drift and filmstrips start anew. To go on with them, "
            "resume with the same samples.",
            category=SaliencyWarning,
        )
        return False

    def changed_methods(self, state: Mapping[str, Any]) -> set[str]:
        """Return the names of the methods that the checkpoint's maps were not made by, and warn.

        Args:
            state: from :meth:`state_dict`, of the run that saved the checkpoint.
        """
        saved = state["methods"]
        changed = {name for name, words in self.methods.items() if saved.get(name) != words}
        for name in sorted(changed):
            rank_zero_warn(
                f"The checkpoint's references of '{name}' were made by {saved.get(name)}, and this "
                f"run explains by {self.methods[name]}. Its drift and filmstrip start anew. To go "
                "on with them, resume with the same settings.",
                category=SaliencyWarning,
            )
        return changed


class StateParts:
    """The state of a callback in a checkpoint, loaded part by part.

    A checkpoint may be damaged, or of another version. What cannot be used of it costs that part of
    the history, never the run.

    Args:
        state: as the checkpoint has it; whatever it is.
    """

    def __init__(self, state: object) -> None:
        self._state: Mapping[str, Any] = state if isinstance(state, Mapping) else {}
        self._lost: list[str] = []
        self._version = self._state.get("version", 1)

    def load(self, what: str, take: Callable[..., bool | None], *keys: str) -> bool:
        """Load one part.

        Args:
            what: is lost if it cannot be used, such as ``"the drift"``.
            take: gets the entries of ``keys``; may raise anything, and return False to refuse them.
            keys: of the state.

        Returns:
            Whether the part was taken.
        """
        try:
            if not isinstance(self._version, int) or self._version > STATE_VERSION:
                raise ValueError(f"version {self._version}, {STATE_VERSION} is the newest known")
            return take(*(self._state[key] for key in keys)) is not False
        except Exception as error:
            self._lost.append(f"{what} ({describe_error(error)})")
            return False

    def warn_of_lost(self, kind: str) -> None:
        """Say what could not be used, if anything.

        Args:
            kind: the name of the callback's class.
        """
        if self._lost:
            rank_zero_warn(
                f"Parts of the checkpoint's state of {kind} cannot be used: "
                f"{', '.join(self._lost)}. They start over; the run goes on. To keep "
                "them, resume with the version of lightning_saliency that saved the checkpoint.",
                category=SaliencyWarning,
            )


def describe_samples(samples: Samples, dataloader_idx: int) -> str:
    """Return in words which samples are explained.

    Args:
        samples: of a callback, before a checkpoint is loaded.
        dataloader_idx: the validation loader that they come from.
    """
    if samples.chosen is not None:
        return f"{samples.chosen} of validation loader {dataloader_idx}"
    if samples.known is None:
        chosen = f"indices {samples.indices}" if samples.indices else f"the first {samples.count}"
        return f"{chosen} of validation loader {dataloader_idx}"
    given = samples.known.to("cpu")
    digest = hashlib.sha256()
    for tensor in (given.images, given.labels):
        if tensor is not None:
            # As float64, in which tensors of every type have bytes.
            digest.update(tensor.double().contiguous().numpy().tobytes())
    return f"{samples.count} given images, {digest.hexdigest()[:12]}"
