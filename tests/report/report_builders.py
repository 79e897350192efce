"""Reports, tasks and a stand-in for a fitted estimator, small and seeded."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from statewise.analysis import input_residual_correlation, whiteness
from statewise.data import Experiments, Normaliser
from statewise.data.metrics import Score, score
from statewise.data.task import Task
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.report import (
    BandTrace,
    Certainty,
    Channel,
    DataSummary,
    LayerSummary,
    ModelSummary,
    Moments,
    Part,
    PathSummary,
    ReductionCurve,
    Reference,
    ReportData,
    ResponseComparison,
    ScoreTableRow,
    Share,
    Trace,
)

VOID = {"br", "hr", "meta", "img", "col", "link", "input"}


class Page(HTMLParser):
    """What a page holds; raises where tags do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self._cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()
        if tag == "td" and self._cell is not None:
            self.cells.append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name: str) -> list[str]:
        return [str(attrs[name]) for _, attrs in self.tags if name in attrs]


def rows(
    method: str, values: dict[str, float], channel: str = "Q", split: str = "test", **changes: str
) -> list[ScoreTableRow]:
    units = {"rmse": "m³/s", "fit": "%", "vaf": "%"}
    about = {"window": "samples 21–200: first 20 for the initial state", "mode": "simulation"}
    return [
        ScoreTableRow(
            method=method,
            metric=metric,
            value=value,
            channel=channel,
            unit=units.get(metric, ""),
            split=split,
            **(about | changes),
        )
        for metric, value in values.items()
    ]


def layer(index: int = 0, states: int = 6, dt: float = 1.0, unit: str = "d") -> LayerSummary:
    rng = np.random.default_rng(index)
    poles = rng.uniform(0.3, 0.99, states) * np.exp(1j * rng.uniform(0, np.pi, states))
    omega = np.geomspace(1e-3, np.pi, 40)
    z = np.exp(1j * omega)[:, None]
    gains = np.sort(np.abs(1 / (1 - poles[None, :2] / z)), axis=1)[:, ::-1]
    grid = np.linspace(-3, 3, 31)
    return LayerSummary(
        name=f"block {index + 1}",
        n_inputs=2,
        n_outputs=2,
        eigenvalues=poles,
        paired=True,
        dt=dt,
        time_unit=unit,
        omega=omega,
        singular_values=gains,
        static="ELU",
        static_grid=grid,
        static_values=np.where(grid > 0, grid, np.expm1(grid))[:, None],
        static_note="All 2 channels share the ELU curve.",
        hankel=2.0 ** -np.arange(2 * states),
    )


def comparison(k: int = 1, p: int = 1) -> ResponseComparison:
    omega = np.geomspace(0.05, 3.0, 30)
    rng = np.random.default_rng(6)
    response = np.broadcast_to((1 / (np.exp(1j * omega) - 0.9))[:, None, None], (30, p, k))
    noise = rng.standard_normal((2, 30, p, k)) @ np.eye(k)
    data = response + 0.1 * (noise[0] + 1j * noise[1])
    return ResponseComparison(
        inputs=tuple(Channel(f"u{j}", "V") for j in range(k)),
        outputs=tuple(Channel(f"y{i}", "A") for i in range(p)),
        left_out=("twin",),
        omega=omega,
        data=data,
        radius=np.full((30, p, k), 0.3),
        model=response,
        linearised=0.8 * response,
    )


def trace(
    length: int = 200,
    *,
    channel: str = "Q",
    split: str = "test",
    dates: bool = True,
    skip: int = 20,
) -> Trace:
    rng = np.random.default_rng(length)
    measured = np.sin(np.arange(length) / 9) + 0.1 * rng.standard_normal(length)
    time: Any = np.arange(length) * 0.5
    if dates:
        time = np.datetime64("2001-03-01") + np.arange(length).astype("timedelta64[D]")
    return Trace(
        record="river",
        channel=channel,
        split=split,
        time=time,
        measured=measured,
        simulated={
            "deep Wiener": measured + 0.2 * rng.standard_normal(length),
            "FIR": measured + 0.5 * rng.standard_normal(length),
        },
        skip=skip,
        unit="m³/s",
        time_unit="d" if dates else "s",
    )


def certain(outputs: tuple[str, ...] = ("Q",), *, dates: bool = True, share: float = 91.25) -> Any:
    """How sure a model is: two stretches of each output, shares and tests."""
    rng = np.random.default_rng(7)
    bands, shares, moments = [], [], []
    for name in outputs:
        for kind, origin in (("worst", 60), ("typical", 20)):
            about = trace(60, channel=name, dates=dates)
            mean = about.simulated["deep Wiener"]
            half = np.linspace(0.3, 0.6, 60)
            bands.append(
                BandTrace(
                    kind=kind,
                    channel=name,
                    unit=about.unit,
                    split="test",
                    record=about.record,
                    time=about.time,
                    time_unit=about.time_unit,
                    measured=about.measured,
                    mean=mean,
                    lower=mean - half,
                    upper=mean + half,
                    origin=origin,
                )
            )
        for split, way, horizon in (
            ("validation", "ahead", 1),
            ("validation", "ahead", 8),
            ("validation", "inside", 1),
            ("validation", "inside", 4),
            ("test", "ahead", 1),
            ("test", "ahead", 8),
        ):
            shares.append(Share(split, name, way, horizon, 83.75 + horizon, share, 365))
        moments.append(Moments(name, 180, 0.01, 1.02, 0.125, 2.5, 1e-4))
    return Certainty(
        interval=90.0,
        observer="ErrorNoise",
        judged_on="validation",
        split="test",
        candidates=(("ErrorObserver, held-out errors", 547.5),),
        shares=shares,
        bands=bands,
        whiteness=whiteness(rng.standard_normal((180, len(outputs))), 10, names=list(outputs)),
        moments=moments,
        states=[
            dataclasses.replace(
                one, kind="state", channel=f"error of {one.channel}", measured=one.mean * np.nan
            )
            for one in bands[:6:2]
        ],
    )


