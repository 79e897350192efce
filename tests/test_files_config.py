from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise import _config
from statewise._config import from_dict, register, to_dict
from statewise._errors import ConvergenceError, DataError, StatewiseError, require
from statewise._files import atomic_folder, atomic_write, write_text


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test the test classes alone, and the package its own registry back."""
    monkeypatch.setattr(_config, "_REGISTRY", {"Rule": Rule, "Layer": Layer})


@dataclasses.dataclass(frozen=True)
class Rule:
    name: str = "zoh"
    order: int = 1


@dataclasses.dataclass(frozen=True)
class Layer:
    size: int
    rule: Rule = dataclasses.field(default_factory=Rule)
    taps: tuple[float, ...] = ()
    parts: tuple[Rule, ...] = ()
    options: dict[str, float] | None = None


def _contents(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


class TestAtomicWrite:
    def test_file_appears_whole_when_the_block_ends(self, tmp_path: Path) -> None:
        target = tmp_path / "a folder" / "deep" / "file.txt"
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            assert temporary.parent == target.parent
            assert not target.exists()
            temporary.write_text("whole")
        assert target.read_text() == "whole"
        assert _contents(target.parent) == ["file.txt"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_failure_keeps_the_old_file_and_leaves_no_trace(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        target = tmp_path / "file.txt"
        target.write_text("old")
        with pytest.raises(error), atomic_write(target) as temporary:  # noqa: PT012
            temporary.write_text("new")
            raise error
        assert target.read_text() == "old"
        assert _contents(tmp_path) == ["file.txt"]

    @pytest.mark.skipif(os.name != "posix", reason="POSIX file modes")
    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_mode_is_that_of_a_plain_open(self, tmp_path: Path, mask: int) -> None:
        before = os.umask(mask)
        try:
            (tmp_path / "plain").write_text("")
            write_text(tmp_path / "atomic", "")
            assert os.umask(mask) == mask
        finally:
            os.umask(before)
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
        assert modes == {0o666 & ~mask}

    def test_text_is_utf8(self, tmp_path: Path) -> None:
        write_text(tmp_path / "file.txt", "λ ≤ 1")
        assert (tmp_path / "file.txt").read_bytes() == "λ ≤ 1".encode()

    def test_a_text_path_is_taken(self, tmp_path: Path) -> None:
        write_text(str(tmp_path / "file.txt"), "text")
        assert (tmp_path / "file.txt").read_text() == "text"


class TestAtomicFolder:
    def test_folder_appears_whole(self, tmp_path: Path) -> None:
        target = tmp_path / "out" / "model"
        with atomic_folder(target) as temporary:
            (temporary / "config.json").write_text("{}")
            assert not target.exists()
        assert _contents(target) == ["config.json"]
        assert _contents(target.parent) == ["model"]

    def test_replaces_the_whole_of_an_old_folder(self, tmp_path: Path) -> None:
        target = tmp_path / "model"
        target.mkdir()
        (target / "stale.json").write_text("{}")
        with atomic_folder(target) as temporary:
            (temporary / "config.json").write_text("{}")
            assert _contents(target) == ["stale.json"]
        assert _contents(target) == ["config.json"]
        assert _contents(tmp_path) == ["model"]

    def test_failure_keeps_the_old_folder_and_leaves_no_trace(self, tmp_path: Path) -> None:
        target = tmp_path / "model"
        target.mkdir()
        (target / "config.json").write_text("old")
        with pytest.raises(RuntimeError), atomic_folder(target) as temporary:  # noqa: PT012
            (temporary / "config.json").write_text("new")
            raise RuntimeError
        assert (target / "config.json").read_text() == "old"
        assert _contents(tmp_path) == ["model"]

    def test_failed_rename_puts_the_old_folder_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "model"
        target.mkdir()
        (target / "config.json").write_text("old")
        plain = Path.replace

        def refuse(self: Path, other: Path) -> Path:
            if Path(other) == target and self.name.startswith(".model.") and self.is_dir():
                raise OSError("refused")
            return plain(self, other)

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="refused"), atomic_folder(target) as temporary:
            (temporary / "config.json").write_text("new")
        assert (target / "config.json").read_text() == "old"
        assert _contents(tmp_path) == ["model"]


class TestConfig:
    def test_nested_dataclasses_come_back_equal_through_json(self) -> None:
        value = Layer(3, Rule("bilinear"), (0.5, 1e-300), (Rule(), Rule(order=2)), {"a": 1.0})
        assert from_dict(json.loads(json.dumps(to_dict(value)))) == value

    def test_form_on_disk(self) -> None:
        assert to_dict(Layer(2, taps=(1.5,))) == {
            "kind": "Layer",
            "size": 2,
            "rule": {"kind": "Rule", "name": "zoh", "order": 1},
            "taps": [1.5],
            "parts": [],
            "options": None,
        }

    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text()
            | st.builds(Rule, st.text(), st.integers()),
            lambda inner: (
                st.lists(inner).map(tuple)
                | st.dictionaries(st.text().filter(lambda key: key != "kind"), inner)
            ),
        )
    )
    def test_any_tree_comes_back_equal(self, value: object) -> None:
        assert from_dict(json.loads(json.dumps(to_dict(value)))) == value

    def test_absent_fields_take_their_defaults(self) -> None:
        assert from_dict({"kind": "Layer", "size": 4}) == Layer(4)

    def test_unknown_kind_is_named_beside_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match=r"'Ring'.*Layer, Rule"):
            from_dict({"kind": "Ring"})

    def test_unknown_fields_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"Rule has the unknown field\(s\) colour, speed"):
            from_dict({"kind": "Rule", "speed": 1, "colour": 2})

    def test_missing_field_is_an_error(self) -> None:
        with pytest.raises((TypeError, ValueError), match="size"):
            from_dict({"kind": "Layer"})

    @pytest.mark.parametrize("value", [object(), {1, 2}, 1j, b"bytes", Rule])
    def test_value_that_json_cannot_hold_is_refused(self, value: object) -> None:
        with pytest.raises(TypeError, match="cannot be saved"):
            to_dict({"field": value})

    def test_unregistered_dataclass_is_refused(self) -> None:
        @dataclasses.dataclass
        class Stranger:
            size: int = 1

        with pytest.raises(TypeError, match="Stranger is not registered"):
            to_dict(Stranger())

    def test_only_dataclasses_register(self) -> None:
        class Plain:
            pass

        with pytest.raises(TypeError, match="Plain must be a dataclass"):
            register(Plain)

    def test_name_of_another_module_is_taken(self) -> None:
        other = dataclasses.make_dataclass("Rule", ["a"])
        other.__module__ = "somewhere.other"
        with pytest.raises(TypeError, match=f"the name Rule is taken by {Rule.__module__}"):
            register(other)

    def test_registering_twice_is_harmless(self) -> None:
        assert register(Rule) is Rule
        assert from_dict({"kind": "Rule"}) == Rule()

    def test_loading_builds_registered_kinds_only(self) -> None:
        with pytest.raises(ValueError, match="known kinds"):
            from_dict({"kind": "os.system", "command": "echo"})


class TestErrors:
    def test_kinds(self) -> None:
        assert issubclass(DataError, StatewiseError)
        assert issubclass(DataError, ValueError)
        assert issubclass(ConvergenceError, StatewiseError)
        assert issubclass(ConvergenceError, ArithmeticError)

    def test_require_gives_the_module(self) -> None:
        assert require("json", extra="none") is json

    def test_require_names_package_and_extra(self) -> None:
        with pytest.raises(ImportError, match=r"'no_such_package'.*'statewise\[cloud\]'") as caught:
            require("no_such_package", extra="cloud")
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
