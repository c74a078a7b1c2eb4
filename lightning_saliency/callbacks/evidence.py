"""The callback that needs no attribution method: what a network needs, measured by removing it."""

from collections.abc import Sequence

from lightning_saliency.callbacks.explanation import ClassChoice
from lightning_saliency.callbacks.failures import OnError
from lightning_saliency.callbacks.forward import Forward
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.samples.batch import Unpack
from lightning_saliency.callbacks.samples.sample_set import SampleSpec
from lightning_saliency.callbacks.settings import Pinned
from lightning_saliency.trust.evidence import Evidence, EvidenceScore, Probes


class EvidenceCallback(SaliencyCallback):
    """Measure after each validation run which parts of the samples the network needs.

    A :class:`SaliencyCallback` without any attribution method, which works with every network that
    returns class scores: each of the samples is scored again without each cell of a grid and
    without each kind of content. See :class:`~lightning_saliency.trust.Evidence` for what it takes.
    Beside a :class:`DriftAlarm` it tells when the network comes to depend on something else.

    Args:
        grid: cells a side of the grid of places, 2 to 16.
        probes: how a part is removed: ``"fill"`` alone, or ``"both"``, also exchanged with the part
            of a sample of another class.
        score: of a class, see :class:`~lightning_saliency.trust.Evidence`.
        samples: as for :class:`SaliencyCallback`, like all that follow; at least 4.
        dataloader_idx: which validation loader the samples come from.
        target: the class whose evidence is measured.
        every_n_epochs: measure in the first epoch that can be, and then every so many epochs.
        unpack: from a batch to (images, labels or None).
        forward: from (pl_module, images) to what holds the class scores.
        mean: per channel; how the images were normalized, to show them as they were.
        std: per channel, like ``mean``.
        class_names: shown instead of class indices.
        pinned: which measurement is the pinned reference.
        warmup_epochs: nothing before this epoch is pinned.
        max_overhead: skip measurements that would take more than this share of the run's time.
        on_error: ``"warn"`` or ``"raise"``.
        name: put before all tags; needed when two callbacks measure the evidence for one target.

    Raises:
        InputError: a setting cannot be used.
    """

    def __init__(
        self,
        grid: int = 5,
        probes: Probes = "both",
        score: EvidenceScore = "auto",
        samples: SampleSpec = 16,
        dataloader_idx: int = 0,
        target: ClassChoice | tuple[ClassChoice, ClassChoice] = "label",
        every_n_epochs: int = 1,
        unpack: Unpack | None = None,
        forward: Forward | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        pinned: Pinned = "first",
        warmup_epochs: int = 0,
        max_overhead: float | None = None,
        on_error: OnError = "warn",
        name: str | None = None,
    ) -> None:
        super().__init__(
            [],
            samples=samples,
            dataloader_idx=dataloader_idx,
            target=target,
            every_n_epochs=every_n_epochs,
            unpack=unpack,
            forward=forward,
            mean=mean,
            std=std,
            class_names=class_names,
            pinned=pinned,
            warmup_epochs=warmup_epochs,
            evidence=Evidence(grid, probes, score=score),
            max_overhead=max_overhead,
            on_error=on_error,
            name=name,
        )
