"""Decoding with language models on a GPU: tokens one by one, as calls and as captured graphs.

All parameters are in bfloat16. Every way reads 64 tokens at once and 8 one by one, where its logits
are held against float32, then writes the most likely tokens; the times are of those.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models_gpu import GATE16, Wanted, attempt, distance, milliseconds, ours_of, tell, theirs_of
from statewise.models import CapturedStep, LanguageModel

PROMPT = 64
CHUNK = 16
"""Steps that transformers' Mamba-2 takes together in a prompt: 256 would need 50 GB for 64 rows."""


@dataclasses.dataclass
class Decoder:
    """A library's decoding: a start from prompts (B, L); tokens (B,) in, logits (B, V) out."""

    start: Callable[[Tensor], None]
    step: Callable[[Tensor], Tensor]


def eager(model: LanguageModel) -> Decoder:
    """Ours, call by call."""
    held: list[Any] = [None]

    def start(prompt: Tensor) -> None:
        held[0] = model.prefill(prompt)[1]

    def step(tokens: Tensor) -> Tensor:
        logits, held[0] = model.advance(tokens, held[0])
        return logits

    return Decoder(start, step)


def captured(model: LanguageModel, rows: int) -> Decoder:
    """Ours, a graph a token."""
    record = CapturedStep(model, rows)
    return Decoder(lambda prompt: record.load(model.prefill(prompt)[1]), record)


def their_eager(model: nn.Module) -> Decoder:
    """The step of transformers, call by call."""
    held: list[Any] = [None]

    def start(prompt: Tensor) -> None:
        held[0] = model(prompt, use_cache=True).cache_params

    def step(tokens: Tensor) -> Tensor:
        out = model(tokens[:, None], cache_params=held[0], use_cache=True)
        held[0] = out.cache_params
        return out.logits[:, -1]

    return Decoder(start, step)


def tensors_of(thing: Any, seen: set[int] | None = None) -> list[Tensor]:
    """All tensors that an object of another library holds, in a fixed order."""
    seen = set() if seen is None else seen
    if isinstance(thing, Tensor):
        return [thing] if thing.is_cuda else []
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    parts: Any = ()
    if isinstance(thing, dict):
        parts = thing.values()
    elif isinstance(thing, list | tuple):
        parts = thing
    elif type(thing).__module__.startswith("transformers.") and hasattr(thing, "__dict__"):
        parts = vars(thing).values()
    return [one for part in parts for one in tensors_of(part, seen)]


def their_captured(model: nn.Module, rows: int) -> Decoder:
    """The step of transformers as a graph, over a cache that it changes in place."""
    tokens = torch.zeros(rows, dtype=torch.long, device="cuda")
    cache = model(tokens[:, None].repeat(1, PROMPT), use_cache=True).cache_params
    places = [one.data_ptr() for one in tensors_of(cache)]

    def call() -> Tensor:
        return model(tokens[:, None], cache_params=cache, use_cache=True).logits[:, -1]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    if not places or places != [one.data_ptr() for one in tensors_of(cache)]:
        raise RuntimeError("a step moves the cache to other memory")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = call()

    def start(prompt: Tensor) -> None:
        fresh = tensors_of(model(prompt, use_cache=True).cache_params)
        for here, new in zip(tensors_of(cache), fresh, strict=True):
            here.copy_(new)

    def step(given: Tensor) -> Tensor:
        tokens.copy_(given)
        graph.replay()
        return logits

    return Decoder(start, step)


def continued(decoder: Decoder, tokens: Tensor, count: int, size: int) -> Tensor:
    """Some tokens behind the first ones (B,), each the most likely, (B, count)."""
    found = []
    for _ in range(count):
        tokens = decoder.step(tokens)[:, :size].argmax(-1)
        found.append(tokens)
    return torch.stack(found, 1)


def decode(options: Wanted, ours: LanguageModel, theirs: nn.Module | None) -> list[dict]:
    """Rows of decoding, parameters in bfloat16."""
    size, rows = ours.config.vocab_size, []
    exact = None if theirs is None else copy.deepcopy(theirs).eval()
    ours = copy.deepcopy(ours).eval().bfloat16()
    theirs = None if theirs is None else copy.deepcopy(theirs).eval().bfloat16()
    for model in (exact, theirs):
        for part in () if model is None else model.modules():
            if hasattr(part, "chunk_size"):
                part.chunk_size = CHUNK  # pyright: ignore
    for batch in options.rows:
        generator = torch.Generator().manual_seed(batch)
        text = torch.randint(0, size, (batch, PROMPT + 8), generator=generator).cuda()
        reference = ours_of(copy.deepcopy(ours).float(), text) if exact is None else None
        reference = theirs_of(exact, text) if exact is not None else reference
        assert reference is not None
        reference = reference[:, -1].clone()
        makers: dict[str, Callable[[], Decoder]] = {
            "statewise, captured": functools.partial(captured, ours, batch),
            "statewise, eager": functools.partial(eager, ours),
        }
        if theirs is not None:
            # A capture that fails may leave the device in a bad way: it comes last.
            makers["transformers, eager"] = functools.partial(their_eager, theirs)
            makers["transformers, captured"] = functools.partial(their_captured, theirs, batch)
        chains: dict[str, Tensor] = {}
        for way, make in makers.items():
            call = functools.partial(_decoded, make, text, options, size)
            found, why = attempt(call, options.patience)
            row: dict = {"task": "decode", "way": way, "shape": f"B {batch}"}
            if found is None:
                rows.append(row | {"why": why})
            else:
                logits, chains[way], times = found
                row |= {"ms": statistics.median(times), "rounds": times}
                row |= {"per_second": 1e3 * batch / row["ms"], "error": distance(logits, reference)}
                if row["error"] > GATE16:
                    raise SystemExit(f"the logits are not those of the model: {row}")
                rows.append(row)
            tell(rows[-1])
            gc.collect()
            torch.cuda.empty_cache()
        for name in ("statewise", "transformers"):
            graph, calls = (chains.get(f"{name}, {kind}") for kind in ("captured", "eager"))
            if graph is not None and calls is not None:
                same = torch.equal(graph, calls)
                print(f"B {batch}: {name}: captured tokens equal eager ones: {same}", flush=True)
                rows.append({"task": "gate", "way": name, "shape": f"B {batch}", "same": same})
    return rows


def _decoded(
    make: Callable[[], Decoder], text: Tensor, options: Wanted, size: int
) -> tuple[Tensor, Tensor, list[float]]:
    """Logits behind the text, its continuation, and milliseconds a token."""
    decoder = make()
    decoder.start(text[:, :PROMPT])
    logits = torch.empty(0)
    for k in range(PROMPT, text.shape[1]):
        logits = decoder.step(text[:, k])
    logits = logits.clone()
    first = logits[:, :size].argmax(-1)
    chain = continued(decoder, first, options.decoded, size)
    run = functools.partial(continued, decoder, first, options.decoded, size)
    return logits, chain, [milliseconds(run) / options.decoded for _ in range(options.rounds)]
