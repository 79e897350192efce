"""The Kalman filter of linear-Gaussian models and the smoother that follows it."""

from statewise.ops.kalman_filter.op import kalman_filter, kalman_likelihood
from statewise.ops.kalman_filter.smoother import rts_smoother

__all__ = ["kalman_filter", "kalman_likelihood", "rts_smoother"]
