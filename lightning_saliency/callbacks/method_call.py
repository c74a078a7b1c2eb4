"""One method's maps of this process's samples, and the passes that methods share."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.extras import Attribution, joined
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.shared_pass import shared_maps
from lightning_saliency.callbacks.explanation import ClassChoice, Explanation, choice_name
from lightning_saliency.callbacks.failures import (
    PASSED_ON,
    AbandonedError,
    describe_error,
    is_out_of_memory,
)
from lightning_saliency.callbacks.samples.batch import class_indices
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layers import is_sharded
from lightning_saliency.network.score import (
    Target,
    class_logits,
    class_scores,
    part_of,
    target_classes,
)


@dataclass(frozen=True)
class SharedForward:
    """What the methods of one explanation have in common.

    Attributes:
        models: that are explained, each with the samples that it stands for.
        images: (N, C, H, W), on their device.
        answer: what the models say, float32; see :func:`read_answer`.
        choices: of what is explained.
        targets: for each choice the classes (N,), or the callable.
        maps: by the places of method and choice, (N, 1, H, W), what could be explained together.
    """

    models: Sequence[tuple[nn.Module, slice]]
    images: Tensor
    answer: Tensor
    choices: Sequence[ClassChoice]
    targets: Sequence[Target]
    maps: Mapping[tuple[int, int], Tensor]

    @property
    def is_sharded(self) -> bool:
        """Whether the processes have to make the same passes."""
        return is_sharded(self.models[0][0])


def shared_forward(
    models: Sequence[tuple[nn.Module, slice]],
    methods: Sequence[AttributionMethod],
    samples: SampleSet,
    choices: Sequence[ClassChoice],
) -> SharedForward:
    """Make the passes that the methods can share.

    Args:
        models: in any state, each with the samples that it stands for; they are not changed.
        methods: compute the maps.
        samples: on the models' device.
        choices: of the classes that are explained.

    Raises:
        SaliencyError: the model returns no logits, or the labels are no classes of it.
    """

    def choose(some: SampleSet, answer: Tensor) -> list[Target]:
        return [chosen_classes(some, logits_of(answer, choices), choice) for choice in choices]

    parts = []
    for model, which in models:
        some = samples[which]
        read = partial(read_answer, choices=choices)
        parts.append(shared_maps(methods, model, some.images, partial(choose, some), read))
    answer = torch.cat([part.logits for part in parts]).float()
    places = set.intersection(*(set(part.maps) for part in parts))
    maps = {place: torch.cat([part.maps[place] for part in parts]) for place in places}
    targets = choose(samples, answer)
    return SharedForward(models, samples.images, answer, choices, targets, maps)


def read_answer(output: object, count: int, choices: Sequence[ClassChoice]) -> Tensor:
    """Return what a model says, as far as it matters to the choices, (N, columns).

    The first columns are the logits of the classes, if one of these is explained. Then comes one
    for each score of the user, with its value.

    Args:
        output: of the model, on N images.
        count: N.
        choices: of what is explained.

    Raises:
        ModelError: there are no logits in it, or not one row for each image.
        InputError: a callable does not return scores.
    """
    scores = [choice for choice in choices if callable(choice)]
    parts = [class_logits(output, count)] if len(scores) < len(choices) else []
    parts += [class_scores(output, score, count)[:, None] for score in scores]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def logits_of(answer: Tensor, choices: Sequence[ClassChoice]) -> Tensor:
    """Return the part of :func:`read_answer` that are logits, (N, classes); (N, 0) if none are.

    Args:
        answer: (N, columns).
        choices: that it was read for.
    """
    return answer[:, : answer.shape[1] - sum(map(callable, choices))]


class MethodCall:
    """Explains this process's samples by one method; can say on which of them it fails.

    Args:
        shared: what all methods have in common.
        method: computes the maps, unless they are there.
        place: of the method and of the choice of classes.
        shown: makes the context in which the method explains alone.
    """

    def __init__(
        self,
        shared: SharedForward,
        method: AttributionMethod,
        place: tuple[int, int],
        shown: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._shared, self._method, self._place = shared, method, place
        self._shown = shown

    def __call__(self) -> Explanation:
        """Explain the samples; whatever the method raises comes out."""
        found = self._shared.maps.get(self._place)
        if found is not None:
            return self._explanation(Attribution(found))
        with self._shown():
            return self._alone(slice(None))

    def describe(self, numbers: Sequence[int], error: BaseException) -> str:
        """Return an exception in words, with the sample that it comes from.

        Args:
            numbers: of the samples, as in the tags.
            error: that came out of the call.
        """
        text = describe_error(error)
        return text and f"{text} ({self._culprit(numbers, error)})"

    def _alone(self, which: slice) -> Explanation:
        shared = self._shared
        target = shared.targets[self._place[1]]
        rows = range(len(shared.images))[which]
        if len(shared.models) == 1:
            ((model, _),) = shared.models
            found = self._method.explain(model, shared.images[which], part_of(target, which))
            return self._explanation(found, which)
        parts = []
        for row in rows:
            model, one = shared.models[row]
            parts.append(self._method.explain(model, shared.images[one], part_of(target, one)))
        extras = [part.extras for part in parts if part.extras is not None]
        whole = Attribution(
            torch.cat([part.saliency for part in parts]), joined(extras) if extras else None
        )
        return self._explanation(whole, which)

    def _explanation(self, found: Attribution, which: slice = slice(None)) -> Explanation:
        shared, place = self._shared, self._place[1]
        answer, choice = shared.answer[which], shared.choices[place]
        logits, target = logits_of(answer, shared.choices), shared.targets[place]
        predicted = logits.argmax(1) if logits.shape[1] else torch.full((len(answer),), -1)
        if callable(choice):
            column = logits.shape[1] + sum(map(callable, shared.choices[:place]))
            unknown = torch.full((len(answer),), torch.nan)
            return Explanation(
                saliency=found.saliency.float().cpu(),
                target=torch.full((len(answer),), -1),
                predicted=predicted.cpu(),
                probability=unknown,
                log_probability=unknown,
                extras=found.extras,
                score=answer[:, column].cpu(),
                score_name=choice_name(choice),
            )
        if not isinstance(target, Tensor):  # pragma: no cover - classes are
            raise TypeError(type(target))
        target = target[which]
        return Explanation(
            saliency=found.saliency.float().cpu(),
            target=target.cpu(),
            predicted=predicted.cpu(),
            probability=logits.softmax(1).gather(1, target[:, None]).squeeze(1).cpu(),
            log_probability=logits.log_softmax(1).gather(1, target[:, None]).squeeze(1).cpu(),
            extras=found.extras,
        )

    def _culprit(self, numbers: Sequence[int], error: BaseException) -> str:
        """Return the sample that an exception comes from, for instance ``"sample 3"``.

        The samples are tried one by one until one fails again. Not where the weights are spread
        over the processes, because one alone makes no pass; nor after too little memory, of which
        one sample alone would take less.
        """
        can_retry = len(numbers) > 1 and not self._shared.is_sharded
        if can_retry and not is_out_of_memory(error):
            for place, number in enumerate(numbers):
                try:
                    self._alone(slice(place, place + 1))
                except AbandonedError:
                    break
                except PASSED_ON:
                    raise
                except BaseException:
                    return f"sample {number}"
        plural = "s" if len(numbers) > 1 else ""
        return f"sample{plural} {', '.join(map(str, numbers))}"


def predict(
    model: nn.Module, images: Tensor, choices: Sequence[ClassChoice] = ("predicted",)
) -> Tensor:
    """Return what the model says of ``images``, float32; see :func:`read_answer`.

    Args:
        model: in any state; it is not changed.
        images: (N, C, H, W), on the model's device.
        choices: of what is explained.

    Raises:
        ModelError: the model returns no logits.
        InputError: a callable does not return scores.
    """
    with undisturbed(model), torch.no_grad():
        return read_answer(model(images.clone()), len(images), choices).detach().float()


def chosen_classes(samples: SampleSet, logits: Tensor, choice: ClassChoice) -> Target:
    """Return the classes to explain, int64, shape (N,), on the logits' device; or the callable.

    Args:
        samples: with labels, if these are chosen.
        logits: (N, classes), the model's on these samples.
        choice: "label", "predicted", one class for all, or a callable.

    Raises:
        InputError: there are no labels, or they are no classes of the model.
    """
    if callable(choice):
        return choice
    if choice == "label":
        labels = class_indices(samples.labels, "the validation samples")
        return target_classes(logits, labels)
    return target_classes(logits, choice)
