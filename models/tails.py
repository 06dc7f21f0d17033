"""Tails of counts: how likely so many or more, so few or fewer, and how far beyond expectation a number is."""

from __future__ import annotations

import numpy as np
import scipy.special as sp

from models.protocol import Float64

_LEAST_DISPERSION = 1e-6
"""Below it a negative binomial is a Poisson to twelve digits, and scipy's beta function loses its own."""


def upper(count: Float64, mean: Float64, dispersion: Float64) -> Float64:
    """P(N >= count) of a negative binomial: float64[n].

    Args:
        count: float64[n], whole numbers.
        mean: float64[n], above 0.
        dispersion: float64[n]; variance = mean + dispersion mean².
    """
    a = np.maximum(dispersion, _LEAST_DISPERSION)
    am = a * mean
    p = sp.betainc(np.maximum(count, 1e-12), 1 / a, am / (1 + am))
    return np.asarray(np.where(count <= 0, 1.0, np.where(dispersion < _LEAST_DISPERSION, sp.gammainc(np.maximum(count, 1e-12), mean), p)))


def lower(count: Float64, mean: Float64, dispersion: Float64) -> Float64:
    """P(N <= count) of a negative binomial: float64[n].

    Args:
        count: float64[n], whole numbers.
        mean: float64[n], above 0.
        dispersion: float64[n]; variance = mean + dispersion mean².
    """
    a = np.maximum(dispersion, _LEAST_DISPERSION)
    p = sp.betainc(1 / a, count + 1, 1 / (1 + a * mean))
    return np.asarray(np.where(dispersion < _LEAST_DISPERSION, sp.gammaincc(count + 1, mean), p))


def deviance(count: Float64, mean: Float64, dispersion: Float64) -> Float64:
    """Log-likelihood ratio of the mean that fits best against the one expected, of a negative binomial: float64[n], at least 0.

    Args:
        count: float64[n].
        mean: float64[n], above 0.
        dispersion: float64[n]; a floor of 1e-4 is put under it.
    """
    size = 1 / np.maximum(dispersion, 1e-4)
    first = count * np.log(np.maximum(count, 1e-300) / mean)
    return np.asarray(np.where(count > 0, first, 0.0) - (count + size) * np.log((count + size) / (mean + size)))
