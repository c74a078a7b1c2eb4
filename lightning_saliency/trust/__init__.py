"""Whether maps deserve trust: are they faithful to the network, do they depend on its weights?"""

from lightning_saliency.trust.faithfulness import measure_faithfulness

__all__ = ["measure_faithfulness"]
