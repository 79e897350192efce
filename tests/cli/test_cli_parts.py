from __future__ import annotations

import re

import pytest

from statewise.cli.parts import part_kinds, read_part, show_part
from statewise.cli.settings import attribute_docs
from statewise.estimators.transform import OutputTransform, SignedPower
from statewise.lti import Bilinear
from statewise.models import DeepWienerConfig
from statewise.nn import (
    GLU,
    S4D,
    Bank,
    Dense,
    DiscreteDiagonal,
    Gated,
    LayerSpec,
    Polynomial,
    RealDiagonal,
    Ring,
)
from statewise.nn.initialisers import GivenDiscrete
from statewise.nn.specs import PolesConfig
from statewise.nn.static_specs import StaticMap
from statewise.train import FitConfig


@pytest.mark.parametrize(
    ("text", "family", "part"),
    [
        ("GLU", StaticMap, GLU()),
        (" GLU( ) ", StaticMap, GLU()),
        ("Polynomial(degree=5, support=2.5)", StaticMap, Polynomial(5, 2.5)),
        ("DiscreteDiagonal(gain=trained)", PolesConfig, DiscreteDiagonal(gain="trained")),
        ("DiscreteDiagonal(gain='trained')", PolesConfig, DiscreteDiagonal(gain="trained")),
        (
            "DiscreteDiagonal(law=Ring(r_max=0.9), gain=none)",
            PolesConfig,
            DiscreteDiagonal(Ring(r_max=0.9), "none"),
        ),
        ("RealDiagonal(per_state=True)", PolesConfig, RealDiagonal(per_state=True)),
        (
            "DiscreteDiagonal(law=GivenDiscrete(real=[-0.5, 0.5], imag=(0.1, 0)))",
            PolesConfig,
            DiscreteDiagonal(GivenDiscrete((-0.5, 0.5), (0.1, 0))),
        ),
        ("SignedPower(floor=None)", OutputTransform, SignedPower()),
        ("S4D", LayerSpec, S4D.spec()),
        (
            "Gated(inner=S4D(d_state=2, rule=Bilinear), expand=3)",
            LayerSpec,
            Gated.spec(inner=S4D.spec(d_state=2, rule=Bilinear()), expand=3),
        ),
    ],
)
def test_parts_are_read_as_in_python(text: str, family: type, part: object) -> None:
    read = read_part(text, [family])
    assert read == part
    assert read_part(show_part(part), [family]) == part


def test_union_members_and_none() -> None:
    assert read_part("Bank", [Dense, Bank]) == Bank()
    assert read_part("None", [Dense, Bank], optional=True) is None
    assert list(part_kinds([Dense, Bank])) == ["Bank", "Dense"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Dense", "'Dense' is none of"),
        ("Polynomal(degree=3)", "did you mean Polynomial"),
        ("None", "'None' is none of"),
        ("3", "'3' is none of"),
        ("", "is no part; write one of"),
        ("GLU(", "is no part; write one of"),
        ("a" + "(" * 300, "is no part"),
        ("Polynomial(degree=0)", "Polynomial needs degree >= 1"),
        ("Polynomial(5)", "given by name"),
        ("Polynomial(**x)", "given by name"),
        ("Polynomial(order=5)", "has no setting 'order'; its settings are: degree, support"),
        ("Polynomial(degree=open('x'))", "given by name"),
        ("Polynomial(degree=Open())", "'Open'"),
        ("Polynomial(degree=1+1)", "neither a number, a word nor a part"),
        ("Polynomial(degree=many)", "Polynomial"),
        ("__import__('os')", "is none of"),
    ],
)
def test_what_is_no_part_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        read_part(text, [StaticMap])
    assert said in str(caught.value)


def test_shown_settings_are_those_that_differ() -> None:
    assert show_part(GLU()) == "GLU"
    assert show_part(None) == "None"
    assert show_part(DiscreteDiagonal(Ring(r_max=0.9))) == "DiscreteDiagonal(law=Ring(r_max=0.9))"


@pytest.mark.parametrize("kind", [DeepWienerConfig, FitConfig])
def test_every_setting_has_words_for_its_help(kind: type) -> None:
    docs = attribute_docs(kind)
    assert set(docs) == set(kind.__dataclass_fields__)
    assert all(text and "`" not in text for text in docs.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("S4E", "no layer 'S4E'; the layers are: "),
        ("S4D(states=2)", "S4D has no option 'states'; its options are: d_state"),
        ("S4D(2)", "given by name"),
        ("3", "'3' is no layer; write one as in Python"),
        ("Gated(inner=S4E)", "'S4E'"),
    ],
)
def test_layers_tell_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(said)):
        read_part(text, [LayerSpec])
    assert read_part("None", [LayerSpec], optional=True) is None
