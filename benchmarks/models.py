"""Speed of language models: a prompt at once and token after token, or (on a GPU) training too.

Run ``python benchmarks/models.py --model Mamba --threads 1``. The model has the shape of the
smallest public one (24 layers of width 768, 130 million parameters in float32) and random weights,
which all libraries read from one folder; peers that are not installed are left out. A round times
every library once, in turn, so that whatever else runs on the machine slows all of them; the
numbers are medians over the rounds. Beside them stand the processor's time, summed over threads,
in which waiting for other programs does not count, and the relative error ‖x − ref‖ / ‖ref‖ of the
logits against our float64 run and against ours. The floor is the products of the prompt alone, or
reading every matrix once for a token. ``--profile`` says where our time goes.

``--device cuda`` measures training steps and decoding in bfloat16, the latter as calls and as
captured graphs: ``models_training.py`` and ``models_decoding.py`` say how.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from models_decoding import decode
from models_gpu import GATE16, GATE32, distance, ours_of, peer, theirs_of
from models_training import train
from ops import error
from statewise.models import LanguageModel, LanguageModelConfig
from statewise.nn import LayerSpec

SIZE: dict[str, Any] = {"vocab_size": 50277, "d_model": 768, "n_layer": 24}
FLOOR = "floor"
MULTIPLES = {"Mamba": 8, "Mamba2": 16}
"""The public configurations pad their vocabularies to multiples of these."""
GATE = 1e-4
"""Largest relative error of logits with which a time is reported."""


@dataclasses.dataclass
class Options:
    """What to measure."""

    model: Literal["Mamba", "Mamba2"] = "Mamba"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    length: int = 512
    """Tokens of the prompt."""
    tokens: int = 24
    """Tokens read one by one behind it, in each round."""
    rounds: int = 5
    rivals: tuple[str, ...] = ("transformers", "mambapy")
    """Peers to measure, where they are installed."""
    tasks: tuple[str, ...] = ("decode", "train")
    """What to measure on a GPU."""
    precision: Literal["autocast", "parameters"] = "autocast"
    """Training on a GPU with parameters in float32 under autocast, or with all in bfloat16."""
    batch: int = 8
    """Texts of a training step."""
    text: int = 2048
    """Tokens of a text of a training step."""
    rows: tuple[int, ...] = (1, 64)
    """Batches of decoding on a GPU."""
    decoded: int = 128
    """Tokens of each row in a round of decoding on a GPU."""
    patience: float = 90
    """Seconds after which a library on a GPU is given up, or tried on something smaller."""
    profile: bool = False
    """Print where our time goes instead."""
    json: Path | None = None
    """File to which the result is appended, one JSON object per line."""


@dataclasses.dataclass
class Way:
    """A library: logits of a prompt (1, L, V); and, from its cache, those of one token (1, V)."""

    forward: Callable[[Tensor], Tensor]
    start: Callable[[Tensor], Any]
    step: Callable[[Tensor, Any], tuple[Tensor, Any]]


def statewise(model: LanguageModel) -> Way:
    """Ours."""
    return Way(
        forward=lambda tokens: model(tokens)[0],
        start=lambda tokens: model.prefill(tokens)[1],
        step=model.step,
    )


def transformers(folder: Path, kind: str) -> Way:
    """The library transformers, without its kernels for graphics cards."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(folder).eval()

    def step(token: Tensor, cache: Any) -> tuple[Tensor, Any]:
        out = model(token[:, None], cache_params=cache, use_cache=True)
        return out.logits[:, -1], out.cache_params

    return Way(
        forward=lambda tokens: model(tokens, use_cache=False).logits,
        start=lambda tokens: model(tokens, use_cache=True).cache_params,
        step=step,
    )


