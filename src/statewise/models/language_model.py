"""The language model: vectors of tokens, a stack of residual blocks, a head."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from statewise.models.captured_step import CapturedStep, EagerStep
from statewise.models.language_config import LanguageModelConfig
from statewise.models.sampling import Sampling
from statewise.nn.block import Block
from statewise.nn.contract import State, map_state, mask_input, valid_steps
from statewise.nn.fused import fuses
from statewise.nn.layer_spec import BlockSpec
from statewise.nn.specs import RMSNorm
from statewise.nn.stacked import Stepper
from statewise.nn.static import linear
from statewise.ops import matvec
from statewise.ops.memory import settle


class Generation(NamedTuple):
    """What :meth:`LanguageModel.generate` gives.

    Attributes:
        tokens: the new tokens, (B, n) or shorter when all rows have ended; behind a stop token
            they are that token.
        lengths: number of new tokens of each row up to its stop token, (B,).
        logits: logits of the token that would follow, (B, V).
        state: the state after the prompt and the new tokens.
    """

    tokens: Tensor
    lengths: Tensor
    logits: Tensor
    state: State


class LanguageModel(nn.Module):
    """logits = W norm(h),  h ← h + layer(norm(h)) for each layer,  h = vectors of the tokens.

    Norms are RMS norms (eps 1e-5); there is no encoding of positions. Hybrids have attention in
    the place of some layers, and a map without memory behind each of them, h ← h + mlp(norm(h)).
    The sum h stays in float32 when ``residual_in_fp32`` is on.

    The state is a tuple with the state of every layer, and of every map behind one. Calls give a
    new one and leave the old one as it was: keep it to rewind, :meth:`fork` it to continue in
    several ways. Logits include those of the padding of the vocabulary, behind ``vocab_size``, as
    public checkpoints do.

    Steps without gradients of up to four rows on the CPU take all neighbouring Mamba blocks in one
    call; the logger ``statewise`` tells whether. Large parameters are put on huge pages there.

    Sources: Gu and Dao, Mamba (2312.00752), section 3.4 and appendix E.2; Dao and Gu, Transformers
    are SSMs (2405.21060).

    Args:
        config: size and parts.
        seed: seed of the initial draw, or a NumPy generator. Vectors start as N(0, 0.02²); the
            output maps of the layers are divided by the root of the number of sums.
    """

    def __init__(self, config: LanguageModelConfig, *, seed: int | np.random.Generator = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.config = config
        size, width = config.padded_vocab_size, config.d_model
        self.embedding = nn.Embedding(size, width, _weight=_vectors(size, width, rng))
        blocks = [BlockSpec(layer, norm=RMSNorm()) for layer in config.layers]
        self.layers = nn.ModuleList([block.build(width, rng) for block in blocks])
        self.mlps = nn.ModuleList()
        if config.mlp is not None:
            block = BlockSpec(config.mlp, norm=RMSNorm())
            self.mlps.extend([block.build(width, rng) for _ in range(config.n_layer)])
        with torch.no_grad():
            for one in self._chain:
                out = getattr(one.layer, "out_proj", getattr(one.layer, "leave", None))
                if isinstance(out, nn.Linear):
                    out.weight /= math.sqrt(len(self._chain))
        self.norm_f = RMSNorm().build(width)
        self.lm_head = None if config.tie_embeddings else linear(width, size, rng, bias=False)
        self._steps = Stepper()
        settle(self.parameters())

    @property
    def _chain(self) -> list[Block]:
        chain = list(self.layers)
        if len(self.mlps):
            chain = [one for pair in zip(self.layers, self.mlps, strict=True) for one in pair]
        return cast("list[Block]", chain)

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def init_state(self, batch: int) -> State:
        """The state of rest of every layer."""
        return tuple(block.init_state(batch) for block in self._chain)

    def forward(
        self,
        tokens: Tensor,
        state: State = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Logits behind every token.

        Args:
            tokens: whole numbers (B, L) below the padded size of the vocabulary.
            state: state before the first token, or None for the state of rest.
            mask: True for tokens, False for pads on any side or between, (B, L): the model reads a
                row as if its pads were cut out.
            reset: True where a packed text starts, (B, L); not together with ``mask``.
            lengths: number of tokens of each row, pads behind them, (B,).

        Returns:
            Logits (B, L, V), 0 at pads, and the state after the last token of each row.

        Raises:
            ValueError: a shape that does not fit, tokens outside of the vocabulary, or ``mask``
                together with ``reset``.
            TypeError: tokens or lengths that are not whole numbers, or a mask that is not bool.
        """
        h, state, place = self._read(tokens, state, mask, reset, lengths)
        logits = self._logits(h)
        if mask is not None:
            index = place.unsqueeze(-1).expand_as(logits)
            logits = torch.zeros_like(logits).scatter(1, index, logits)
        return mask_input(logits, _present(tokens, mask, lengths)), state

    def prefill(
        self,
        tokens: Tensor,
        state: State = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Read prompts: the logits behind the last token of each row alone, (B, V), and the state.

        Arguments are those of :meth:`forward`; each row needs at least one token.
        """
        h, state, _ = self._read(tokens, state, mask, None, lengths)
        present = _present(tokens, mask, lengths)
        if present is None:
            return self._logits(h[:, -1]), state
        count = present.sum(1)
        if bool((count == 0).any()):
            row = int((count == 0).int().argmax())
            raise ValueError(f"prefill needs a token in every row; row {row} has none")
        index = (count - 1).view(-1, 1, 1).expand(-1, 1, h.shape[-1])
        return self._logits(h.gather(1, index).squeeze(1)), state

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token of each row (B,): the logits of the next (B, V) and the state."""
        self._check_tokens(tokens, 1)
        self._check_values(tokens)
        return self.advance(tokens, self._states(state))

    def advance(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """:meth:`step` without a look at the values of tokens, which would wait for the device."""
        h, after = self._steps("LanguageModel", self._chain, self._embed(tokens), state)
        return self._logits(h), after

    @staticmethod
    def fork(state: State, copies: int) -> State:
        """The state for ``copies`` continuations of each row, those of a row side by side."""
        if copies < 1:
            raise ValueError(f"fork makes at least 1 copy; given {copies}")
        return map_state(lambda part: part.repeat_interleave(copies, dim=0), state)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        n: int,
        state: State = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: int | Sequence[int] = (),
        seed: int | np.random.Generator = 0,
        capture: bool | CapturedStep = False,
    ) -> Generation:
        """Continue prompts.

        Args:
            tokens: prompts (B, L), unequal ones padded as ``mask`` or ``lengths`` says.
            n: most new tokens of a row.
            state: state before the prompts, or None for the state of rest.
            mask: True for tokens, False for pads, (B, L).
            lengths: number of tokens of each row, (B,).
            temperature: 0 for the most likely token, 1 for the probabilities of the model.
            top_k: draw among this many of the most likely tokens; None for all.
            top_p: draw among the fewest most likely tokens that have this probability together.
            stop: tokens behind which a row ends.
            seed: seed of the draws, or a NumPy generator.
            capture: decode with one CUDA graph a token, recorded here (True) or before, for as many
                rows: :class:`CapturedStep`.

        Returns:
            The new tokens, their numbers, and how to go on.

        Raises:
            ValueError: n below 1, an empty prompt, settings of the draw out of range, or a record
                that cannot be made or is for another number of rows.
        """
        if n < 1:
            raise ValueError(f"generate makes at least 1 token; given n = {n}")
        sampling = Sampling(temperature, top_k, top_p)
        rng = np.random.default_rng(seed)
        ends = [stop] if isinstance(stop, int) else list(stop)
        ends = torch.tensor(ends, dtype=torch.long, device=tokens.device)
        step = CapturedStep(self, tokens.shape[0]) if capture is True else capture
        step = step or EagerStep(self)
        logits, state = self.prefill(tokens, state, mask=mask, lengths=lengths)
        step.load(state)
        done = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
        count, made = done.long(), []
        while len(made) < n and not (len(ends) and bool(done.all())):
            new = sampling.draw(logits[:, : self.config.vocab_size], rng)
            count = count + ~done
            if not (len(ends) and bool(done.any())):
                logits = step(new)
            else:
                new = torch.where(done, made[-1], new)
                before = (logits.clone(), step.save())
                after = (step(new), step.save())
                logits, state = map_state(lambda a, b, held=done: _hold(held, a, b), after, before)
                step.load(state)
            made.append(new)
            done = done | torch.isin(new, ends)
        return Generation(torch.stack(made, 1), count, logits.clone(), step.save())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> LanguageModel:
        """Read a public checkpoint; see :func:`~statewise.models.load_pretrained`."""
        from statewise.models.pretrained import load_pretrained

        return load_pretrained(folder, dtype=dtype, revision=revision)

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, layout: str = "transformers"
    ) -> None:
        """Write a checkpoint; see :func:`~statewise.models.save_pretrained`."""
        from statewise.models.pretrained import save_pretrained

        save_pretrained(self, folder, layout=layout)

    def push_to_hub(
        self, repository: str, *, layout: str = "transformers", private: bool | None = None
    ) -> str:
        """Write a checkpoint to a model hub; see :func:`~statewise.models.push_to_hub`."""
        from statewise.models.hub import push_to_hub

        return push_to_hub(self, repository, layout=layout, private=private)

    # --- parts

    def _read(
        self,
        tokens: Tensor,
        state: State,
        mask: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State, Tensor]:
        """The sum h, tokens of a row in front; the state; the place that each token had."""
        self._check_tokens(tokens, 2)
        _check_pads(tokens, mask, reset, lengths)
        batch, length = tokens.shape
        present = _present(tokens, mask, lengths)
        tokens = mask_input(tokens, present)
        self._check_values(tokens)
        place = torch.arange(length, device=tokens.device).expand(batch, -1)
        if mask is not None and present is not None:
            lengths = present.sum(1)
            # A stable order of the flags puts pads behind the tokens and keeps their order.
            place = torch.argsort((~present).int(), dim=1, stable=True)
            tokens = tokens.gather(1, place)
        h, after = self._embed(tokens), []
        states = self.init_state(batch) if state is None else self._states(state)
        for block, before in zip(self._chain, states, strict=True):
            h, last = block(h, before, reset=reset, lengths=lengths)
            after.append(last)
        return h, tuple(after), place

    def _embed(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        if self.config.residual_in_fp32:
            h = h.to(torch.promote_types(torch.float32, h.dtype))
        return h

    def _logits(self, h: Tensor) -> Tensor:
        head = self.embedding if self.lm_head is None else self.lm_head
        weight = cast(Tensor, head.weight)
        h = self.norm_f(h).to(weight.dtype)
        if h.ndim == 2 and not h.is_cuda and fuses(h, (), (weight,)):
            return matvec(h, weight)
        return nn.functional.linear(h, weight)

    def _states(self, state: State) -> tuple[State, ...]:
        count = len(self.layers) + len(self.mlps)
        if not isinstance(state, tuple | list) or len(state) != count:
            given = f"{len(state)}" if isinstance(state, tuple | list) else type(state).__name__
            raise ValueError(
                f"LanguageModel takes a tuple of {count} states, one for each layer; given {given}"
            )
        return tuple(state)

    def _check_tokens(self, tokens: Tensor, axes: int) -> None:
        if tokens.dtype.is_floating_point or tokens.dtype.is_complex or tokens.dtype == torch.bool:
            raise TypeError(f"LanguageModel takes tokens as whole numbers; given {tokens.dtype}")
        if tokens.ndim != axes or tokens.shape[-1] == 0:
            shape = "(batch, length), at least one long," if axes == 2 else "(batch,)"
            raise ValueError(
                f"LanguageModel takes tokens of shape {shape} here; given {tuple(tokens.shape)}"
            )

    def _check_values(self, tokens: Tensor) -> None:
        # The values of a tensor are not known while a graph is traced.
        if tokens.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in tokens.aminmax())
            if low < 0 or high >= self.config.padded_vocab_size:
                raise ValueError(
                    f"LanguageModel takes tokens from 0 to {self.config.padded_vocab_size - 1}; "
                    f"given tokens from {low} to {high}"
                )


