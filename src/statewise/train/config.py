"""What a training run does, as data."""

from __future__ import annotations

import dataclasses
from types import UnionType

from statewise._config import register
from statewise.train.initial import EncoderState, InitialState, ZeroState, context_samples
from statewise.train.losses import MSE, Loss
from statewise.train.methods import Carry, Method, Windows
from statewise.train.regularisers import Regulariser


@register
@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Settings of :func:`statewise.train.fit`.

    Attributes:
        window: samples of a training window; None takes whole records.
        stride: distance between windows of an epoch; None is half a window.
        washout: leading samples of a window that are simulated but not scored.
        batch_size: windows per step; less when the data do not hold as many different ones.
        steps: steps of Adam.
        lr: highest learning rate.
        warmup: fraction of the steps in which the rate rises linearly.
        lr_final: the rate falls along a cosine to ``lr_final · lr``.
        weight_decay: decoupled weight decay of the maps; dynamics and biases have none.
        dynamics_factor: ratio of the learning rate of the dynamics to ``lr``.
        clip: largest norm of the gradient; None does not clip.
        loss: ``MSE()`` or ``Huber(delta)``.
        regulariser: what is added to the loss so that states can be removed afterwards,
            ``HankelNuclear()`` or ``ModalL1()``; None adds nothing.
        initial_state: where windows start.
        valid_state: where free runs of the validation records start; None is ``initial_state``.
        method: ``Windows()`` or ``Carry()``.
        eval_every: steps between evaluations.
        patience: evaluations without improvement after which a phase ends; None goes on.
        keep: "best" keeps the weights with the least validation error, "last" those at the end of
            the schedule; validation is then only watched. "last" suits validation data too short
            to choose by.
        average: decay of a moving average of the weights, which is then what is evaluated and kept;
            None is off.
        precision: "float32", "bfloat16" (autocast) or "auto": bfloat16 on a GPU that has it for a
            model of more than a million parameters, float32 otherwise.
        polish_steps: L-BFGS iterations after Adam; 0 is off.
        polish_max_parameters: larger models are not polished.
        polish_samples: samples that the polish uses at most, spread evenly over the records.
        polish_double: polish in float64.

    Raises:
        TypeError: a loss, strategy or method of another kind.
        ValueError: a setting out of range, or two that exclude each other.
    """

    window: int | None = 512
    stride: int | None = None
    washout: int = 64
    batch_size: int = 32
    steps: int = 3000
    lr: float = 5e-3
    warmup: float = 0.05
    lr_final: float = 0.01
    weight_decay: float = 0.0
    dynamics_factor: float = 0.5
    clip: float | None = 1.0
    loss: Loss = dataclasses.field(default_factory=MSE)
    regulariser: Regulariser | None = None
    initial_state: InitialState = dataclasses.field(default_factory=ZeroState)
    valid_state: InitialState | None = None
    method: Method = dataclasses.field(default_factory=Windows)
    eval_every: int = 100
    patience: int | None = None
    keep: str = "best"
    average: float | None = None
    precision: str = "auto"
    polish_steps: int = 100
    polish_max_parameters: int = 5000
    polish_samples: int = 100_000
    polish_double: bool = True

    def __post_init__(self) -> None:
        self._check_parts()
        self._check_ranges()
        context = context_samples(self.initial_state)
        dead = context if context else self.washout
        if self.window is not None and dead >= self.window:
            what = "samples of the initial state" if context else "washout"
            raise ValueError(f"the {what} ({dead}) must be shorter than the window ({self.window})")
        if isinstance(self.method, Carry) and self.window is None:
            raise ValueError("method=Carry() needs a window; given window=None")
        if self.keep not in ("best", "last"):
            raise ValueError(f'keep is "best" or "last"; given {self.keep!r}')
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f'precision is "auto", "float32" or "bfloat16"; given {self.precision!r}'
            )

    def _check_parts(self) -> None:
        parts = {"loss": Loss, "initial_state": InitialState, "method": Method}
        for name, kinds in parts.items():
            if not isinstance(getattr(self, name), kinds):
                raise TypeError(
                    f"FitConfig needs {name} to be one of {_names(kinds)}; "
                    f"given {getattr(self, name)!r}"
                )
        if not isinstance(self.regulariser, Regulariser | None):
            raise TypeError(
                f"FitConfig needs regulariser to be None or one of {_names(Regulariser)}; "
                f"given {self.regulariser!r}"
            )
        if self.valid_state is None:
            return
        if not isinstance(self.valid_state, InitialState):
            raise TypeError(
                f"FitConfig needs valid_state to be None or one of {_names(InitialState)}; "
                f"given {self.valid_state!r}"
            )
        if isinstance(self.valid_state, EncoderState) and self.valid_state != self.initial_state:
            raise ValueError(
                "valid_state=EncoderState(...) needs the same initial_state, which trains it; "
                f"given initial_state={self.initial_state!r}"
            )

    def _check_ranges(self) -> None:
        least = {"window": 1, "stride": 1, "washout": 0, "batch_size": 1, "steps": 0}
        least |= {"eval_every": 1, "patience": 1, "polish_steps": 0, "polish_max_parameters": 0}
        least |= {"polish_samples": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise ValueError(f"FitConfig needs {name} >= {low}; given {value}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"FitConfig needs {name} > 0; given {value}")
        for name in ("warmup", "lr_final", "weight_decay", "dynamics_factor"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"FitConfig needs {name} >= 0; given {getattr(self, name)}")
        for name in ("warmup", "lr_final"):
            if getattr(self, name) > 1:
                raise ValueError(f"FitConfig needs {name} <= 1; given {getattr(self, name)}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"FitConfig needs average in (0, 1); given {self.average}")


def _names(kinds: UnionType) -> str:
    return ", ".join(f"{kind.__name__}()" for kind in kinds.__args__)
