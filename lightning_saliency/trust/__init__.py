"""Whether maps deserve trust: are they faithful to the network, do they depend on its weights?"""

from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.trust.checks import TrustChecks
from lightning_saliency.trust.evidence import Evidence, EvidenceShares, measure_evidence
from lightning_saliency.trust.faithfulness import measure_faithfulness
from lightning_saliency.trust.sanity import SanityCheck, sanity_check
from lightning_saliency.trust.sanity_figure import sanity_figure
from lightning_saliency.trust.verdicts import KNOWN_TO_FAIL, VERDICTS

__all__ = [
    "Evidence",
    "EvidenceShares",
    "KNOWN_TO_FAIL",
    "SanityCheck",
    "TrustChecks",
    "VERDICTS",
    "Verdict",
    "measure_evidence",
    "measure_faithfulness",
    "sanity_check",
    "sanity_figure",
]
