"""Mean and covariance of features, in one go or batch by batch, in float64."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from couplet.errors import UserError
from couplet.metrics._checks import FloatArray, as_matrix, same_width


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of a set of features.

    Attributes:
        mean: [d] float64.
        covariance: [d, d] float64, symmetric.
        count: number of samples they were computed from.
    """

    mean: FloatArray
    covariance: FloatArray
    count: int


def moments(features: npt.ArrayLike, *, ddof: int = 1) -> Moments:
    """Compute the mean and covariance of features.

    Args:
        features: [n, d], any real dtype; computed in float64.
        ddof: the covariance is divided by n - ddof. 1 (unbiased) is what clean-fid, torchmetrics
            and GC use; 0 (biased) is what StyleGAN and ECT use. The two FIDs differ for small n.

    Returns:
        The moments; mean [d], covariance [d, d].

    Raises:
        UserError: not a finite matrix, or n <= ddof.
    """
    _check_ddof(ddof)
    matrix = as_matrix(features, "features", least_rows=ddof + 1)
    covariance = np.atleast_2d(np.cov(matrix, rowvar=False, ddof=ddof))
    return Moments(matrix.mean(axis=0), covariance, matrix.shape[0])


class MomentsAccumulator:
    """Moments of features that arrive in batches; holds one [d, d] matrix, never the samples.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), which keeps
    full float64 accuracy where a running sum of x x^T would cancel.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: FloatArray = np.zeros(0)
        self._scatter: FloatArray = np.zeros((0, 0))

    def add(self, batch: npt.ArrayLike) -> Self:
        """Take in one batch.

        Args:
            batch: [n, d], any real dtype, n >= 0; d is the same in every batch.

        Returns:
            The accumulator itself.

        Raises:
            UserError: not a finite matrix, or another d than before.
        """
        matrix = as_matrix(batch, "batch of features", least_rows=0)
        if matrix.shape[0] == 0:
            return self
        mean = matrix.mean(axis=0)
        centred = matrix - mean
        return self._merge(matrix.shape[0], mean, centred.T @ centred)

    def merge(self, other: "MomentsAccumulator") -> Self:
        """Take in everything that another accumulator has seen; `other` is left as it is.

        Returns:
            The accumulator itself.

        Raises:
            UserError: the other one saw features of another length.
        """
        if other.count == 0:
            return self
        return self._merge(other.count, other._mean, other._scatter)

    def result(self, *, ddof: int = 1) -> Moments:
        """Return the moments of all samples so far, as `moments` would on all of them at once.

        Args:
            ddof: as in `moments`.

        Raises:
            UserError: no more than `ddof` samples so far.
        """
        _check_ddof(ddof)
        if self.count <= ddof:
            raise UserError(f"features: {self.count} samples, at least {ddof + 1} are needed")
        return Moments(self._mean.copy(), self._scatter / (self.count - ddof), self.count)

    def _merge(self, count: int, mean: FloatArray, scatter: FloatArray) -> Self:
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return self
        same_width(self._mean.size, mean.size)
        total = self.count + count
        shift = mean - self._mean
        between = np.outer(shift, shift) * (self.count * count / total)
        self._mean = self._mean + shift * (count / total)
        self._scatter = self._scatter + scatter + between
        self.count = total
        return self


def _check_ddof(ddof: int) -> None:
    if ddof not in (0, 1):
        raise UserError(f"ddof = {ddof}: must be 1 (unbiased) or 0 (biased)")
