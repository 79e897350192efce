"""The tasks of the trained claims, each solved by an oracle, and the loop that trains on them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from statewise._errors import DataError
from statewise.models import (
    PerSample,
    Pooled,
    SequenceModel,
    SequenceModelConfig,
    Signals,
    Tokens,
)
from statewise.nn import GRU, LRU, BlockSpec
from statewise.papers import Setting
from statewise.papers.harness.episodes import MemoryChain, RepeatFirst
from statewise.papers.harness.listops import OPERATIONS, WORDS, ListOps
from statewise.papers.harness.recordings import (
    Part,
    Recordings,
    mnist_1d,
    spoken_digits,
    written_digits,
)
from statewise.papers.harness.tasks import (
    Adding,
    AssociativeRecall,
    Batch,
    CopyBits,
    Copying,
    InductionHeads,
    Parity,
    SelectiveCopying,
    Task,
)
from statewise.papers.harness.train import (
    Recipe,
    details,
    evaluate,
    loss_of,
    median,
    train,
    trials,
)

CASES: list[tuple[Task, int, int]] = [
    (Copying(), 5, 25),
    (SelectiveCopying(), 32, 36),
    (InductionHeads(), 32, 32),
    (AssociativeRecall(), 48, 48),
    (Parity(), 17, 17),
    (Adding(), 21, 21),
    (CopyBits(), 8, 48),
    (RepeatFirst(), 200, 200),
    (MemoryChain(), 30, 30),
    (ListOps(), 24, 24),
]
each_task = pytest.mark.parametrize(
    ("task", "length", "samples"), CASES, ids=lambda v: type(v).__name__ if v in TASKS else str(v)
)
TASKS = [task for task, _, _ in CASES]


def copied(x, task):
    return [0] * (len(x) - task.count) + x[: task.count]


def scattered(x, task):
    return [0] * (len(x) - task.count) + [one for one in x if one > 1]


def induced(x, task):
    return [0] * (len(x) - 1) + [x[x.index(0) + 1]]


def recalled(x, task):
    front = 2 * task.pairs
    known = dict(zip(x[0:front:2], x[1:front:2], strict=True))
    return [0] * front + [known.get(one, 0) for one in x[front:]]


def odd(x, task):
    return [sum(x[: k + 1]) % 2 for k in range(len(x))]


def added(x, task):
    return [[0.0]] * (len(x) - 1) + [[sum(value for value, mark in x if mark == 1)]]


def bits(x, task):
    pattern = [[float(value > 0) for value in row[:-1]] for row in x[: task.count]]
    return [[0.0] * task.bits] * (len(x) - task.count) + pattern


def first(x, task):
    seen, said = None, []
    for one in x:
        seen = one if one < task.symbols else seen
        said.append(seen)
    return said


def chosen(x, task):
    return [0] * (len(x) - 1) + [int(x[0][0] > 0)]


def computed(x, task):
    words, stack = [WORDS[one] for one in x if one], []
    for word in words:
        if word == "]":
            values = []
            while isinstance(stack[-1], int):
                values.append(stack.pop())
            stack.append(OPERATIONS[stack.pop()[1:]](values))
        else:
            stack.append(int(word) if word.isdigit() else word)
    (value,) = stack
    return value


ORACLES = dict(
    zip(
        (type(task) for task in TASKS),
        (copied, scattered, induced, recalled, odd, added, bits, first, chosen, computed),
        strict=True,
    )
)


@each_task
def test_an_oracle_solves_the_task(task, length, samples):
    batch = task.draw(40, length, 3)
    assert batch.inputs.shape[:2] == (40, samples)
    if task.tokens:
        assert batch.inputs.dtype == torch.int64
        assert batch.inputs.min() >= 0
        assert batch.inputs.max() < task.n_inputs
    else:
        assert batch.inputs.shape == (40, samples, task.n_inputs)
        assert batch.inputs.dtype == torch.float32
    if task.loss == "classes":
        assert batch.targets.min() >= 0
        assert batch.targets.max() < task.n_outputs
    solve = ORACLES[type(task)]
    said = torch.tensor([solve(row, task) for row in batch.inputs.tolist()])
    mask = batch.mask if batch.mask is not None else torch.ones_like(batch.targets) > 0
    assert mask.flatten(1).any(1).all() if mask.ndim > 1 else mask.all()
    torch.testing.assert_close(said.to(batch.targets.dtype)[mask], batch.targets[mask])


@each_task
def test_a_seed_gives_one_draw(task, length, samples):
    one, same, other = (task.draw(16, length, seed) for seed in (5, np.random.default_rng(5), 6))
    for field in dataclasses.fields(Batch):
        a, b = getattr(one, field.name), getattr(same, field.name)
        assert b is None if a is None else torch.equal(a, b)
    assert not torch.equal(one.inputs, other.inputs)


def test_answers_are_spread_over_the_classes():
    for task, length, _ in CASES:
        if task.loss == "classes":
            batch = task.draw(600, length, 0)
            judged = batch.targets if batch.mask is None else batch.targets[batch.mask]
            share = torch.bincount(judged).max() / len(judged)
            # ListOps favours 0 and 9, the least and the greatest of its digits.
            assert share < (0.35 if isinstance(task, ListOps) else 1.5 / len(judged.unique()))


def test_data_lie_anywhere():
    copy = SelectiveCopying(count=2).draw(2000, 6, 0).inputs[:, :6]
    assert (copy > 1).sum(1).eq(2).all()
    assert (copy > 1).double().mean(0).sub(1 / 3).abs().max() < 0.05
    marker = InductionHeads().draw(2000, 6, 0).inputs
    assert torch.equal((marker == 0).sum(1).unique(), torch.tensor([2]))
    assert (marker[:, :4] == 0).double().mean(0).sub(1 / 4).abs().max() < 0.05
    asked = AssociativeRecall(pairs=2).draw(2000, 10, 0)
    assert asked.mask is not None
    assert asked.mask.sum(1).eq(2).all()
    assert asked.mask[:, 4:].double().mean(0).sub(1 / 3).abs().max() < 0.05


def test_episodes_have_the_lengths_and_the_resets_they_say():
    batch = RepeatFirst(shortest=3, longest=7).draw(50, 100, 0)
    assert batch.reset is not None
    assert torch.equal(batch.inputs < 8, batch.reset)
    for row in batch.reset:
        gaps = row.nonzero().squeeze(1).diff()
        assert gaps.min() >= 3
        assert gaps.max() <= 7
    blind = RepeatFirst(shortest=3, longest=7, resets=False, judged=2).draw(50, 100, 0)
    assert blind.reset is None
    assert torch.equal(blind.inputs, batch.inputs)
    age = torch.roll(batch.reset, 1, dims=1)
    age[:, 0] = False
    assert blind.mask is not None
    assert torch.equal(blind.mask, batch.reset | age)


def test_expressions_keep_their_depth_and_room():
    task = ListOps(depth=3, arguments=5)
    batch = task.draw(300, 12, 0)
    assert batch.lengths is not None
    assert batch.lengths.min() >= 4
    assert batch.lengths.max() == 12
    opening = torch.tensor([word.startswith("[") for word in WORDS])[batch.inputs].long()
    closing = (batch.inputs == WORDS.index("]")).long()
    depth = (opening - closing).cumsum(1)
    assert depth.max() == 3
    assert (depth[:, -1] == 0).all()
    inside = torch.arange(12) < batch.lengths.unsqueeze(1)
    assert torch.equal(inside, batch.inputs > 0)


@pytest.mark.parametrize(
    ("task", "length", "least"),
    [(SelectiveCopying(), 3, 4), (InductionHeads(), 2, 3), (AssociativeRecall(), 23, 24)],
)
def test_a_length_that_is_too_short_is_refused(task, length, least):
    task.draw(2, least, 0)
    with pytest.raises(ValueError, match=f"at least {least}; given {length}"):
        task.draw(2, length, 0)


def test_more_pairs_than_keys_are_refused():
    with pytest.raises(ValueError, match="8 tokens give 3 keys; asked for 4 pairs"):
        AssociativeRecall(pairs=4, vocabulary=8)


def test_recordings_are_cut_and_judged_on_their_test_part():
    def part(size, value):
        lengths = torch.arange(1, size + 1)
        inputs = torch.full((size, size, 1), value)
        return Part(inputs, lengths % 3, lengths)

    task = Recordings(part(8, 1.0), part(5, 2.0), classes=3)
    assert (task.n_inputs, task.n_outputs) == (1, 3)
    drawn = task.draw(6, 4, 0)
    assert drawn.inputs.shape == (6, 4, 1)
    assert (drawn.inputs == 1).all()
    assert drawn.lengths is not None
    assert drawn.lengths.max() == 4
    held = task.held_out(100, 5, 0)
    assert (held.inputs == 2).all()
    assert torch.equal(held.targets, torch.tensor([1, 2, 0, 1, 2]))


def test_written_digits_are_read_row_by_row():
    task = written_digits(seed=1)
    assert task.train.inputs.shape == (1347, 64, 1)
    assert task.test.inputs.shape == (450, 64, 1)
    assert task.train.inputs.abs().max() == 1
    assert torch.equal(task.test.classes.unique(), torch.arange(10))


def test_published_digits_are_read_from_the_data_folder(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        mnist_1d(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "mnist1d").mkdir()
    x, y = rng.standard_normal((7, 40)).astype(np.float32), np.arange(7, dtype=np.int8)
    np.savez(tmp_path / "mnist1d" / "mnist1d.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    task = mnist_1d(tmp_path)
    assert torch.equal(task.train.inputs[..., 0], torch.from_numpy(x))
    assert torch.equal(task.test.classes, torch.tensor([0, 1]))
    (tmp_path / "fsdd").mkdir()
    np.savez(
        tmp_path / "fsdd" / "fsdd_mulaw8.npz",
        mulaw=np.array([127, 127, -127, 0, 0, 0, 127], np.int8),
        length=np.array([3, 4]),
        digit=np.array([4, 9], np.int8),
        take=np.array([5, 4]),
    )
    task = spoken_digits(tmp_path, every=2)
    assert torch.equal(task.train.inputs[..., 0], torch.tensor([[1.0, 0.0]]))
    assert torch.equal(task.train.lengths, torch.tensor([1]))
    assert torch.equal(task.test.inputs[..., 0], torch.tensor([[0.0, 0.5]]))
    assert torch.equal(task.test.classes, torch.tensor([9]))


SIGNS = Recordings(
    *(
        Part(
            torch.tensor([[1.0], [-1.0]]).repeat(1, 6).unsqueeze(-1),
            torch.tensor([0, 1]),
            torch.tensor([4, 6]),
        )
        for _ in range(2)
    ),
    classes=2,
)


def tiny(task: Task, pooled: bool = False) -> SequenceModelConfig:
    return SequenceModelConfig(
        (BlockSpec(LRU.spec(d_state=8)),),
        d_model=8,
        encoder=Tokens() if task.tokens else Signals(),
        head=Pooled() if pooled else PerSample(),
    )


@pytest.mark.parametrize(
    ("task", "length"), [(Copying(2, 2), 1), (Adding(), 4), (CopyBits(2, 2), 1), (SIGNS, 6)]
)
def test_the_loss_falls(task, length):
    config = tiny(task, pooled=task is SIGNS)
    model = SequenceModel(task.n_inputs, task.n_outputs, config)
    course = train(model, task, Recipe(100, length, batch=16, lr=2e-2))
    assert len(course.losses) == 100
    assert np.mean(course.losses[-10:]) < 0.8 * np.mean(course.losses[:5])


def test_a_seed_gives_one_network_and_chance_is_left_behind():
    task, said = Copying(2, 2), []
    recipe = Recipe(60, (1, 2), batch=16, lr=2e-2)
    setting = Setting(say=said.append)
    state = torch.random.get_rng_state()
    one, two = (trials(tiny(task), task, recipe, [1, 2], seeds=(0, 1, 2)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(one, two, strict=True):
        assert a.course.losses == b.course.losses
        assert a.scores == b.scores
    assert one[0].course.losses != one[1].course.losses
    assert median(one, 1) == sorted(trial.scores[1] for trial in one)[1] > 0.65
    assert details(one, "LRU")["LRU, length 2, seed 1"] == one[1].scores[2]
    trials(
        tiny(task), task, dataclasses.replace(recipe, steps=10), [1], seeds=(7,), setting=setting
    )
    assert said[-1].startswith(" seed 7: 1: ")


def test_recipes():
    recipe = Recipe(10, 4, warmup=0.2, decay="linear")
    assert [recipe.rate(p) for p in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1, 0.5, 0])
    assert Recipe(10, 4, warmup=0.2).rate(0.6) == pytest.approx(0.5)
    assert Recipe(10, 4, decay="constant").rate(0.99) == 1
    with pytest.raises(ValueError, match="given 'cubic'"):
        Recipe(10, 4, decay="cubic")
    with pytest.raises(ValueError, match="steps and batch of at least 1"):
        Recipe(0, 4)
    task = Parity()
    model = SequenceModel(2, 2, tiny(task))
    assert len(train(model, task, Recipe(10**6, 4, seconds=0.2)).losses) < 10**5


def test_scores_and_losses_are_those_of_the_judged_samples():
    class Echo(SequenceModel):
        def forward(self, u, state=None, **others):
            return 4 * torch.nn.functional.one_hot(u, 4).double(), None

    class Said(Copying):
        def draw(self, batch, length, seed):
            inputs = torch.tensor([[0, 1, 2, 3]])
            mask = torch.tensor([[True, True, True, False]])
            return Batch(inputs, torch.tensor([[0, 1, 3, 0]]), mask)

    task = Said(2, 2)
    echo = Echo(4, 4, tiny(task))
    assert evaluate(echo, task, [4])[4] == pytest.approx(2 / 3)
    batch = task.draw(1, 4, 0)
    expected = np.log(np.exp(4) + 3) - np.array([4, 4, 0])
    got = loss_of(task, echo(batch.inputs)[0], batch)
    assert float(got) == pytest.approx(expected.mean())


def test_a_loss_that_is_not_finite_ends_the_run():
    task = MemoryChain()
    model = SequenceModel(3, 2, dataclasses.replace(tiny(task), blocks=(BlockSpec(GRU.spec()),)))
    assert model.head is not None
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    course = train(model, task, Recipe(5, 4))
    assert len(course.losses) == 1
