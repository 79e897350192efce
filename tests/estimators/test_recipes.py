"""Recipes: they hold together, survive JSON, carry everything into the estimator, need no torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from statewise._config import from_dict, to_dict
from statewise.estimators import SystemIdentifier
from statewise.estimators.recipes import RECIPES, Recipe
from statewise.estimators.transform import SignedPower
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.train import FitConfig

NAMES = sorted(RECIPES)


def test_shipped_names():
    assert {"default", "river", "compact", "nonlinear"} <= set(RECIPES)
    assert RECIPES["default"] == Recipe()


@pytest.mark.parametrize("name", NAMES)
def test_recipe_survives_json(name):
    recipe = RECIPES[name]
    again = from_dict(json.loads(json.dumps(to_dict(recipe), allow_nan=False)))
    assert again == recipe
    assert isinstance(again, Recipe)


@pytest.mark.parametrize("name", NAMES)
def test_identifier_carries_everything(name):
    recipe = RECIPES[name]
    made = recipe.identifier(seed=5, device="auto")
    assert isinstance(made, SystemIdentifier)
    params = made.get_params()
    for field in dataclasses.fields(Recipe):
        assert params.pop(field.name) == getattr(recipe, field.name)
    assert params == {"seed": 5, "device": "auto"}
    assert (recipe.identifier().seed, recipe.identifier().device) == (0, "cpu")


def test_changed_recipe_carries_its_changes():
    changes = {
        "model": DeepWienerConfig(d_state=2),
        "training": FitConfig(steps=1),
        "transform": SignedPower(0.25),
        "valid_fraction": 0.4,
    }
    made = dataclasses.replace(RECIPES["river"], **changes).identifier()
    assert {name: made.get_params()[name] for name in changes} == changes


@pytest.mark.parametrize("name", NAMES)
def test_recipe_trains(name):
    recipe = RECIPES[name]
    short = {"steps": 1, "eval_every": 1, "polish_steps": 0, "batch_size": 2}
    training = dataclasses.replace(recipe.training, window=None, washout=4, **short)
    rng = np.random.default_rng(0)
    u, y = rng.standard_normal((60, 2)), rng.random((60, 1))
    model = dataclasses.replace(recipe, training=training).identifier().fit(u, y)
    assert np.isfinite(model.simulate(u)).all()
    assert model.model_.config == recipe.model


def test_compact_is_the_stack_of_358_parameters():
    assert DeepWiener(1, 1, RECIPES["compact"].model).n_parameters == 358


def test_river_is_never_negative():
    assert RECIPES["river"].transform.inverse(np.array([-3.0])) == 0.0


def test_import_needs_no_torch():
    script = (
        "import sys\n"
        "from statewise.estimators.recipes import RECIPES\n"
        "from statewise._config import from_dict, to_dict\n"
        "recipe = RECIPES['river']\n"
        "assert from_dict(to_dict(recipe)) == recipe\n"
        "print([name for name in ('torch', 'numba', 'pandas') if name in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
