"""Distances between two sets of features: Frechet (FID) and kernel (KID).

Both call clean-fid's own functions, so that the numbers are clean-fid's by construction.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import numpy.typing as npt

from couplet.errors import UserError
from couplet.metrics._checks import as_matrix, same_width
from couplet.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance between two Gaussians (Heusel et al. 2017, Eq. 6).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 sqrt(S_a S_b)), by `cleanfid.fid.frechet_distance`.
    Of Inception features this is the FID. Which FID depends on the moments: clean-fid,
    torchmetrics and GC use `ddof=1`, StyleGAN and ECT use `ddof=0`.

    Args:
        a: moments of one set, d features.
        b: moments of the other set, d features. The distance is symmetric up to rounding.

    Returns:
        The distance, in squared feature units; 0 for equal moments up to rounding, so it can
        come out very slightly negative. With fewer samples than features the covariances are
        singular and only about half of the digits are meaningful.

    Raises:
        UserError: features of different lengths, NaN or infinite moments, covariances whose
            product has no real square root, or clean-fid is not installed.
    """
    same_width(a.mean.size, b.mean.size)
    for part in (a.mean, a.covariance, b.mean, b.covariance):
        if not np.isfinite(part).all():
            raise UserError("Frechet distance: NaN or infinite entries in the moments")
    cleanfid = _cleanfid()
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        # clean-fid passes sqrtm an argument that scipy plans to drop; users can do nothing about it
        warnings.filterwarnings("ignore", "The `disp` argument", DeprecationWarning)
        try:
            distance = cleanfid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
        except ValueError as error:
            raise UserError(
                f"Frechet distance of {a.count} and {b.count} samples is not real ({error}); "
                "more samples are needed"
            ) from error
    if printed.getvalue():
        # clean-fid prints that it had to regularise; that changes the number, so say it properly
        warnings.warn(printed.getvalue().strip(), RuntimeWarning, stacklevel=2)
    return float(distance)


def kernel_distance(
    generated: npt.ArrayLike,
    real: npt.ArrayLike,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> float:
    """Kernel distance (KID; Binkowski et al. 2018, section 4), by `cleanfid.fid.kernel_distance`.

    Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, averaged over random
    subsets of m = min(n_generated, n_real, subset_size) rows, drawn without replacement,
    generated ones first. The estimate is unbiased, except that both sets share m.

    Args:
        generated: [n, d] features, n >= 2, any real dtype; computed in float64.
        real: [n', d] features, n' >= 2.
        subsets: number of random subsets, >= 1.
        subset_size: largest subset, >= 2.
        seed: of the draws, 0 <= seed < 2^32. Same seed, same result: clean-fid draws from
            numpy's global generator, which is seeded for the call and put back afterwards.

    Returns:
        The distance; 0 in expectation for equal distributions, and it can be negative.

    Raises:
        UserError: unusable features or settings, or clean-fid is not installed.
    """
    fake = as_matrix(generated, "generated features", least_rows=2)
    true = as_matrix(real, "real features", least_rows=2)
    same_width(fake.shape[1], true.shape[1])
    if subsets < 1:
        raise UserError(f"subsets = {subsets}: must be at least 1")
    if subset_size < 2:
        raise UserError(f"subset_size = {subset_size}: must be at least 2")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed = {seed}: must be at least 0 and less than 2^32")
    cleanfid = _cleanfid()
    with _numpy_seeded(seed):
        # the second argument is the one drawn first
        return float(cleanfid.kernel_distance(true, fake, num_subsets=subsets, max_subset_size=subset_size))


def _cleanfid() -> ModuleType:
    """Import clean-fid on first use: it is optional, and takes seconds to import."""
    try:
        from cleanfid import fid
    except ImportError as error:
        raise UserError(f"FID and KID need clean-fid ({error}): pip install couplet[pipeline]") from error
    module: ModuleType = fid
    return module


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, and restore its state on the way out."""
    before = np.random.get_state()  # noqa: NPY002 (the generator that clean-fid draws from)
    try:
        np.random.seed(seed)  # noqa: NPY002
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
