"""Helpers for tests of metrics."""

from __future__ import annotations

import numpy as np

from couplet.metrics.measure import Moments, MomentsAccumulator


def moments(features: np.ndarray) -> Moments:
    """Moments of features in one batch."""
    return MomentsAccumulator().add(features).result()
