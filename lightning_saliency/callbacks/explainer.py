"""Explain the samples: each process its share, by all methods, with as few passes as they need."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_saliency.attribution.extras import Attribution
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.shared_pass import shared_maps
from lightning_saliency.callbacks.explanation import ClassChoice, Explanation, NamedMethod, Series
from lightning_saliency.callbacks.failures import (
    PASSED_ON,
    AbandonedError,
    Failure,
    describe_error,
    is_out_of_memory,
)
from lightning_saliency.callbacks.forward import Forward, explained_model, find_forward
from lightning_saliency.callbacks.progress_bar import progress_shown
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.batch import class_indices
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.errors import InputError
from lightning_saliency.network.isolation.repeatability import warn_if_unrepeatable
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layers import find_layer, is_sharded
from lightning_saliency.network.score import class_logits, target_classes


class Explainer:
    """The methods of one callback, the classes that they explain, and how the module is called.

    Args:
        methods: with their names.
        choices: which classes are explained.
        forward: the user's own way to call the module.
        prefix: stands before all tags.

    Attributes:
        methods: as given; once prepared, with the settings that were left open filled in.
        choices: as given.
        forward: as given, or as found out by :meth:`prepare`.
        is_prepared: whether the methods have been tried on a sample.
    """

    def __init__(
        self,
        methods: Sequence[NamedMethod],
        choices: Sequence[ClassChoice],
        forward: Forward | None,
        prefix: str = "",
    ) -> None:
        self.methods = list(methods)
        self.choices = list(choices)
        self.forward = forward
        self.is_prepared = False
        self.class_count: int | None = None
        self._prefix = prefix

    @property
    def series(self) -> dict[str, Series]:
        """What is followed over the run, by its name in the tags."""
        named = {
            self._series_name(entry, choice): entry.method
            for entry, choice in product(self.methods, self.choices)
        }
        return {name: Series(name, method, self._prefix) for name, method in named.items()}

    def check_model(self, pl_module: pl.LightningModule) -> None:
        """Check that the module has something to call, and the layers that the methods name.

        Raises:
            InputError: there is nothing to call.
            LayerError: a layer does not exist.
        """
        model = explained_model(pl_module, self.forward)
        for entry in self.methods:
            for layer in entry.method.layers():
                find_layer(model, layer)

    def prepare(self, context: RunContext, probe: SampleSet) -> None:
        """Check on a sample that everything can be explained, and settle what is left open.

        Args:
            context: of the run.
            probe: some of the samples; the first one is tried, and the labels of all are checked.

        Raises:
            SaliencyError: a method or a label does not fit the module or the data.
        """
        pl_module = context.pl_module
        probe = to_model_input(context, probe)
        image = probe.images[:1]
        with context.trainer.precision_plugin.forward_context(), undisturbed(pl_module):
            self.forward = self.forward or find_forward(pl_module, image, probe.key)
            model = explained_model(pl_module, self.forward)
            logits = predict(model, image)
            self.class_count = logits.shape[1]
            for choice in self.choices:
                chosen_classes(probe, logits.expand(len(probe), -1), choice)
            self.methods = [
                NamedMethod(entry.name, entry.method.prepare(model, image))
                for entry in self.methods
            ]
            # Not where the weights are spread over processes, of which one alone makes no pass.
            if context.is_rank_zero and not is_sharded(model):
                warn_if_unrepeatable(pl_module, lambda: model(image.clone()))
        self.is_prepared = True

    def predicted(self, context: RunContext, samples: SampleSet) -> Tensor:
        """Return the classes that the model predicts, (N,), int64.

        Args:
            context: of the run.
            samples: as they come from the batch.
        """
        pl_module = context.pl_module
        with context.trainer.precision_plugin.forward_context(), undisturbed(pl_module):
            images = to_model_input(context, samples).images
            forward = self.forward or find_forward(pl_module, images, samples.key)
            return predict(explained_model(pl_module, forward), images).argmax(1)

    def try_methods(self, context: RunContext, probe: SampleSet) -> None:
        """Prepare the methods on a picture that may not be like the samples; forget the result.

        Args:
            context: of the run.
            probe: one sample; its label is not looked at. If the module does not take it, it says
                nothing of the samples, and nothing is tried.

        Raises:
            SaliencyError: a method does not fit the module.
        """
        pl_module = context.pl_module
        with context.trainer.precision_plugin.forward_context(), undisturbed(pl_module):
            try:
                image = to_model_input(context, probe).images[:1]
                forward = self.forward or find_forward(pl_module, image, probe.key)
                model = explained_model(pl_module, forward)
                predict(model, image)
            except InputError:
                raise
            except Exception:
                return
            for entry in self.methods:
                entry.method.prepare(model, image)

    def explain(
        self,
        context: RunContext,
        samples: SampleSet,
        skip: Collection[str] = (),
        methods: Sequence[NamedMethod] | None = None,
    ) -> tuple[dict[str, Explanation], dict[str, Failure | None]]:
        """Explain the samples, each process its share of them.

        Args:
            context: of the run.
            samples: the same ones each time, and on each process.
            skip: series that are not to be tried.
            methods: others than the explainer's own.

        Returns:
            By series, what was found, the same on each process; and for each series that was tried
            what went wrong, None if nothing did.

        Raises:
            StageError: what all methods need has failed.
        """
        explanations: dict[str, Explanation] = {}
        failures: dict[str, Failure | None] = {}
        wanted = self._wanted(methods or self.methods, skip)
        numbers = context.numbers_of_this_rank(len(samples))
        gather = partial(context.gather_shares, count=len(samples))
        with ExitStack() as stack:

            def begin() -> SharedForward:
                model = explained_model(context.pl_module, self.forward)
                mine = stack.enter_context(isolated_share(context, model, samples))
                return shared_forward(
                    model, [entry.method for entry, _ in wanted], mine, self.choices
                )

            shared = context.require(begin)
            for row, (entry, choices) in enumerate(wanted):
                for choice in choices:
                    place = row, self.choices.index(choice)
                    shown = partial(progress_shown, context.trainer, entry.name)
                    call = MethodCall(shared, entry.method, place, shown)
                    found = context.attempt(call, partial(call.describe, numbers))
                    name = self._series_name(entry, choice)
                    failures[name] = found if isinstance(found, Failure) else None
                    if not isinstance(found, Failure):
                        explanations[name] = found.each(gather)
        return explanations, failures

    def _wanted(
        self, methods: Sequence[NamedMethod], skip: Collection[str]
    ) -> list[tuple[NamedMethod, list[ClassChoice]]]:
        """Return the methods that are to be tried, each with its choices."""
        wanted = [
            (entry, [c for c in self.choices if self._series_name(entry, c) not in skip])
            for entry in methods
        ]
        return [(entry, choices) for entry, choices in wanted if choices]

    def _series_name(self, entry: NamedMethod, choice: ClassChoice) -> str:
        return entry.name if len(self.choices) == 1 else f"{entry.name}/{choice}"


@dataclass(frozen=True)
class SharedForward:
    """What the methods of one explanation have in common.

    Attributes:
        model: that is explained.
        images: (N, C, H, W), on its device.
        logits: (N, classes), float32, the model's on them.
        targets: for each choice of classes (N,).
        maps: by the places of method and choice, (N, 1, H, W), what could be explained together.
    """

    model: nn.Module
    images: Tensor
    logits: Tensor
    targets: Sequence[Tensor]
    maps: Mapping[tuple[int, int], Tensor]


def shared_forward(
    model: nn.Module,
    methods: Sequence[AttributionMethod],
    samples: SampleSet,
    choices: Sequence[ClassChoice],
) -> SharedForward:
    """Make the passes that the methods can share.

    Args:
        model: in any state; it is not changed.
        methods: compute the maps.
        samples: on the model's device.
        choices: of the classes that are explained.

    Raises:
        SaliencyError: the model returns no logits, or the labels are no classes of it.
    """

    def choose(logits: Tensor) -> list[Tensor]:
        return [chosen_classes(samples, logits, choice) for choice in choices]

    shared = shared_maps(methods, model, samples.images, choose)
    logits = shared.logits.float()
    return SharedForward(model, samples.images, logits, choose(logits), shared.maps)


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
        target = shared.targets[self._place[1]][which]
        found = self._method.explain(shared.model, shared.images[which], target)
        return self._explanation(found, which)

    def _explanation(self, found: Attribution, which: slice = slice(None)) -> Explanation:
        logits = self._shared.logits[which]
        target = self._shared.targets[self._place[1]][which]
        return Explanation(
            saliency=found.saliency.float().cpu(),
            target=target.cpu(),
            predicted=logits.argmax(1).cpu(),
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
        can_retry = len(numbers) > 1 and not is_sharded(self._shared.model)
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


@contextmanager
def isolated_share(
    context: RunContext, model: nn.Module, samples: SampleSet, module: nn.Module | None = None
) -> Iterator[SampleSet]:
    """Yield this process's samples as the model takes them; inside, the module is undisturbed.

    Passes through ``model`` stop when the run has been told to end.

    Args:
        context: of the run.
        model: is called to explain; the module, or a part or a view of it.
        samples: all of them.
        module: what is explained, if it is not the run's module.
    """
    module = context.pl_module if module is None else module
    mine = samples
    if context.trainer.world_size > 1:
        mine = samples[context.numbers_of_this_rank(len(samples))]
    mine = to_model_input(context, mine)

    def stop_at_sigterm(*_: object) -> None:
        if context.trainer.received_sigterm:
            raise AbandonedError

    # The module's own flags too, where the model is only a part or a view of it.
    with context.trainer.precision_plugin.forward_context(), undisturbed(module):
        handle = model.register_forward_pre_hook(stop_at_sigterm)
        try:
            yield mine
        finally:
            handle.remove()


def to_model_input(context: RunContext, samples: SampleSet) -> SampleSet:
    """Return samples on the module's device and in its precision."""
    samples = samples.to(context.pl_module.device)
    # Tensors that the user gave may have another precision than the model.
    return replace(samples, images=context.trainer.precision_plugin.convert_input(samples.images))


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the model's logits (N, classes) on ``images``, float32.

    Args:
        model: in any state; it is not changed.
        images: (N, C, H, W), on the model's device.

    Raises:
        ModelError: the model returns no logits.
    """
    with undisturbed(model), torch.no_grad():
        return class_logits(model(images.clone())).detach().float()


def chosen_classes(samples: SampleSet, logits: Tensor, choice: ClassChoice) -> Tensor:
    """Return the classes to explain, int64, shape (N,), on the logits' device.

    Args:
        samples: with labels, if these are chosen.
        logits: (N, classes), the model's on these samples.
        choice: "label", "predicted", or one class for all.

    Raises:
        InputError: there are no labels, or they are no classes of the model.
    """
    if choice == "label":
        labels = class_indices(samples.labels, "the validation samples")
        return target_classes(logits, labels)
    return target_classes(logits, choice)
