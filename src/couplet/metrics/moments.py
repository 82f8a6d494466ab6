"""Mean and covariance of features, batch by batch, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from couplet.errors import UserError

FloatArray = NDArray[np.float64]


def check_features(values: NDArray[Any], noun: str, *, least: int) -> None:
    """Check a matrix [n, d] of finite numbers with ``least`` rows or more, named ``noun`` in messages.

    Raises:
        UserError: too few rows, or NaN or infinite entries.
        ValueError: not a matrix, or one without columns.
    """
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{noun}: expected a matrix [samples, features], got shape {values.shape}")
    if len(values) < least:
        raise UserError(f"{noun}: {len(values)} samples, at least {least} are needed")
    if not np.isfinite(values).all():
        raise UserError(f"{noun}: NaN or infinite entries")


def check_width(first: int, second: int) -> None:
    """Raise ValueError unless two sets of features have the same length d."""
    if first != second:
        raise ValueError(f"features of different lengths ({first} and {second})")


def check_pair(real: NDArray[Any], generated: NDArray[Any], *, least: int) -> None:
    """Apply :func:`check_features` and :func:`check_width` to two sets of features."""
    check_features(real, "real features", least=least)
    check_features(generated, "generated features", least=least)
    check_width(real.shape[1], generated.shape[1])


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of a set of features."""

    mean: FloatArray
    """[d]."""
    covariance: FloatArray
    """[d, d], divided by ``count - 1`` as in clean-fid, torchmetrics and GC; StyleGAN and ECT divide by n."""
    count: int
    """Number of samples."""


class MomentsAccumulator:
    """Moments of features that arrive in batches; holds one [d, d] matrix, never the samples.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), which keeps full float64
    accuracy where a running sum of x xᵀ would cancel.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: FloatArray = np.zeros(0)
        self._scatter: FloatArray = np.zeros((0, 0))

    def add(self, batch: NDArray[Any]) -> Self:
        """Add features [n, d] of any real dtype, with the same d in every batch; returns itself.

        Raises:
            UserError: NaN or infinite entries.
            ValueError: not a matrix, or another d than before.
        """
        check_features(batch, "batch of features", least=0)
        if len(batch) == 0:
            return self
        features = np.asarray(batch, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        scatter = centred.T @ centred
        if self.count == 0:
            self.count, self._mean, self._scatter = len(batch), mean, scatter
            return self
        check_width(self._mean.size, mean.size)
        total = self.count + len(batch)
        shift = mean - self._mean
        between = np.outer(shift, shift) * (self.count * len(batch) / total)
        self._mean = self._mean + shift * (len(batch) / total)
        self._scatter = self._scatter + scatter + between
        self.count = total
        return self

    def result(self) -> Moments:
        """Return the moments of all samples so far; UserError for fewer than two."""
        if self.count < 2:
            raise UserError(f"features: {self.count} samples, at least 2 are needed")
        return Moments(self._mean.copy(), self._scatter / (self.count - 1), self.count)