def report(**changes: Any) -> ReportData:
    """A report with every part of a page, small."""
    rng = np.random.default_rng(5)
    u, e = rng.standard_normal((180, 1)), rng.standard_normal((180, 1))
    own = {"rmse": 19.90321, "nrmse": 0.43, "fit": 57.0, "nse": 0.8151, "vaf": 81.7}
    fir = {"rmse": 29.4, "nrmse": 0.64, "fit": 36.0, "nse": 0.5904, "vaf": 59.3}
    omega = np.geomspace(1e-3, np.pi, 40)
    rain, flow = Channel("Prec", "mm/day", 0.0, 2.3, 56.6), Channel("Q", "m³/s", 8.5, 31.7, 360.0)
    fields: dict[str, Any] = {
        "title": "fulda",
        "created": "2025-01-02T03:04:05+00:00",
        "command": "statewise fit fulda.csv --seed 3",
        "data": DataSummary(
            name="fulda",
            inputs=(rain,),
            outputs=(flow,),
            dt=1.0,
            time_unit="d",
            parts=(
                Part("train", "river", 500, 0, "1979-01-01", "1980-05-14"),
                Part("valid", "river", 120, 20, "1980-05-15", "1980-09-11"),
                Part("test", "river", 1116, 20, "1981-01-01", "1984-01-21", 0, 4),
            ),
            description="Rainfall and runoff",
            source="a gauge",
            licence="MIT",
        ),
        "model": ModelSummary(
            "deep Wiener", "A deep Wiener model.", 5665, {"lr": 5e-3, "model": {"kind": "GLU"}}
        ),
        "scores": rows("deep Wiener", own) + rows("FIR", fir),
        "traces": (trace(), trace(120, split="valid")),
        "residuals": {
            "whiteness": whiteness(e, 10, names=["Q"]),
            "input": input_residual_correlation(u, e, 10, input_names=["Prec"], names=["Q"]),
        },
        "layers": (layer(0), layer(1)),
        "path": PathSummary(
            inputs=(rain,),
            outputs=(flow,),
            omega=omega,
            gain=(1 / np.abs(np.exp(1j * omega) - 0.9))[:, None, None],
            levels=np.linspace(0, 10, 9)[None],
            steady=(3 * np.linspace(0, 10, 9) ** 1.5)[None, :, None],
        ),
        "comparison": comparison(),
        "reduction": ReductionCurve(
            np.array([[12, 12], [7, 8], [4, 3], [1, 1]]),
            np.array([61.25, 61.5, 60.5, 12.125]),
            "valid",
        ),
        "certainty": certain(),
        "memory": 23.0,
        "history": [
            {"step": 10 * k, "loss": 0.5 / k, "valid": 0.6 / k + 0.01 * k, "seconds": 0.7 * k}
            for k in range(1, 12)
        ],
        "environment": {"seed": 3, "torch": "2.13.0", "training time": "12.5 s"},
        "references": (Reference("a published model", "test", 0.77, "", "nse"),),
        "notes": ("A note at the end.",),
    }
    return ReportData(**(fields | changes))


def minimal(**changes: Any) -> ReportData:
    """A report with what is required and nothing else."""
    fields: dict[str, Any] = {
        "title": "t",
        "created": "2025-01-02",
        "data": DataSummary("d", (), (Channel("y"),)),
        "model": ModelSummary("deep Wiener"),
    }
    return ReportData(**(fields | changes))


@dataclasses.dataclass
class FakeIdentifier:
    """Simulates measured outputs with noise of a known size; has a real, untrained model."""

    task: Task
    config: DeepWienerConfig = dataclasses.field(default_factory=DeepWienerConfig)
    noise: float = 0.1
    seed: int = 4

    def __post_init__(self) -> None:
        train = self.task.train
        self.model_ = DeepWiener(train.n_u, train.n_y, self.config, seed=self.seed)
        self.normaliser_ = Normaliser.fit(train)
        self.history_ = [{"step": k, "loss": 1 / k, "valid": None} for k in range(1, 5)]
        self.fit_seconds_ = 1.5

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"seed": self.seed}

    def simulate_experiments(self, experiments: Experiments) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        return [
            np.nan_to_num(record.y) + self.noise * rng.standard_normal(record.y.shape)
            for record in experiments
        ]

    def evaluate(
        self,
        experiments: Experiments,
        mode: str | int = "simulation",
        *,
        split: str = "test",
        scale: float = 1.0,
        unit: str | None = None,
    ) -> list[Score]:
        computed = self.simulate_experiments(experiments)
        return score(experiments, computed, split=split, mode=mode, scale=scale, unit=unit)


def experiments(
    lengths: tuple[int, ...] = (240,), n_u: int = 1, n_y: int = 1, skip: int = 0, **about: Any
) -> Experiments:
    rng = np.random.default_rng(sum(lengths) + n_u)
    inputs = [rng.standard_normal((length, n_u)) for length in lengths]
    outputs = []
    for u in inputs:
        y = np.cumsum(u, axis=0)[:, :1] * 0.1 + rng.standard_normal((len(u), n_y))
        y[5, 0] = np.nan
        outputs.append(y)
    return Experiments.from_arrays(inputs, outputs, skip=skip, **about)
