"""Numbers about saliency maps: how alike they are, how far they moved, what they lie on."""

from lightning_saliency.metrics.canonical import canonical, degenerate
from lightning_saliency.metrics.change_detection import page_hinkley_score, spike_score
from lightning_saliency.metrics.drift import (
    MEASURES,
    NO_DRIFT,
    SaliencyDrift,
    calibrated_drift,
    chance_drift,
    drift_amount,
    mean_drift,
    sample_drift,
)
from lightning_saliency.metrics.faithfulness import (
    FAITHFULNESS,
    Faithfulness,
    confidence_drop,
    confidence_increase,
    curve_area,
    removal_contrast,
)
from lightning_saliency.metrics.localization import (
    energy_inside,
    rank_accuracy,
    region_area,
    region_mass,
    top10_region_iou,
)
from lightning_saliency.metrics.map_similarity import (
    center_shift,
    log2_norm_ratio,
    spearman,
    ssim,
    top10,
    top10_iou,
)
from lightning_saliency.metrics.pointing_game import (
    PointingGame,
    PointingTally,
    point_hit,
    pointing_hit,
)
from lightning_saliency.renamed import keep_old_names

__all__ = [
    "FAITHFULNESS",
    "Faithfulness",
    "MEASURES",
    "NO_DRIFT",
    "PointingGame",
    "PointingTally",
    "SaliencyDrift",
    "calibrated_drift",
    "canonical",
    "center_shift",
    "chance_drift",
    "confidence_drop",
    "confidence_increase",
    "curve_area",
    "degenerate",
    "drift_amount",
    "energy_inside",
    "log2_norm_ratio",
    "mean_drift",
    "page_hinkley_score",
    "point_hit",
    "pointing_hit",
    "rank_accuracy",
    "region_area",
    "region_mass",
    "removal_contrast",
    "sample_drift",
    "spearman",
    "spike_score",
    "ssim",
    "top10",
    "top10_iou",
    "top10_region_iou",
]

keep_old_names(__name__, {"comparable": "canonical", "creep_score": "page_hinkley_score"})