def mambapy(model: LanguageModel) -> Way:
    """The library mambapy, whose layers get vectors and a head around them here."""
    from mambapy.mamba import Mamba, MambaConfig

    theirs = Mamba(MambaConfig(d_model=SIZE["d_model"], n_layers=SIZE["n_layer"])).eval()
    weights = {}
    for name, value in model.layers.state_dict(prefix="layers.").items():
        value = value.unsqueeze(1) if name.endswith("conv1d.weight") else value
        weights[name.replace(".layer.", ".mixer.")] = value
    theirs.load_state_dict(weights)
    vectors = model.embedding.weight

    def logits(h: Tensor) -> Tensor:
        return nn.functional.linear(model.norm_f(h), vectors)

    def step(token: Tensor, caches: Any) -> tuple[Tensor, Any]:
        h, caches = theirs.step(model.embedding(token), caches)
        return logits(h), caches

    def start(tokens: Tensor) -> Any:
        inner = 2 * SIZE["d_model"]
        caches: Any = [(None, torch.zeros(1, inner, 3)) for _ in range(SIZE["n_layer"])]
        for k in range(tokens.shape[1]):
            caches = theirs.step(model.embedding(tokens[:, k]), caches)[1]
        return caches

    return Way(
        forward=lambda tokens: logits(theirs(model.embedding(tokens))), start=start, step=step
    )


def installed(name: str) -> bool:
    """Whether a peer is there."""
    return importlib.util.find_spec(name) is not None


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a function gives; its seconds; its seconds of the processor, summed over threads."""
    start, own = time.perf_counter(), time.process_time()
    found = function()
    return found, time.perf_counter() - start, time.process_time() - own


def walk(way: Way, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """The logits behind the last of some tokens, read one by one."""
    logits = torch.empty(0)
    for token in tokens:
        logits, cache = way.step(token[None], cache)
    return logits, cache


def ways(options: Options, model: LanguageModel) -> dict[str, Way]:
    """All libraries that are there."""
    found = {"statewise": statewise(model)}
    peers = [name for name in options.rivals if installed(name)]
    if "transformers" in peers:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            found["transformers"] = transformers(Path(folder), options.model)
    if "mambapy" in peers and options.model == "Mamba":
        found["mambapy"] = mambapy(model)
    return found


def profile(way: Way, prompt: Tensor, cache: Any) -> None:
    """Print the operators that take our time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    for label, call in (
        ("prompt", lambda: way.forward(prompt)),
        ("token", lambda: walk(way, prompt[0, :8], cache)),
    ):
        call()
        with record(activities=[ProfilerActivity.CPU]) as seen:
            call()
        print(label)
        print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=18))


def floor(model: LanguageModel, task: str, rows: int) -> Callable[[], None]:
    """What no implementation can leave out: the products, or reading every matrix once."""
    weights = [p for n, p in model.named_parameters() if p.ndim == 2 and _multiplies(n)]
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1]) for w in weights}

    def products() -> None:
        for w in weights:
            nn.functional.linear(inputs[w.shape[1]], w)

    def reading() -> None:
        for w in weights:
            w.sum()

    return products if task == "prompt" else reading


def _multiplies(name: str) -> bool:
    return name == "embedding.weight" or name.endswith("proj.weight")


