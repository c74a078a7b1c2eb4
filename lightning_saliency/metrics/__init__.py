"""Numbers about saliency maps: similarity, drift, localization, faithfulness."""

from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.metrics.change_detection import page_hinkley_score, spike_score
from lightning_saliency.metrics.coarse import COMPARED, coarse
from lightning_saliency.metrics.drift import (
    SaliencyDrift,
    calibrated_drift,
    chance_drift,
    drift_amount,
    mean_drift,
    sample_drift,
)
from lightning_saliency.metrics.evidence import (
    EvidenceProfile,
    evidence_gain,
    evidence_moved,
    evidence_overlap,
    evidence_shares,
    gained_cells,
    log_odds,
    sign_flip_test,
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
    MEASURES,
    NO_DRIFT,
    RANKING,
    SIMILARITIES,
    MapMeasure,
    Measure,
    center_shift,
    log2_norm_ratio,
    spearman,
    ssim,
    top10,
    top10_iou,
)
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.metrics.object_measures import OBJECT_MEASURES, ObjectMeasure, region_share
from lightning_saliency.metrics.pointing_game import (
    PointingGame,
    PointingTally,
    point_hit,
    pointing_hit,
)
from lightning_saliency.renamed import keep_old_names

__all__ = [
    "COMPARED",
    "EvidenceProfile",
    "FAITHFULNESS",
    "Faithfulness",
    "MEASURES",
    "MapMeasure",
    "Measure",
    "NO_DRIFT",
    "OBJECT_MEASURES",
    "ObjectMeasure",
    "PointingGame",
    "PointingTally",
    "RANKING",
    "SIMILARITIES",
    "SaliencyDrift",
    "calibrated_drift",
    "canonical",
    "center_shift",
    "chance_drift",
    "coarse",
    "confidence_drop",
    "confidence_increase",
    "curve_area",
    "degenerate",
    "drift_amount",
    "energy_inside",
    "evidence_gain",
    "evidence_moved",
    "evidence_overlap",
    "evidence_shares",
    "gained_cells",
    "log2_norm_ratio",
    "log_odds",
    "mean_drift",
    "page_hinkley_score",
    "point_hit",
    "pointing_hit",
    "rank_accuracy",
    "region_area",
    "region_mass",
    "region_share",
    "removal_contrast",
    "sample_drift",
    "sign_flip_test",
    "spearman",
    "spike_score",
    "ssim",
    "top10",
    "top10_iou",
    "top10_region_iou",
]

keep_old_names(__name__, {"comparable": "canonical", "creep_score": "page_hinkley_score"})
