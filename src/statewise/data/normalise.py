"""Scaling of inputs and outputs to zero mean and unit deviation, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.data.arrays import as_array, freeze, is_torch, safe_scale
from statewise.data.experiments import Experiments
from statewise.data.record import Record


@dataclasses.dataclass(frozen=True, eq=False)
class Normaliser:
    """Affine scaling of each channel, z = (x − mean) / std.

    Attributes:
        u_mean: mean of each input (n_u,); empty for autonomous systems.
        u_std: deviation of each input (n_u,), positive.
        y_mean: mean of each output (n_y,).
        y_std: deviation of each output (n_y,), positive.

    Raises:
        DataError: lengths that differ, numbers that are not finite, deviations that are not
            positive.
    """

    u_mean: np.ndarray
    u_std: np.ndarray
    y_mean: np.ndarray
    y_std: np.ndarray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = np.array(getattr(self, field.name), dtype=np.float64).reshape(-1)
            if not np.isfinite(value).all() or (field.name.endswith("std") and (value <= 0).any()):
                raise DataError(f"{field.name} is {value}; expected finite, positive deviations")
            object.__setattr__(self, field.name, freeze(value))
        for kind in "uy":
            mean, std = getattr(self, f"{kind}_mean"), getattr(self, f"{kind}_std")
            if mean.shape != std.shape:
                raise DataError(f"{kind}_mean has {mean.size} channels and {kind}_std {std.size}")

    @classmethod
    def fit(cls, experiments: Experiments) -> Normaliser:
        """Mean and deviation of the observed samples of each channel, in float64.

        All samples count, leading context included. The deviation is that of the population
        (divisor: number of samples). A channel that is constant to rounding, or varies by less
        than 2.3e-308, gets deviation 1.

        Args:
            experiments: the training data.

        Returns:
            The scaling.

        Raises:
            DataError: a channel without a single observed sample.
        """
        u_mean, u_std = _moments(
            [r.u for r in experiments if r.u is not None], experiments.input_names
        )
        y_mean, y_std = _moments([r.y for r in experiments], experiments.output_names)
        return cls(u_mean, u_std, y_mean, y_std)

    def transform(self, experiments: Experiments) -> Experiments:
        """Scale all records; masks, time and names stay, units become empty.

        Raises:
            DataError: another number of channels.
        """
        if experiments.n_u != self.u_mean.size or experiments.n_y != self.y_mean.size:
            raise DataError(
                f"the scaling is for {self.u_mean.size} inputs and {self.y_mean.size} outputs; "
                f"got {experiments.n_u} and {experiments.n_y}"
            )
        return Experiments(
            [self._scaled(record) for record in experiments],
            input_names=experiments.input_names,
            output_names=experiments.output_names,
            time_unit=experiments.time_unit,
        )

    def transform_u(self, u: Any) -> Any:
        """Scale inputs (…, n_u); NumPy gives float64, torch keeps type and device."""
        return _affine(u, self.u_mean, self.u_std, "u", inverse=False)

    def transform_y(self, y: Any) -> Any:
        """Scale outputs (…, n_y); NumPy gives float64, torch keeps type and device."""
        return _affine(y, self.y_mean, self.y_std, "y", inverse=False)

    def inverse_u(self, u: Any) -> Any:
        """Scaled inputs (…, n_u) back to their units."""
        return _affine(u, self.u_mean, self.u_std, "u", inverse=True)

    def inverse_y(self, y: Any) -> Any:
        """Scaled outputs (…, n_y) back to their units; NumPy gives float64, torch keeps its type.

        Raises:
            ValueError: another number of channels in the last dimension.
        """
        return _affine(y, self.y_mean, self.y_std, "y", inverse=True)

    def to_dict(self) -> dict[str, list[float]]:
        """The numbers as lists, for JSON."""
        return {f.name: getattr(self, f.name).tolist() for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[float]]) -> Normaliser:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: fields that are missing or unknown.
        """
        wanted = {field.name for field in dataclasses.fields(cls)}
        if set(data) != wanted:
            raise ValueError(f"expected the fields {sorted(wanted)}, got {sorted(data)}")
        return cls(**{key: np.asarray(value) for key, value in data.items()})

    def _scaled(self, record: Record) -> Record:
        u = None if record.u is None else freeze(self.transform_u(record.u))
        return record.with_fields(u=u, y=freeze(self.transform_y(record.y)))


def _affine(value: Any, mean: np.ndarray, std: np.ndarray, what: str, *, inverse: bool) -> Any:
    array: Any = value if is_torch(value) else as_array(value, what)
    if array.ndim == 0 or array.shape[-1] != mean.size:
        raise ValueError(
            f"{what} has shape {tuple(array.shape)}; expected {mean.size} channels last"
        )
    if not is_torch(value):
        array = array.astype(np.float64)
        return array * std + mean if inverse else (array - mean) / std
    if not array.is_floating_point():
        array = array.double()
    shift, scale = array.new_tensor(mean.tolist()), array.new_tensor(std.tolist())
    return array * scale + shift if inverse else (array - shift) / scale


def _moments(arrays: Sequence[np.ndarray], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    means, deviations = np.zeros(len(names)), np.ones(len(names))
    for i, name in enumerate(names):
        values = np.concatenate([array[:, i] for array in arrays])
        values = values[~np.isnan(values)]
        if not len(values):
            raise DataError(f"channel {name!r} has no observed sample to find its scale from")
        scale = safe_scale(values)
        values = values / scale
        mean = float(np.mean(values))
        deviation = float(np.sqrt(np.mean((values - mean) ** 2)))
        means[i] = mean * scale
        limits = np.finfo(np.float64)
        if deviation > 8 * limits.eps and deviation * scale >= limits.tiny:
            deviations[i] = deviation * scale
    return means, deviations
