"""RISE maps of fixed validation samples, while a network trains."""

from collections.abc import Sequence

from lightning_saliency.attribution.rise import RISE
from lightning_saliency.attribution.rise_estimation.presets import RISEPreset
from lightning_saliency.callbacks.explanation.explain import ClassChoice
from lightning_saliency.callbacks.explanation.faults import OnError
from lightning_saliency.callbacks.explanation.forward import Forward
from lightning_saliency.callbacks.measurement.references import Pinned
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.samples.batch import Unpack
from lightning_saliency.callbacks.samples.regions import RegionsSpec
from lightning_saliency.callbacks.samples.sample_set import SampleSpec
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.batching import BatchSize
from lightning_saliency.network.score import ScoreKind
from lightning_saliency.trust.checks import TrustChecks

__all__ = ["RISECallback"]


class RISECallback(SaliencyCallback):
    """Watch how much better the score is while a pixel is kept.

    Args:
        num_masks: how many masks, at most; balanced masks come in blocks (128 for 7 cells), and
            the number is rounded up to whole blocks. None for 256, or with a preset for 1,024
            (``"balanced"``) or 8,000.
        num_cells: cells of the coarse grid in each direction, or (rows, columns).
        p: probability that a cell is kept, above 0 and below 1.
        batch_size: how many masked images go through the model at once; halved when a GPU runs out
            of memory. ``"auto"``: 32 on a CPU, 128 elsewhere.
        seed: of the masks; no other random stream is used.
        score: ``"probability"`` (softmax, the paper's), ``"logit"``, ``"log_probability"`` or
            ``"sigmoid"``. None for ``"probability"``, or what the preset says. A class that hardly
            ever survives the masks has a probability near 0 almost everywhere, and a few masks
            decide on the map; the logit or the logarithm then need far fewer masks, but they are
            another quantity. Not used where the target is a callable.
        preset: None; ``"balanced"`` for the mean over balanced masks without a fit; ``"paper"``
            for independent masks and the mean of score x mask over p; ``"torchray"`` for the map
            that TorchRay gives for the same seed on the CPU, which is the mean of sigmoid x mask,
            with masks that depend on the batch size (32 for ``"auto"``).
        until: stop an image's masks as soon as its split-half correlation (see
            :class:`RISEEstimate`) is at least this, looked at after every second block; None for
            all masks. It costs a host synchronisation each time.
        autocast: run the model under autocast to bfloat16.
        resize: see :class:`~lightning_saliency.attribution.AttributionMethod`, as for
            ``resize_mode`` and ``smooth``.
        samples: see :class:`SaliencyCallback`, as for all that follow.
    """

    def __init__(
        self,
        num_masks: int | None = None,
        num_cells: int | tuple[int, int] = 7,
        p: float = 0.5,
        batch_size: BatchSize = "auto",
        seed: int = 0,
        score: ScoreKind | None = None,
        preset: RISEPreset | None = None,
        until: float | None = None,
        autocast: bool = False,
        resize: bool | tuple[int, int] = True,
        resize_mode: ResizeMode = "bilinear",
        smooth: float = 0.0,
        samples: SampleSpec = 8,
        dataloader_idx: int = 0,
        target: ClassChoice | tuple[ClassChoice, ClassChoice] = "label",
        every_n_epochs: int = 1,
        unpack: Unpack | None = None,
        forward: Forward | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        regions: RegionsSpec | None = None,
        pinned: Pinned = "first",
        warmup_epochs: int = 0,
        noise_every: int | None = 10,
        trust: TrustChecks | None = None,
        save_maps: bool = False,
        custom_scalars: bool = False,
        max_overhead: float | None = None,
        on_error: OnError = "warn",
        name: str | None = None,
    ) -> None:
        method = RISE(
            num_masks=num_masks,
            num_cells=num_cells,
            p=p,
            batch_size=batch_size,
            seed=seed,
            score=score,
            preset=preset,
            until=until,
            autocast=autocast,
            resize=resize,
            resize_mode=resize_mode,
            smooth=smooth,
        )
        super().__init__(
            method,
            samples=samples,
            dataloader_idx=dataloader_idx,
            target=target,
            every_n_epochs=every_n_epochs,
            unpack=unpack,
            forward=forward,
            mean=mean,
            std=std,
            class_names=class_names,
            regions=regions,
            pinned=pinned,
            warmup_epochs=warmup_epochs,
            noise_every=noise_every,
            trust=trust,
            save_maps=save_maps,
            custom_scalars=custom_scalars,
            max_overhead=max_overhead,
            on_error=on_error,
            name=name,
        )
