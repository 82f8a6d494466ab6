"""All numbers of one set of samples."""

from __future__ import annotations

from couplet.config.stages import EvaluateConfig
from couplet.metrics.distances import frechet_distance, kernel_distance
from couplet.metrics.inception_score import inception_score_ect, inception_score_torchmetrics
from couplet.metrics.measure import Measured, evenly_spaced
from couplet.metrics.precision_recall import precision_recall
from couplet.metrics.reference import Reference


def scores(found: Measured, target: Reference, settings: EvaluateConfig, *, seed: int) -> dict[str, float]:
    """Samples against real images, by metric.

    Always `fd` and `kid`; `is` and `is_std` where ``found`` has logits; `precision` and `recall` where the
    settings ask for them. ``seed`` draws the subsets of `kid`, 0 <= seed < 2^32.

    Raises:
        UserError: too few samples or features for the settings.
    """
    result = {
        "fd": frechet_distance(found.moments, target.moments),
        "kid": kernel_distance(
            found.features,
            target.features,
            subsets=settings.kid_subsets,
            subset_size=settings.kid_subset_size,
            seed=seed,
        ),
    }
    if found.logits is not None:
        splits = settings.inception_splits
        if settings.inception_score == "ect":
            from scipy.special import softmax  # half a second, and most extractors have no logits

            probabilities = softmax(found.logits.astype("f8"), axis=1)
            result["is"], result["is_std"] = inception_score_ect(probabilities, splits=splits)
        else:
            result["is"], result["is_std"] = inception_score_torchmetrics(found.logits, splits=splits)
    if settings.precision_recall_k is not None:
        real, made = (
            values[evenly_spaced(len(values), settings.precision_recall_images)]
            for values in (target.features, found.features)
        )
        result["precision"], result["recall"] = precision_recall(real, made, k=settings.precision_recall_k)
    return result
