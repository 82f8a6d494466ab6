"""Sample quality: images to features by an extractor, features to numbers in float64."""

from couplet.metrics.distances import frechet_distance, kernel_distance
from couplet.metrics.inception_score import (
    InceptionScore,
    inception_score_ect,
    inception_score_torchmetrics,
)
from couplet.metrics.measure import FEATURES_KEPT, Measured, evenly_spaced, measure
from couplet.metrics.moments import Moments, MomentsAccumulator, moments
from couplet.metrics.precision_recall import PrecisionRecall, precision_recall
from couplet.metrics.scores import scores

__all__ = [
    "FEATURES_KEPT",
    "InceptionScore",
    "Measured",
    "Moments",
    "MomentsAccumulator",
    "PrecisionRecall",
    "evenly_spaced",
    "frechet_distance",
    "inception_score_ect",
    "inception_score_torchmetrics",
    "kernel_distance",
    "measure",
    "moments",
    "precision_recall",
    "scores",
]
