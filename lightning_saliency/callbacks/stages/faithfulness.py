"""How faithful the explanations of the samples are."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explainer import Explainer, isolated_share
from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.forward import explained_model
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.metrics.faithfulness import Faithfulness
from lightning_saliency.network.score import Target, part_of
from lightning_saliency.trust.faithfulness import measure_faithfulness


class FaithfulnessStage(Stage):
    """Measures the maps, each process those of its share of the samples, and logs the means.

    Every process makes the same number of passes of the model.

    Args:
        explainer: knows how the module is called.
        measures: names of :data:`~lightning_saliency.metrics.FAITHFULNESS`.
        every: at the first and every so many explanations.
        prefix: stands before all tags.
    """

    name: ClassVar[str] = "faithfulness"
    needs_room: ClassVar[bool] = True

    def __init__(
        self, explainer: Explainer, measures: Sequence[str], every: int, prefix: str
    ) -> None:
        self._explainer = explainer
        self._measures = measures
        self.every = every
        self._prefix = prefix

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        measured = context.require(lambda: self._measure(context, round))
        count = len(round.samples)
        found: dict[str, float] = {}
        for series, values in measured.items():
            mean = Faithfulness(self._measures, sync_on_compute=False)
            mean.update({n: context.gather_shares(v, count).cpu() for n, v in values.items()})
            for name, value in mean.compute().items():
                if name in self._measures:
                    tag = f"{self._prefix}saliency_faithfulness/{series}/{name}"
                    found[tag] = float(value)
        # What is monitored must be the same everywhere, on unlike machines too.
        context.log_numbers(context.broadcast(found), count)

    def _measure(
        self, context: RunContext, round: ExplanationRound
    ) -> dict[str, dict[str, Tensor]]:
        model = explained_model(context.pl_module, self._explainer.forward)
        mine = context.numbers_of_this_rank(len(round.samples))
        with isolated_share(context, model, round.samples) as share:
            images = share.images
            models = self._explainer.models(context.pl_module, share)
            found: dict[str, dict[str, Tensor]] = {}
            for series, explanation in round.explanations.items():
                maps = explanation.saliency[mine].to(images.device)
                score = round.series[series].score
                target: Target = explanation.target[mine].to(images.device)
                target = target if score is None else score
                parts = [
                    measure_faithfulness(
                        each, images[which], maps[which], part_of(target, which), self._measures
                    )
                    for each, which in models
                ]
                found[series] = {
                    name: torch.cat([part[name] for part in parts]) for name in self._measures
                }
            return found
