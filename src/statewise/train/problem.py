"""Everything the phases of training share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from statewise.data.record import Record
from statewise.nn.contract import Layer, State, map_state
from statewise.train.batches import Batch
from statewise.train.carry import CarrySampler
from statewise.train.config import FitConfig
from statewise.train.distributed import Ranks
from statewise.train.free_run_error import FreeRunError
from statewise.train.initial import LearnedState, context_samples
from statewise.train.initialisers import build_initialiser
from statewise.train.methods import Windows
from statewise.train.sampling import Sampler, WindowSampler
from statewise.train.signals import Signals
from statewise.train.simulate import working_strategy


class Problem:
    """Model, data and settings of one run.

    Args:
        model: the model, on the device.
        train: normalised training records.
        valid: normalised validation records, or None.
        config: settings.
        seed: seed of all draws.
        ranks: the ranks that take part.
    """

    def __init__(
        self,
        model: Layer,
        train: list[Record],
        valid: list[Record] | None,
        config: FitConfig,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self.model, self.config, self.seed, self.ranks = model, config, seed, ranks
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.context = context_samples(config.initial_state)
        longest = max(len(record) for record in train)
        self.window = longest if config.window is None else min(config.window, longest)
        self.train = train
        self.signals = self.signals_in(self.dtype)
        self.initialiser = build_initialiser(
            config.initial_state, model, n_records=len(train), seed=seed
        )
        self.modules = nn.ModuleDict({"model": model, "initial": self.initialiser})
        self.named = [(n, p) for n, p in self.modules.named_parameters() if p.requires_grad]
        self.parameters = [parameter for _, parameter in self.named]
        self.validate = None if valid is None else FreeRunError(valid)
        self.simulator = self.initialiser
        if config.valid_state not in (None, config.initial_state):
            self.simulator = working_strategy(config.valid_state, model)
        ranks.copy_from_main(t.data for t in self.modules.state_dict().values())

    def signals_in(self, dtype: torch.dtype) -> Signals:
        """The training records as tensors of a type."""
        return Signals(self.train, self.window, dtype=dtype, device=self.device)

    def sampler(self) -> Sampler:
        """The sampler of the training method.

        Raises:
            ValueError: fewer windows in a batch than ranks.
        """
        windows = isinstance(self.config.method, Windows)
        sampler = self.window_sampler() if windows else self._carry_sampler()
        if sampler.batch_size < self.ranks.world:
            raise ValueError(
                f"{self.ranks.world} ranks cannot share batches of {sampler.batch_size} windows; "
                "shorten the window, raise batch_size or start fewer ranks"
            )
        return sampler

    def _carry_sampler(self) -> CarrySampler:
        config = self.config
        return CarrySampler(
            self.signals,
            window=self.window,
            batch_size=config.batch_size,
            context=self.context,
            washout=config.washout,
            learned=isinstance(config.initial_state, LearnedState),
            seed=self.seed,
        )

    def window_sampler(self) -> WindowSampler:
        """A sampler of independent windows."""
        config = self.config
        stride = max(1, self.window // 2) if config.stride is None else config.stride
        return WindowSampler(
            self.signals,
            window=self.window,
            stride=stride,
            batch_size=config.batch_size,
            context=self.context,
            washout=config.washout,
            learned=isinstance(config.initial_state, LearnedState),
            seed=self.seed,
        )

    def start(self, batch: Batch, carried: State = None) -> State:
        """The state in front of the windows of a batch; None is the state of rest."""
        if carried is not None and not batch.any_fresh:
            return carried
        if batch.context is None:
            fresh = self.initialiser.at_record(self.model, batch.record, batch.at_start)
        else:
            fresh = self.initialiser.estimate(self.model, batch.context)
        if batch.fresh is None or carried is None:
            return fresh
        if fresh is None:
            fresh = self.model.init_state(len(batch.record))

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(batch.fresh.view(-1, *[1] * (old.ndim - 1)), new, old)  # type: ignore[union-attr]

        return map_state(choose, fresh, carried)

    def load_data(self, dtype: torch.dtype) -> None:
        """Hold the training records in another type."""
        self.signals = self.signals_in(dtype)

    def loss(self, batch: Batch, state: State) -> tuple[Tensor, State]:
        """This rank's part of the mean loss over the outputs that count, and the last state."""
        data, first = batch.data, batch.first
        y_hat, last = self.model(data.u, state, dt=data.dt, mask=data.mask)
        error = y_hat[:, first:].to(data.y.dtype) - data.y[:, first:]
        values = self.config.loss.values(error)
        if data.weight is not None:
            values = values * data.weight[:, first:]
        return values.sum() / max(batch.count, 1), last

    def penalty(self) -> Tensor | None:
        """This rank's part of what the regulariser adds to the loss of a step."""
        if self.config.regulariser is None:
            return None
        dtype = self.parameters[0].dtype
        return self.config.regulariser.penalty(self.model).to(dtype) / self.ranks.world

    def error(self) -> float | None:
        """Free-run validation error of the present weights, the main rank's on every rank."""
        if self.validate is None:
            return None
        mine = self.validate(self.model, self.simulator) if self.ranks.is_main else 0.0
        return self.ranks.number_from_main(mine, self.device)

    def n_parameters(self) -> int:
        """Real numbers that are trained."""
        return sum(parameter.numel() for parameter in self.parameters)


class Gradients:
    """The gradients of all parameters in flat buffers, one per type, and the loss beside them.

    The gradient of a parameter is a view, so clearing, adding over ranks, measuring and scaling
    are one operation each.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        groups: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(parameter.dtype, []).append(parameter)
        self.buffers = []
        for dtype, members in groups.items():
            size = sum(p.numel() for p in members)
            buffer = torch.zeros(size + 1, dtype=dtype, device=members[0].device)
            position = 0
            for p in members:
                p.grad = buffer[position : position + p.numel()].view_as(p)
                position += p.numel()
            self.buffers.append(buffer)

    def clear(self) -> None:
        """Set all gradients to 0."""
        for buffer in self.buffers:
            buffer.zero_()

    def combine(self, loss: Tensor, ranks: Ranks) -> Tensor:
        """Add gradients and loss over the ranks; gives the loss of the whole batch."""
        if ranks.world == 1:
            return loss.detach()
        self.buffers[0][-1] = loss.detach()
        ranks.add(self.buffers)
        total = self.buffers[0][-1].clone()
        self.buffers[0][-1] = 0
        return total

    def norm(self) -> Tensor:
        """The norm of the whole gradient."""
        norms = [torch.linalg.vector_norm(buffer) for buffer in self.buffers]
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))

    def scale(self, factor: Tensor) -> None:
        """Multiply the gradient by a factor."""
        for buffer in self.buffers:
            buffer.mul_(factor)


def drop_gradients(parameters: list[nn.Parameter]) -> None:
    """Release the buffers."""
    for parameter in parameters:
        parameter.grad = None
