"""Explain the samples: each process its share, by all methods, with as few passes as they need."""

import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_saliency.attribution.from_function import FromFunction
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
    OnError,
    describe_error,
    is_out_of_memory,
    warn,
)
from lightning_saliency.callbacks.forward import (
    Forward,
    explained_model,
    find_forward,
    model_of_sample,
)
from lightning_saliency.callbacks.found_methods import FoundMethods, OnInapplicable
from lightning_saliency.callbacks.method_call import (
    MethodCall,
    SharedForward,
    chosen_classes,
    logits_of,
    predict,
    shared_forward,
)
from lightning_saliency.callbacks.progress_bar import progress_shown
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.errors import InputError, LayerError, ModelError, SaliencyError
from lightning_saliency.network.isolation.repeatability import warn_if_unrepeatable
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layers import find_layer, is_sharded
from lightning_saliency.network.score import Target


class Explainer:
    """The methods of one callback, the classes that they explain, and how the module is called.

    Args:
        methods: with their names.
        choices: which classes are explained.
        forward: the user's own way to call the module.
        prefix: stands before all tags.
        on_inapplicable: what to do with a method that does not apply to the module.
        on_error: what to do if a function of the user's fails when it is tried.

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
        on_error: OnError = "warn",
    ) -> None:
        self.methods = list(methods)
        self.choices = list(choices)
        self.forward = forward
        self.is_prepared = False
        self.class_count: int | None = None
        self._prefix = prefix
        self._skips = on_inapplicable == "skip"
        self._on_error = on_error
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
            for choice in self.choices:
                logits = logits_of(answer, self.choices).expand(len(probe), -1)
                chosen_classes(probe, logits, choice)
            self.class_count = logits_of(answer, self.choices).shape[1] or None
            self._try_each(model, image)
            # Not where the weights are spread over processes, of which one alone makes no pass.
            if context.is_rank_zero and not is_sharded(model):
                warn_if_unrepeatable(pl_module, lambda: model(image.clone()))
        self.is_prepared = True

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
        if not self.methods and inapplicable:
            raise ModelError(
                "Expected one of the methods at least to apply to the module, but none does: "
                + " ".join(f"{name}: {why}" for name, why in inapplicable.items())
            )
        self._found.say(self.methods, inapplicable)
        for entry in self.methods:
            if context.any_process(entry.name in self._found.failed):
                what = self._found.failed.get(entry.name, "an error on another process")
                warn(
                    f"Expected {entry.method.label} to explain a sample, but tried once before "
                    f"training it raised {what}. It is tried again at each explanation."
                )

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
        self._found.failed.clear()
        for place, entry in enumerate(self.methods):
            try:
                prepared = entry.method.prepare(model, image, target)
            except SaliencyError as error:
                if not self._skips:
                    raise
                self._found.inapplicable[entry.name] = str(error)
            except PASSED_ON:
                raise
            except BaseException as error:
                if not self._may_pass(entry, error):
                    raise
            else:
                self.methods[place] = NamedMethod(entry.name, prepared)

    def _may_pass(self, entry: NamedMethod, error: BaseException) -> bool:
        """Whether the user's own code raised, whose fault may be one of the moment; note it."""
        if not isinstance(entry.method, FromFunction):
            return False
        if not is_out_of_memory(error):
            self._found.failed[entry.name] = describe_error(error)
            if self._on_error == "raise":
                return False
        # It holds on to the function's tensors.
        with suppress(Exception):
            traceback.clear_frames(error.__traceback__)
        return True

    def predicted(self, context: RunContext, samples: SampleSet) -> Tensor:
        """Return the classes that the model predicts, (N,), int64.

        Args:
            context: of the run.
            samples: as they come from the batch.
        """
        pl_module = context.pl_module
        with context.trainer.precision_plugin.forward_context(), undisturbed(pl_module):
            samples = to_model_input(context, samples)
            if not samples.inputs:
                self.forward = self.forward or find_forward(pl_module, samples.images, samples.key)
            found = [
                predict(model, samples.images[part]).argmax(1)
                for model, part in self.models(pl_module, samples)
            ]
            return torch.cat(found)

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
        if not wanted:
            return explanations, failures
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