@torch.no_grad()
def measure(options: Options) -> list[dict]:
    """One row for each library and task."""
    spec = LayerSpec(options.model)
    model = LanguageModel(LanguageModelConfig(**SIZE, layer=spec), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    total = options.length + options.tokens
    text = torch.randint(0, SIZE["vocab_size"], (1, total), generator=generator)
    prompt, rest = text[:, : options.length], text[0, options.length :]
    if options.profile:
        profile(statewise(model), prompt, model.prefill(prompt)[1])
        return []
    expected = copy.deepcopy(model).double()(text)[0][0]
    libraries = ways(options, model)
    caches = {name: way.start(prompt) for name, way in libraries.items()}
    tasks = {
        "prompt": (lambda way, cache: way.forward(prompt)[0], expected[: options.length]),
        "token": (lambda way, cache: walk(way, rest, cache)[0][0], expected[-1]),
    }
    rows = []
    for task, (run, reference) in tasks.items():
        names = [*libraries, FLOOR]
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        least = floor(model, task, options.length)
        given = {}
        for turn in range(options.rounds + 1):
            for name in names:
                if name == FLOOR:
                    call = least
                else:
                    # Some caches are changed in place.
                    call = functools.partial(run, libraries[name], copy.deepcopy(caches[name]))
                found, *taken = timed(call)
                part = options.tokens if task == "token" and name != FLOOR else 1
                if turn:
                    seconds[name].append((taken[0] / part, taken[1] / part))
                given[name] = found
        for name in names:
            wall, own = (statistics.median(s[k] for s in seconds[name]) for k in (0, 1))
            row = {"model": options.model, "threads": options.threads, "task": task, "way": name}
            row |= {"ms": 1e3 * wall, "processor_ms": 1e3 * own, "rounds": seconds[name]}
            if name != FLOOR:
                row |= {"error": error(given[name], reference)}
                row |= {"difference": error(given[name], given["statewise"].double())}
                if max(row["error"], row["difference"]) > GATE:
                    raise SystemExit(f"the logits are not those of the model: {row}")
            rows.append(row)
    return rows


@torch.no_grad()
def gate(ours: LanguageModel, theirs: nn.Module, precision: str) -> dict:
    """Errors of logits against transformers in float32; ends the run where ours are wrong."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, ours.config.vocab_size, (1, 128), generator=generator).cuda()
    expected = theirs_of(theirs, text)
    state, logits = ours.prefill(text[:, :-4])[1], torch.empty(0)
    for k in range(-4, 0):
        logits, state = ours.step(text[:, k], state)
    found = {
        "float32": distance(ours_of(ours, text), expected),
        "float32 steps": distance(logits, expected[:, -1]),
    }
    for name, model, call in (("ours", ours, ours_of), ("transformers", theirs, theirs_of)):
        half = copy.deepcopy(model).bfloat16() if precision == "parameters" else model
        cast = torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast")
        with cast:
            found[f"bfloat16 {name}"] = distance(call(half, text), expected)
    print("errors of logits:", {name: f"{value:.1e}" for name, value in found.items()}, flush=True)
    if max(found["float32"], found["float32 steps"]) > GATE32 or found["bfloat16 ours"] > GATE16:
        raise SystemExit("our logits are not those of the model")
    return found


def measure_gpu(options: Options) -> list[dict]:
    """Rows of all tasks."""
    torch.set_float32_matmul_precision("highest")
    config = LanguageModelConfig(
        **SIZE,
        layer=LayerSpec(options.model),
        pad_vocab_size_multiple=MULTIPLES[options.model],
    )
    ours = LanguageModel(config, seed=0)
    wanted = "transformers" in options.rivals and installed("transformers")
    theirs = peer(ours, options.model) if wanted else None
    ours, rows = ours.cuda(), []
    if theirs is not None:
        rows.append({"task": "gate"} | gate(ours.eval(), theirs.eval(), options.precision))
    if "decode" in options.tasks:
        with torch.no_grad():
            rows += decode(options, ours, theirs)
    if "train" in options.tasks:
        for part in () if theirs is None else theirs.modules():
            if hasattr(part, "use_mambapy"):
                # Its scan does not take parameters in bfloat16.
                part.use_mambapy = (  # pyright: ignore
                    installed("mambapy") and options.precision == "autocast"
                )
        rows += train(options, ours, theirs)
    return [{"model": options.model, "precision": options.precision} | row for row in rows]


def machine(options: Options) -> str:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found = [f"{names[0] if names else platform.machine()}, {options.threads} thread(s)"]
    if options.device == "cuda":
        found = [torch.cuda.get_device_name()]
    names = ("torch", "triton", "numba", "transformers", "mambapy")
    peers = [name for name in names if installed(name)]
    found += [f"{name} {importlib.metadata.version(name)}" for name in peers]
    return ", ".join([*found, f"Python {platform.python_version()}"])


def main(options: Options) -> None:
    """Print the table, and write the rows."""
    torch.set_num_threads(options.threads)
    print(machine(options))
    if options.device == "cuda":
        write(options, measure_gpu(options))
        return
    line = "{:8}{:8}{:14}{:>10}{:>14}{:>12}{:>12}"
    print(line.format("model", "task", "way", "ms", "processor ms", "error", "to ours"))
    rows = measure(options)
    for row in rows:
        numbers = (f"{row[name]:.1f}" for name in ("ms", "processor_ms"))
        errors = (f"{row[name]:.1e}" if name in row else "" for name in ("error", "difference"))
        print(line.format(row["model"], row["task"], row["way"], *numbers, *errors))
    write(options, rows)


def write(options: Options, rows: list[dict]) -> None:
    """Append the rows to the file, if there is one."""
    if options.json and rows:
        with options.json.open("a") as file:
            file.write(json.dumps({"machine": machine(options), "rows": rows}) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
