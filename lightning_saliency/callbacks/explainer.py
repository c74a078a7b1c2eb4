"""Explain the samples: each process its share, by all methods, with as few passes as they need."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_saliency.attribution.extras import Attribution, joined
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.shared_pass import shared_maps
from lightning_saliency.callbacks.explanation import (
    ClassChoice,
    Explanation,
    NamedMethod,
    Series,
    choice_name,
)
from lightning_saliency.callbacks.failures import (
    PASSED_ON,
    AbandonedError,
    Failure,
    describe_error,
    is_out_of_memory,
)
from lightning_saliency.callbacks.forward import (
    Forward,
    explained_model,
    find_forward,
    model_of_sample,
)
from lightning_saliency.callbacks.found_methods import FoundMethods, OnInapplicable
from lightning_saliency.callbacks.progress_bar import progress_shown
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.batch import class_indices
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.errors import InputError, LayerError, ModelError, SaliencyError
from lightning_saliency.network.isolation.repeatability import warn_if_unrepeatable
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layers import find_layer, is_sharded
from lightning_saliency.network.score import (
    Target,
    class_logits,
    class_scores,
    part_of,
    target_classes,
)


class Explainer:
    """The methods of one callback, the classes that they explain, and how the module is called.

    Args:
        methods: with their names.
        choices: which classes are explained.
        forward: the user's own way to call the module.
        prefix: stands before all tags.
        on_inapplicable: what to do with a method that does not apply to the module.

    Attributes:
        names: of all series, those of methods that are skipped later among them.
        methods: as given; once prepared, with the settings that were left open filled in, and
            without those that are skipped.
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
        on_inapplicable: OnInapplicable = "raise",
    ) -> None:
        self.methods = list(methods)
        self.choices = list(choices)
        self.forward = forward
        self.is_prepared = False
        self.class_count: int | None = None
        self._prefix = prefix
        self._skips = on_inapplicable == "skip"
        self._found = FoundMethods(methods)
        self.names = tuple(self.series)

    @property
    def series(self) -> dict[str, Series]:
        """What is followed over the run, by its name in the tags."""
        named = {
            self._series_name(entry, choice): (entry.method, choice if callable(choice) else None)
            for entry, choice in product(self.methods, self.choices)
        }
        return {
            name: Series(name, method, self._prefix, score)
            for name, (method, score) in named.items()
        }

    def check_model(self, pl_module: pl.LightningModule) -> None:
        """Check that the module has something to call, and the layers that the methods name.

        Raises:
            InputError: there is nothing to call.
            LayerError: a layer does not exist.
        """
        model = explained_model(pl_module, self.forward)
        for entry in self.methods:
            for layer in entry.method.layers():
                try:
                    find_layer(model, layer)
                except LayerError:
                    if not self._skips:
                        raise

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
            if not probe.inputs:
                self.forward = self.forward or find_forward(pl_module, image, probe.key)
            ((model, _),) = self.models(pl_module, probe[:1])
            answer = predict(model, image, self.choices)
            self.class_count = logits_of(answer, self.choices).shape[1] or None
            for choice in self.choices:
                logits = logits_of(answer, self.choices).expand(len(probe), -1)
                chosen_classes(probe, logits, choice)
            self._try_each(model, image)
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
        samples = to_model_input(context, samples)
        with context.trainer.precision_plugin.forward_context(), undisturbed(pl_module):
            if not samples.inputs:
                self.forward = self.forward or find_forward(pl_module, samples.images, samples.key)
            found = [
                predict(model, samples.images[part]).argmax(1)
                for model, part in self.models(pl_module, samples)
            ]
        return torch.cat(found)

    def settle(self, context: RunContext) -> None:
        """Leave out what does not apply on some process, and say once what was found.

        Every process calls this after :meth:`prepare`.

        Raises:
            SaliencyError: no method applies.
        """
        inapplicable = {
            entry.name: self._found.inapplicable.get(entry.name, "it does not on another process")
            for entry in self.methods
            if context.any_process(entry.name in self._found.inapplicable)
        }
        self.methods = [entry for entry in self.methods if entry.name not in inapplicable]
        if not self.methods:
            raise ModelError(
                "Expected one of the methods at least to apply to the module, but none does: "
                + " ".join(f"{name}: {why}" for name, why in inapplicable.items())
            )
        self._found.say(self.methods, inapplicable)

    def state_dict(self) -> dict[str, Any]:
        """Return for a checkpoint what was found of the methods."""
        return self._found.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what a run before this one has found, without looking for it again.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        self.methods = self._found.load_state_dict(state, self.methods)

    def models(
        self, pl_module: pl.LightningModule, samples: SampleSet
    ) -> list[tuple[nn.Module, slice]]:
        """Return what is explained, and for which of the samples.

        One model for all; if further inputs belong to the samples, one for each of them.

        Args:
            pl_module: the user's module, or a copy.
            samples: on the module's device.
        """
        model = explained_model(pl_module, self.forward)
        if not samples.inputs:
            return [(model, slice(None))]
        return [
            (
                model_of_sample(
                    model, self.forward, {n: v[i : i + 1] for n, v in samples.inputs.items()}
                ),
                slice(i, i + 1),
            )
            for i in range(len(samples))
        ]

    def _try_each(self, model: nn.Module, image: Tensor) -> None:
        """Prepare the methods; keep those that apply, note of the others why they do not."""
        target: Target = next((choice for choice in self.choices if callable(choice)), "predicted")
        self._found.inapplicable.clear()
        for place, entry in enumerate(self.methods):
            try:
                prepared = entry.method.prepare(model, image, target)
            except SaliencyError as error:
                if not self._skips:
                    raise
                self._found.inapplicable[entry.name] = str(error)
            else:
                self.methods[place] = NamedMethod(entry.name, prepared)

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
                probe = to_model_input(context, probe)
                image = probe.images[:1]
                found = self.forward
                if not probe.inputs:
                    found = self.forward or find_forward(pl_module, image, probe.key)
                alone = Explainer(self.methods, self.choices, found)
                ((model, _),) = alone.models(pl_module, probe[:1])
                predict(model, image, self.choices)
            except InputError:
                raise
            except Exception:
                return
            alone._skips = self._skips
            alone._try_each(model, image)

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
                models = self.models(context.pl_module, mine)
                for part, _ in models if mine.inputs else ():
                    stop_when_told(context, part, stack)
                return shared_forward(
                    models, [entry.method for entry, _ in wanted], mine, self.choices
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
        if len(self.choices) == 1 and not callable(choice):
            return entry.name
        return f"{entry.name}/{choice_name(choice)}"


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


def read_answer(output: object, choices: Sequence[ClassChoice]) -> Tensor:
    """Return what a model says, as far as it matters to the choices, (N, columns).

    The first columns are the logits of the classes, if one of these is explained. Then comes one
    for each score of the user, with its value.

    Args:
        output: of the model, on N images.
        choices: of what is explained.

    Raises:
        ModelError: there are no logits in it.
        InputError: a callable does not return scores.
    """
    scores = [choice for choice in choices if callable(choice)]
    parts = [class_logits(output)] if len(scores) < len(choices) else []
    parts += [class_scores(output, score)[:, None] for score in scores]
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
    # The module's own flags too, where the model is only a part or a view of it.
    with (
        context.trainer.precision_plugin.forward_context(),
        undisturbed(module),
        ExitStack() as stack,
    ):
        stop_when_told(context, model, stack)
        yield mine


def stop_when_told(context: RunContext, model: nn.Module, stack: ExitStack) -> None:
    """Let no pass through a model begin after the run has been told to end.

    Args:
        context: of the run.
        model: is called to explain.
        stack: as long as it is open.
    """

    def stop_at_sigterm(*_: object) -> None:
        if context.trainer.received_sigterm:
            raise AbandonedError

    handle = model.register_forward_pre_hook(stop_at_sigterm)
    stack.callback(handle.remove)


def to_model_input(context: RunContext, samples: SampleSet) -> SampleSet:
    """Return samples on the module's device and in its precision."""
    samples = samples.to(context.pl_module.device)
    # Tensors that the user gave may have another precision than the model.
    convert = context.trainer.precision_plugin.convert_input
    inputs = {name: convert(value) for name, value in samples.inputs.items()}
    return replace(samples, images=convert(samples.images), inputs=inputs)


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
        return read_answer(model(images.clone()), choices).detach().float()


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
