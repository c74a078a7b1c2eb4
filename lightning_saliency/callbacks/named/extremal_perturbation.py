"""ExtremalPerturbation maps of fixed validation samples, while a network trains."""

from collections.abc import Sequence

from lightning_saliency.attribution.extremal_perturbation import ExtremalPerturbation
from lightning_saliency.attribution.mask_search.presets import SearchPreset
from lightning_saliency.attribution.mask_search.rewards import Reward, RewardName, Variant
from lightning_saliency.callbacks.explanation.explain import ClassChoice
from lightning_saliency.callbacks.explanation.faults import OnError
from lightning_saliency.callbacks.explanation.forward import Forward
from lightning_saliency.callbacks.measurement.references import Pinned
from lightning_saliency.callbacks.saliency import SaliencyCallback
from lightning_saliency.callbacks.samples.batch import Unpack
from lightning_saliency.callbacks.samples.regions import RegionsSpec
from lightning_saliency.callbacks.samples.sample_set import SampleSpec
from lightning_saliency.image.perturbation import PerturbationKind
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.batching import BatchSize
from lightning_saliency.trust.checks import TrustChecks

__all__ = ["ExtremalPerturbationCallback"]


class ExtremalPerturbationCallback(SaliencyCallback):
    """Watch the parts of given areas that keep the score highest.

    Args:
        areas: fractions of the image, in (0, 1], rising; one mask is found for each.
        perturbation: ``"blur"`` or ``"fade"`` (towards 0, the mean colour of normalised images).
        max_iter: iterations; None for 16, or 800 with the preset.
        num_levels: degrees of perturbation, at least 2, between which masks interpolate.
        step: distance of the points that a mask is made of, in pixels; None for 7 at a shorter
            side of 224 pixels, in proportion (at least 1), or 7 with the preset.
        sigma: radius of a point's kernel, in pixels; None for three steps.
        jitter: show the model pictures that are moved by a few pixels, in each iteration in
            another way, so that masks do not cling to single pixels. With the preset they are
            mirrored in every second iteration instead, which makes other pictures of digits.
        variant: ``"preserve"``: the area alone keeps the score; ``"delete"``: without the area the
            score is lost; ``"dual"``: both, at twice the cost.
        reward_func: ``"simple"`` (the logit), ``"contrastive"`` (how far it lies above the other
            logits), or a function, see
            :data:`~lightning_saliency.attribution.mask_search.rewards.Reward`.
        preset: None; ``"torchray"`` for what TorchRay does in each iteration: 800 steps of
            gradient descent, lengths that do not depend on the image, a blur that darkens the
            edges, an area that is measured on a canvas larger than the image.
        batch_size: how many pictures go through the model at once; halved when a GPU runs out of
            memory. ``"auto"``: twice as many as there are images, so that it takes no more memory
            than a training step with them; from 8 to 32 on a CPU, to 128 elsewhere.
        autocast: run the model under autocast to bfloat16.
        seed: of the order in which the pictures are moved or mirrored, the only chance in it.
        tolerance: end before ``max_iter`` when no mask has changed by more than this share of its
            area within five iterations, and each area is right to this share; looked at in every
            fifth iteration. None never ends early.
        resize: see :class:`~lightning_saliency.attribution.AttributionMethod`, as for
            ``resize_mode`` and ``smooth``.
        samples: see :class:`SaliencyCallback`, as for all that follow.
    """

    def __init__(
        self,
        areas: tuple[float, ...] = (0.1,),
        perturbation: PerturbationKind = "blur",
        max_iter: int | None = None,
        num_levels: int = 8,
        step: int | None = None,
        sigma: float | None = None,
        jitter: bool = True,
        variant: Variant = "preserve",
        reward_func: RewardName | Reward = "simple",
        preset: SearchPreset | None = None,
        batch_size: BatchSize = "auto",
        autocast: bool = False,
        seed: int = 0,
        tolerance: float | None = None,
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
        method = ExtremalPerturbation(
            areas=areas,
            perturbation=perturbation,
            max_iter=max_iter,
            num_levels=num_levels,
            step=step,
            sigma=sigma,
            jitter=jitter,
            variant=variant,
            reward_func=reward_func,
            preset=preset,
            batch_size=batch_size,
            autocast=autocast,
            seed=seed,
            tolerance=tolerance,
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
