"""What has been published on whether the maps of each method depend on the network's weights."""

from collections.abc import Mapping
from types import MappingProxyType

from lightning_saliency.attribution import METHODS
from lightning_saliency.attribution.verdict import Verdict

VERDICTS: Mapping[str, Verdict] = MappingProxyType(
    {method.name: method.verdict for method in METHODS}
)
"""By the name of the method in the tags.

The check has limits of its own. Randomizing from the top keeps much of the scale of the forward
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
