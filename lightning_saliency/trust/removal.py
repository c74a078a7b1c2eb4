"""Images from which the pixels that a map calls important are taken away, or only they are left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_saliency.errors import InputError
from lightning_saliency.image.imputation import fill_in
from lightning_saliency.image.perturbation import PerturbationKind, perturbation_levels
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.masked_scores import clean_logits
from lightning_saliency.network.score import Target, all_class_scores, class_scores, target_classes

# Sigma of the blur, in pixels, on images of so many pixels: that of extremal perturbation.
_BLUR, _BLUR_SIDE = 20.0, 224


def pixel_ranks(saliency: Tensor) -> Tensor:
    """Return the place of each pixel in the order of importance; 0 is the most important.

    Equal pixels come in an order that is arbitrary, but not by rows, and the same each time.

    Args:
        saliency: (N, 1, H, W), floating point.

    Returns:
        (N, 1, H, W), int64, a permutation of 0, ..., H W - 1 for each image.
    """
    flat = saliency.flatten(1)
    count = flat.shape[1]
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(flat.device)
    order = flat[:, shuffled].argsort(dim=1, descending=True, stable=True)
    places = torch.arange(count, device=flat.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, shuffled[order], places)
    return ranks.view_as(saliency)


@dataclass(frozen=True)
class Probe:
    """Asks a model for the scores of disturbed images.

    Made and used inside :func:`~lightning_saliency.attribution.guard.guarded` and
    ``torch.no_grad()``.

    Attributes:
        model: takes images.
        image: (N, C, H, W).
        clean: (N,), the scores on the images as they are, float32 at least.
        target: the classes (N,), or the user's callable.
        batches: how many images go through the model at once.
    """

    model: nn.Module
    image: Tensor
    clean: Tensor
    target: Tensor | Callable[..., Tensor]
    batches: Batches

    @classmethod
    def of(cls, model: nn.Module, image: Tensor, target: Target, batches: Batches) -> "Probe":
        """Run the model on the images as they are: one pass for each.

        Args:
            model: in eval mode.
            image: (N, C, H, W), checked.
            target: a class stands for its probability; a callable gives the score itself.
            batches: how many images go through the model at once.

        Raises:
            InputError: a target is no class of the model, or there is not one for each image.
            ModelError: the model does not return class scores.
        """
        if callable(target) and not isinstance(target, Tensor):
            scores = batches.run(
                lambda part: _called(model, image[part].clone(), target), len(image)
            )
            return cls(model, image, torch.cat(scores), target, batches)
        logits = clean_logits(model, image, batches)
        classes = target_classes(logits, target)
        probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
        clean = probability.gather(1, classes[:, None])[:, 0]
        return cls(model, image, clean, classes, batches)

    def scores(self, count: int, picture: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the scores of ``count`` pictures of each image.

        Args:
            count: K.
            picture: from indices of images (rows,) and numbers of pictures (rows,), below K, to
                the pictures (rows, C, H, W).

        Returns:
            (N, K), float32 at least.
        """

        def work(part: slice) -> Tensor:
            rows = torch.arange(part.start, part.stop, device=self.image.device)
            owner = rows // count
            pictures = picture(owner, rows % count)
            if not isinstance(self.target, Tensor):
                return _called(self.model, pictures, self.target)
            probability = all_class_scores(self.model(pictures), "probability", len(rows))
            return probability.gather(1, self.target[owner][:, None])[:, 0]

        scores = torch.cat(self.batches.run(work, len(self.image) * count))
        return scores.view(len(self.image), count)


def insertion_and_deletion_curve(
    probe: Probe,
    ranks: Tensor,
    insert: bool,
    steps: int = 16,
    baseline: PerturbationKind | None = None,
) -> Tensor:
    """Return the scores while pixels are put into an empty image, or taken away.

    Args:
        probe: asks the model.
        ranks: from :func:`pixel_ranks`; the most important pixels come first.
        insert: True begins with the baseline and ends with the image, False the reverse.
        steps: S, at least 1; each step changes an equal share of the pixels.
        baseline: what an image without pixels is: ``"blur"`` or ``"fade"``; None for the paper's,
            blur for insertion and fade (zero) for deletion.

    Returns:
        (N, S + 1); S passes of the model for each image.

    Raises:
        InputError: ``steps`` is below 1, or the baseline unknown.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"Expected at least 1 step for insertion and deletion, got {steps!r}.")
    kind = baseline or ("blur" if insert else "fade")
    image = probe.image
    sigma = _BLUR * min(image.shape[2:]) / _BLUR_SIDE
    empty = perturbation_levels(image, kind, 2, sigma)[:, 0]
    cuts = _cuts([step / steps for step in range(steps + 1)], ranks)
    before, after = (empty, image) if insert else (image, empty)
    # The undisturbed image is one end of the curve, and its score is known.
    cuts = cuts[:-1] if insert else cuts[1:]

    def picture(owner: Tensor, number: Tensor) -> Tensor:
        changed = ranks[owner] < cuts[number].view(-1, 1, 1, 1)
        return torch.where(changed, after[owner], before[owner])

    scores = probe.scores(steps, picture)
    clean = probe.clean[:, None].to(scores.dtype)
    return torch.cat((scores, clean) if insert else (clean, scores), dim=1)


def removal_scores(
    probe: Probe,
    ranks: Tensor,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    noise: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Return the scores after shares of the pixels were removed by noisy linear imputation (ROAD).

    A removed pixel becomes the mean of its neighbors, see
    :func:`~lightning_saliency.image.imputation.fill_in`, plus noise, so that the model can tell
    neither from the picture nor from its smoothness what was removed.

    Args:
        probe: asks the model.
        ranks: from :func:`pixel_ranks`.
        shares: K shares of the pixels, in (0, 1).
        noise: standard deviation, in the units of the images; the noise is the same for all images
            and shares, and in every call.

    Returns:
        Two tables (N, K): the most important pixels removed, and the least important. 2 K passes of
        the model for each image, and as many linear systems.

    Raises:
        InputError: a share is out of its range, or the noise negative.
    """
    if not shares or not all(0 < share < 1 for share in shares) or not noise >= 0:
        raise InputError(
            f"Expected shares of the pixels in (0, 1) and noise >= 0, got {list(shares)!r} and "
            f"{noise!r}."
        )
    image = probe.image
    field = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(0))
    field = noise * field.to(image)
    pixels = ranks[0].numel()
    # At least one pixel is removed, and one left.
    cuts = _cuts(shares, ranks).clamp(1, max(1, pixels - 1))

    def picture(owner: Tensor, number: Tensor) -> Tensor:
        least_first = (number >= len(shares)).view(-1, 1, 1, 1)
        cut = cuts[number % len(shares)].view(-1, 1, 1, 1)
        place = torch.where(least_first, pixels - 1 - ranks[owner], ranks[owner])
        removed = place < cut
        return torch.where(removed, fill_in(image[owner], ~removed) + field, image[owner])

    most_first, least_first = probe.scores(2 * len(shares), picture).chunk(2, dim=1)
    return most_first, least_first


def _cuts(shares: Sequence[float], ranks: Tensor) -> Tensor:
    """Return how many pixels are the shares of an image, int64."""
    pixels = ranks[0].numel()
    return torch.tensor([round(share * pixels) for share in shares], device=ranks.device)


def _called(model: nn.Module, images: Tensor, target: Target) -> Tensor:
    scores = class_scores(model(images), target, len(images))
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
