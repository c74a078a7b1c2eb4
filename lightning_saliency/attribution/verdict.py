"""What has been published on whether a method's maps depend on the weights that they explain."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["fails", "passes", "mixed", "not tested"]
"""The result of giving layers random weights, in the papers."""

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "Adebayo et al. 2018": "Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim. Sanity checks for "
        "saliency maps. NeurIPS 2018, arXiv:1810.03292",
        "Nie et al. 2018": "Nie, Zhang, Patel. A theoretical explanation for perplexing behaviors "
        "of backpropagation-based visualizations. ICML 2018, arXiv:1805.07039",
        "Sixt et al. 2020": "Sixt, Granz, Landgraf. When explanations lie: why many modified BP "
        "attributions fail. ICML 2020, arXiv:1912.09818",
    }
)
"""The papers that the verdicts are taken from."""

ADEBAYO, NIE, SIXT = SOURCES


@dataclass(frozen=True)
class Verdict:
    """What the papers found.

    Attributes:
        outcome: "fails": the maps stay much alike when the weights of later layers are random;
            "passes": they do not; "mixed": it depends on the measure; "not tested": none of
            :data:`SOURCES` has tested the method.
        finding: in one sentence.
        sources: the papers, as keys of :data:`SOURCES`.
    """

    outcome: Outcome
    finding: str
    sources: tuple[str, ...] = ()

    def __str__(self) -> str:
        cited = f" ({'; '.join(self.sources)})" if self.sources else ""
        return f"{self.outcome}{cited}"
