"""What has been published on whether a method's maps depend on the weights that they explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

__all__ = ["KNOWN_TO_FAIL", "Outcome", "SOURCES", "VERDICTS", "Verdict"]

Outcome: TypeAlias = Literal["fails", "passes", "mixed", "not tested"]
"""What came of giving layers random weights, in the papers."""

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

_ADEBAYO, _NIE, _SIXT = SOURCES
_PASSES = "The maps change with the weights of every layer."


@dataclass(frozen=True)
class Verdict:
    """What the papers found.

    Attributes:
        outcome: "fails": the maps stay much alike when the weights of later layers are random;
            "passes": they do not; "mixed": it depends on the measure; "not tested": no paper that
            is named here has tested the method.
        finding: in one sentence.
        sources: the papers, as keys of :data:`SOURCES`.
    """

    outcome: Outcome
    finding: str
    sources: tuple[str, ...] = ()

    def __str__(self) -> str:
        cited = f" ({'; '.join(self.sources)})" if self.sources else ""
        return f"{self.outcome}{cited}"


VERDICTS: Mapping[str, Verdict] = MappingProxyType(
    {
        "gradient": Verdict(
            "passes", "The maps change with the weights of every layer.", (_ADEBAYO,)
        ),
        "grad_cam": Verdict(
            "passes", "The maps change with the weights of every layer.", (_ADEBAYO,)
        ),
        "guided_backprop": Verdict(
            "fails",
            "The maps hardly depend on the later layers; they recover edges of the image.",
            (_ADEBAYO, _NIE, _SIXT),
        ),
        "deconvnet": Verdict(
            "fails",
            "The maps recover parts of the image, and do not depend on the later layers.",
            (_NIE, _SIXT),
        ),
        "excitation_backprop": Verdict(
            "fails",
            "The maps do not depend on the later layers, as those of LRP with the alpha-beta rule: "
            "a product of many non-negative matrices has rank one.",
            (_SIXT,),
        ),
        "contrastive_excitation_backprop": Verdict(
            "not tested",
            "The form without contrast fails; the contrast takes away what two classes share.",
        ),
        "linear_approx": Verdict(
            "mixed",
            "At the input (gradient x input) ranks with their sign change, while SSIM and ranks of "
            "magnitudes stay high because the image is a factor; not tested at other layers.",
            (_ADEBAYO,),
        ),
        "rise": Verdict("not tested", "The maps depend on the network through its scores alone."),
        "extremal_perturbation": Verdict(
            "not tested", "The masks depend on the network through its scores and their gradient."
        ),
    }
)
"""By the name of the method in the tags.

The check has limits of its own. Randomising from the top keeps much of the scale of the forward
pass, so that methods which follow the activations look alike though they are not at fault, and
maps of mere noise pass best: it cannot rank methods (Binder, Weber, Lapuschkin, Montavon, Müller,
Samek. Shortcomings of top-down randomization-based sanity checks for evaluations of deep neural
network explanations. CVPR 2023, arXiv:2211.12486). A method that fails is still a picture of
something: of the image's edges, or of what the early layers respond to.
"""

KNOWN_TO_FAIL: tuple[str, ...] = tuple(
    name for name, verdict in VERDICTS.items() if verdict.outcome == "fails"
)
"""Methods whose maps hardly depend on the later layers: their drift says little of the network."""
