"""Gradient maps of fixed validation samples, while a network trains."""

from collections.abc import Sequence

from lightning_saliency.attribution.gradient import Gradient
from lightning_saliency.callbacks.explanation.explain import ClassChoice
from lightning_saliency.callbacks.explanation.faults import OnError
from lightning_saliency.callbacks.explanation.forward import Forward
from lightning_saliency.callbacks.measurement.references import Pinned
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.samples.batch import Unpack
from lightning_saliency.callbacks.samples.regions import RegionsSpec
from lightning_saliency.callbacks.samples.sample_set import SampleSpec
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.trust.checks import TrustChecks

__all__ = ["GradientCallback"]


class GradientCallback(SaliencyCallback):
    """Watch how fast the score changes with each pixel.

    Args:
        saliency_layer: take the derivative with respect to this layer's output, a picture or the
            tokens of one (:func:`~lightning_saliency.network.grid.fold`); ``""`` for the image.
        resize: see :class:`~lightning_saliency.attribution.AttributionMethod`, as for
            ``resize_mode`` and ``smooth``.
        samples: see :class:`SaliencyCallback`, as for all that follow.
    """

    def __init__(
        self,
        saliency_layer: str = "",
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
        method = Gradient(
            saliency_layer=saliency_layer,
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
