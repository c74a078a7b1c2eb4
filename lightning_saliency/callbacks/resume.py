"""Whether a checkpoint's references are of the same samples and methods as the run's."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.callbacks.explanation import ClassChoice, NamedMethod
from lightning_saliency.callbacks.samples.sample_set import Samples
from lightning_saliency.errors import SaliencyWarning


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
        classes = " and ".join(map(str, choices))
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

    def select_matching(
        self, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return what was saved for methods that are the same; warn of those that are not.

        Args:
            state: from :meth:`state_dict`, of the run that saved the checkpoint.
            parts: by name, each by series, such as ``"grad_cam/label"``.
        """
        changed = [
            name for name, words in self.methods.items() if state["methods"].get(name) != words
        ]
        for name in changed:
            rank_zero_warn(
                f"The checkpoint's references of '{name}' were made by "
                f"{state['methods'].get(name)}, and this run explains by {self.methods[name]}. "
                "Its drift and filmstrip start anew. To go on with them, resume with the same "
                "settings.",
                category=SaliencyWarning,
            )
        return {
            part: {s: entry for s, entry in entries.items() if s.partition("/")[0] not in changed}
            for part, entries in parts.items()
        }


def describe_samples(samples: Samples, dataloader_idx: int) -> str:
    """Return in words which samples are explained.

    Args:
        samples: of a callback, before a checkpoint is loaded.
        dataloader_idx: the validation loader that they come from.
    """
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