def _check_pads(
    tokens: Tensor, mask: Tensor | None, reset: Tensor | None, lengths: Tensor | None
) -> None:
    """Raise a sentence about pads that do not fit the tokens."""
    for label, flags in (("mask", mask), ("reset", reset)):
        if flags is not None and flags.dtype != torch.bool:
            raise TypeError(f"LanguageModel takes a {label} of dtype bool; given {flags.dtype}")
    shapes = {"mask": tuple(tokens.shape), "reset": tuple(tokens.shape)}
    shapes["lengths"] = (tokens.shape[0],)
    for label, value in (("mask", mask), ("reset", reset), ("lengths", lengths)):
        if value is not None and tuple(value.shape) != shapes[label]:
            raise ValueError(
                f"LanguageModel takes {label} of shape {shapes[label]} for these tokens; given "
                f"{tuple(value.shape)}"
            )
    if mask is not None and reset is not None:
        raise ValueError("LanguageModel takes mask (padded rows) or reset (packed rows), not both")


def _present(tokens: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """True where a token stands, (B, L); None when there are no pads."""
    valid = None if lengths is None else valid_steps(lengths, tokens.shape[1])
    if mask is None or valid is None:
        return valid if mask is None else mask
    return mask & valid


def _hold(held: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """``before`` in the rows that are held, ``after`` in the others."""
    if after.shape != before.shape:
        # The memory of attention without a window has grown; its oldest entry is the first.
        before = nn.functional.pad(before, (0, 0, after.shape[1] - before.shape[1], 0))
    return torch.where(held.view(-1, *[1] * (after.ndim - 1)), before, after)


def _vectors(size: int, width: int, rng: np.random.Generator) -> Tensor:
    """Vectors of tokens, N(0, 0.02²)."""
    dtype = torch.get_default_dtype()
    if torch.get_default_device().type == "meta":
        return torch.empty(size, width, dtype=dtype)
    return torch.tensor(0.02 * rng.standard_normal((size, width)), dtype=dtype)
