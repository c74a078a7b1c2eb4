"""What remains of a whole run: the pinned maps, a film, charts side by side, maps on disk."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.failures import describe_error, warn
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.run_facts import about_run, facts_of
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.callbacks.stages.map_saver import MapSaver

CHARTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "saliency": {
        "loss": [".*loss.*"],
        "moved since the previous explanation": [".*saliency_drift/.*/previous"],
        "moved since the pinned explanation": [".*saliency_drift/.*/pinned"],
        "flips and empty maps": [".*saliency_target/.*flips", ".*saliency_target/.*/empty"],
        "regions": [".*saliency_region/.*", ".*saliency_object/.*"],
        "alarms (above 1)": [".*saliency_alarm/.*"],
    }
}
"""TensorBoard's custom scalars: what stands together in a chart, as regular expressions."""

# Charts that would stay empty in runs without regions, ground truth or alarms.
_SOMETIMES = {
    "regions": ("saliency_region/", "saliency_object/"),
    "alarms (above 1)": ("saliency_alarm/",),
}


class HistoryStage(Stage):
    """Keeps what a later look at the run needs.

    Args:
        pictures: draws in the colors of the run.
        prefix: stands before all tags.
        saver: writes the maps; None to write none.
        charts: whether TensorBoard's custom scalars are laid out.
        settings: of the callback, kept with the maps.
    """

    name: ClassVar[str] = "history"

    def __init__(
        self,
        pictures: Pictures,
        prefix: str,
        saver: MapSaver | None,
        charts: bool,
        settings: Mapping[str, Any],
    ) -> None:
        self._pictures = pictures
        self._prefix = prefix
        self._saver = saver
        self._charts = charts
        self._settings = settings
        self._laid_out: list[str] = []
        self._pinned_epochs: dict[str, int] = {}
        self._last_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to find its maps on disk."""
        return {} if self._saver is None else self._saver.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` returned, perhaps without maps on disk.

        Raises:
            Exception: there is something else in it.
        """
        if self._saver is not None and state:
            self._saver.load_state_dict(state)

    def begin(self, context: RunContext) -> None:
        """A fit begins; called on all processes."""
        if self._saver is not None:
            self._saver.begin(context)
        self._laid_out.clear()
        self._lay_out(context)

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        context.require(lambda: self._keep(context, round))

    def end(self, context: RunContext) -> None:
        """Write the films; nothing that goes wrong with them ends the run."""
        if not context.is_rank_zero:
            return
        try:
            self._lay_out(context)
            for series, film in self._pictures.films():
                for adapter in context.adapters():
                    tag = f"{self._prefix}saliency/timelapse/{series}"
                    adapter.film(tag, film, self._last_step)
        except Exception as error:
            warn(f"The film of the maps could not be logged. {describe_error(error)}")

    def _lay_out(self, context: RunContext) -> None:
        """Lay out the charts of the numbers that there are, and again when there are more."""
        if not (self._charts and context.is_rank_zero):
            return
        known = list(context.trainer.callback_metrics)
        [(category, charts)] = CHARTS.items()
        shown = {
            title: tags
            for title, tags in charts.items()
            if title not in _SOMETIMES
            or any(part in tag for part in _SOMETIMES[title] for tag in known)
        }
        if list(shown) == self._laid_out:
            return
        for adapter in context.adapters():
            adapter.charts({category: shown})
        self._laid_out = list(shown)

    def _keep(self, context: RunContext, round: ExplanationRound) -> None:
        self._last_step = round.step
        self._lay_out(context)
        if context.is_rank_zero:
            self._log_pinned(context, round)
        if self._saver is not None and context.follows_fit:
            shown = self._pictures.show(round.samples.images)
            run = about_run(context, round, self._settings)
            names = self._pictures.names
            self._saver.write(round, shown, lambda series: facts_of(round, series, names, run))

    def _log_pinned(self, context: RunContext, round: ExplanationRound) -> None:
        for series in round.explanations:
            references = round.references[series]
            pinned = references.pinned
            if not references.is_settled:
                continue
            if self._pinned_epochs.get(series) == pinned.epoch:
                continue
            self._pinned_epochs[series] = pinned.epoch
            picture = self._pictures.of_maps(
                series,
                round.samples.images,
                pinned.maps,
                pinned.target,
                f"epoch {pinned.epoch}",
            )
            for adapter in context.adapters():
                adapter.image(f"{self._prefix}saliency/pinned/{series}", picture, round.step)
