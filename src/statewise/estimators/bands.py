"""Outputs with their uncertainty along a record or behind it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from statewise.analysis._drawing import COLOURS, INK, legend, names, new_figure, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Bands:
    """Outputs with bands that hold a measurement with a given probability.

    Bands are made on the scale on which the model was trained and mapped back to units of the
    data, which maps quantiles exactly: with an output transform ``mean`` is the median, and bands
    are wider on the side where the transform stretches.

    Attributes:
        mean: (L, n_y), in units of the data.
        lower: lower end of the band, (L, n_y).
        upper: upper end, (L, n_y).
        interval: probability of the band, such as 0.9.
        std: standard deviation of what would be measured, (L, n_y), in units of the data; with a
            transform half the distance between one deviation below and above.
        state_mean: state of the observer (L, n) given all measurements for a smoother, else those
            up to its own sample with that one; or None. For an :class:`ErrorNoise` the error of
            the simulation and earlier ones, output by output, for a :class:`StateNoise` the state
            of the network; on the scale of the model.
        state_std: its standard deviation, (L, n), or None.
        innovations: error over its standard deviation before calibration, (L, n_y); NaN where
            nothing was measured. None for a smoother and a forecast.
        log_likelihood: Σ log p(z_t | z_1 … z_{t−1}) of the outputs z on the scale of the model,
            None where there are no innovations.
        observed: which samples were measured, (L, n_y) bool.
    """

    mean: Array
    lower: Array
    upper: Array
    interval: float
    std: Array
    state_mean: Array | None
    state_std: Array | None
    innovations: Array | None
    log_likelihood: float | None
    observed: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.mean)

    def coverage(self, y: npt.ArrayLike) -> Array:
        """Share of the measurements inside the bands.

        Args:
            y: outputs (L,) or (L, n_y); NaN is not counted.

        Returns:
            One share per output, (n_y,); NaN where there is no measurement.

        Raises:
            ValueError: another shape.
        """
        y = np.asarray(y, dtype=np.float64)
        y = y[:, None] if y.ndim == 1 else y
        if y.shape != self.mean.shape:
            raise ValueError(f"the bands have the shape {self.mean.shape}; given y of {y.shape}")
        known = np.isfinite(y)
        inside = known & (y >= self.lower) & (y <= self.upper)
        with np.errstate(invalid="ignore"):
            return inside.sum(0) / known.sum(0)

    def width(self) -> Array:
        """Mean width of the band of every output, (n_y,)."""
        return (self.upper - self.lower).mean(0)

    def plot(
        self,
        y: npt.ArrayLike | None = None,
        *,
        outputs: tuple[str, ...] | list[str] | None = None,
        samples: slice = slice(None),
        time: np.ndarray | None = None,
    ) -> Figure:
        """Band and mean over the samples, with measurements where they are given.

        Args:
            y: measured outputs (L,) or (L, n_y) to be shown as dots, or None.
            outputs: names of the outputs.
            samples: the part that is drawn.
            time: numbers or dates (L,) to draw over, in place of the number of the sample.
        """
        count = self.mean.shape[1]
        labels = names(outputs, count, "y")
        figure, grid = new_figure(count, 1, width=7.2, height=2.6, sharex=True)
        at = np.arange(len(self))[samples]
        over = at if time is None else np.asarray(time)[samples]
        shown = None if y is None else np.asarray(y, dtype=np.float64).reshape(self.mean.shape)
        for k, axes in enumerate(grid[:, 0]):
            axes.fill_between(
                over,
                self.lower[at, k],
                self.upper[at, k],
                color=COLOURS[0],
                alpha=0.22,
                lw=0,
                label=f"{100 * self.interval:g} % interval",
            )
            axes.plot(over, self.mean[at, k], color=COLOURS[0], lw=1.2, label="mean")
            if shown is not None:
                axes.plot(over, shown[at, k], ".", color=INK, ms=3.5, label="measured")
            title(axes, labels[k])
        if time is None:
            grid[-1, 0].set_xlabel("sample")
        legend(grid[0, 0], loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
        return figure
