"""The rules of the house: who imports whom, what an import costs, what the install asks for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import statewise

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "statewise"
MODULES = sorted(SOURCE.rglob("*.py"))

# A package imports from the packages before it in this list, and from no other.
ORDER = (
    "ops",
    "lti",
    "data",
    "nn",
    "models",
    "train",
    "inference",
    "dynamics",
    "analysis",
    "compress",
    "estimators",
    "report",
    "papers",
    "cli",
)
LINES = 420


def _name(path: Path) -> str:
    """Dotted name of a module of the package, such as ``statewise.nn.lti``."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a module takes from the package, lazily or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") + ([""] if is_package else [])
                base = ".".join([*parts[: -node.level], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "statewise"
        ):
            yield node.lineno, f"statewise.{node.attr}"
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            first = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def _is_for_type_checkers(node: ast.stmt) -> bool:
    """Whether a statement is an ``if TYPE_CHECKING:`` block."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module's imports break of the order and of the rule of back ends."""
    parts = module.split(".")
    own = parts[1] if len(parts) > 1 else "__init__"
    private = own.startswith("_")
    faults = []
    if not private and own not in ORDER and own != "__main__":
        return [f"{module}: {own} has no place in the order of packages"]
    tree = ast.parse(source)
    if module == "statewise":
        # The front page imports nothing itself; its names for type checkers are in this block.
        tree.body = [node for node in tree.body if not _is_for_type_checkers(node)]
    for line, name in _imports(tree, module, is_package):
        target = name.split(".")
        if target[0] != "statewise" or len(target) < 2:
            continue
        other = target[1]
        other = statewise._LAZY.get(other, f"statewise.{other}").split(".")[1]
        where = f"{module}, line {line}: {name}"
        if other.startswith("_"):
            continue
        if other not in ORDER:
            faults.append(f"{where} is no package of the order")
        elif own == "__main__":
            if other != "cli":
                faults.append(f"{where} is imported by the entry point")
        elif private:
            faults.append(f"{where} is imported by a private module, which all packages import")
        elif ORDER.index(other) > ORDER.index(own):
            faults.append(f"{where} comes after {own}")
        if target[1] == "ops" and {"cpu", "gpu"} & set(target[3:]):
            allowed = module == "statewise.ops.dispatch" or parts[:3] == target[:3]
            if not allowed:
                faults.append(f"{where} is a back end, which the dispatcher alone chooses")
    return faults


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_follow_the_order_of_packages(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert _faults(text, _name(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("source", "module", "is_package"),
    [
        ("import statewise.nn", "statewise.data.record", False),
        ("from statewise.models import DeepWiener", "statewise.nn.lti", False),
        ("from statewise import estimators", "statewise.train.fit", False),
        ("from statewise import DeepWiener", "statewise.nn.lti", False),
        ("def f():\n    from statewise.train import fit", "statewise.nn.lti", False),
        ("from ..models import deep_wiener", "statewise.nn.lti", False),
        ("from ..models import deep_wiener", "statewise.nn", True),
        ("import statewise\nstatewise.SystemIdentifier()", "statewise.train.fit", False),
        ("import importlib\nimportlib.import_module('statewise.cli')", "statewise.data.x", False),
        ("import numpy", "statewise.utils.tools", False),
        ("import numpy", "statewise.utils", False),
        ("from statewise.utils import helper", "statewise.cli", True),
        ("from statewise.nn import LTI", "statewise._files", False),
        ("from statewise.data import Record", "statewise", True),
        ("from statewise.nn import LTI", "statewise.__main__", False),
        ("from statewise.ops.linear_scan import cpu", "statewise.nn.lti", False),
        ("from statewise.ops.linear_scan.gpu import kernel", "statewise.ops.ssd.op", False),
        ("from .linear_scan import cpu", "statewise.ops", True),
    ],
)
def test_a_broken_order_is_seen(source: str, module: str, is_package: bool) -> None:
    assert len(_faults(source, module, is_package=is_package)) == 1


@pytest.mark.parametrize(
    ("source", "module", "is_package"),
    [
        ("from statewise.ops import linear_scan", "statewise.nn.lti", False),
        ("from statewise._errors import DataError", "statewise.ops.dispatch", False),
        ("from . import poles\nfrom .poles import Ring", "statewise.nn.lti", False),
        ("from .lti import LTI", "statewise.nn", True),
        ("from statewise import __version__", "statewise.report.page", False),
        ("from statewise.ops.linear_scan import cpu, gpu", "statewise.ops.dispatch", False),
        ("from . import cpu", "statewise.ops.linear_scan.op", False),
        ("from . import cpu", "statewise.ops.linear_scan", True),
        ("from statewise.cli import main", "statewise.__main__", False),
        ("from statewise._version import __version__", "statewise", True),
    ],
)
def test_a_kept_order_is_let_through(source: str, module: str, is_package: bool) -> None:
    assert _faults(source, module, is_package=is_package) == []


def test_lazy_names_of_the_package_exist() -> None:
    assert set(statewise._LAZY) <= set(statewise.__all__)
    for name in statewise.__all__:
        assert getattr(statewise, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = statewise.Nothing


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


HEAVY = "{'torch', 'pandas', 'sklearn', 'matplotlib', 'numba', 'pyarrow', 'triton'}"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import statewise", HEAVY),
        ("import statewise, sys; sys.modules['statewise'].__dir__()", HEAVY),
        ("import statewise.data", HEAVY),
        ("import statewise.data.metrics", HEAVY),
        ("import statewise.cli", HEAVY),
    ],
)
def test_import_is_light(code: str, heavy: str) -> None:
    run = _run(f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "--help"], ["data", "describe", "--help"], ["--version"]]
)
def test_command_line_help_is_free_of_torch(arguments: list[str]) -> None:
    code = (
        "import sys, statewise.cli\n"
        "try:\n"
        f"    status = statewise.cli.main({arguments!r})\n"
        "except SystemExit as exit:\n"
        "    status = exit.code\n"
        "assert not status, status\n"
        f"loaded = sorted({HEAVY} & set(sys.modules))\n"
        "assert not loaded, loaded\n"
    )
    run = _run(code)
    assert run.returncode == 0, run.stderr
    expected = statewise.__version__ if "--version" in arguments else "statewise"
    assert expected in run.stdout


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _requirements() -> dict[str, list[Requirement]]:
    """Requirements of the package ("") and of each extra."""
    project = _project()
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def _upper_pins(requirement: Requirement) -> list[str]:
    return [str(part) for part in requirement.specifier if part.operator not in {">=", ">"}]


def test_install_has_no_upper_pins() -> None:
    pins = {
        f"{requirement} [{extra}]": _upper_pins(requirement)
        for extra, requirements in _requirements().items()
        for requirement in requirements
        if _upper_pins(requirement)
    }
    assert pins == {}
    assert not any("<" in part for part in _project()["requires-python"].split(","))


@pytest.mark.parametrize("pin", ["a<2", "a<=2", "a==2", "a~=2.0", "a!=2", "a===2", "a>=1,<2"])
def test_an_upper_pin_is_seen(pin: str) -> None:
    assert len(_upper_pins(Requirement(pin))) == 1


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line)
            assert match, f"constraints.txt holds {line!r}, expected name==version"
            assert match[1] not in pins, f"constraints.txt pins {match[1]} twice"
            pins[match[1]] = match[2]
    return pins


def test_constraints_pin_what_the_tests_install() -> None:
    pins = _constraints()
    groups = _requirements()
    # The benchmark reader needs a network; the suite runs without it.
    needed = {
        canonicalize_name(requirement.name): requirement
        for extra in set(groups) - {"benchmarks"}
        for requirement in groups[extra]
    }
    assert set(needed) - set(pins) == set()
    for name, requirement in needed.items():
        assert requirement.specifier.contains(pins[name]), (str(requirement), pins[name])
    assert pins["torch"] == "2.13.0"


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {statewise.__version__}\n" in citation
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_commit_hooks_run_the_commands_of_make_lint() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"entry: (.+)", hooks)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(VENV)", ".venv/bin")
    lint = re.search(r"^lint:.*\n((?:\t.+\n)+)", makefile, flags=re.MULTILINE)
    assert lint is not None
    assert entries == [line.strip() for line in lint[1].splitlines()]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_is_short(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= LINES, f"{_name(path)} has {count} lines, {LINES} are allowed"


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "torch.jit.load", "eval", "exec"}


def _unsafe(source: str) -> list[str]:
    """Ways in which a module could run code that a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            found += sorted(names & FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += sorted({node.module.split(".")[0]} & FORBIDDEN_MODULES)
            imported = {f"{node.module}.{alias.name}" for alias in node.names}
            found += sorted(imported & FORBIDDEN_CALLS)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS:
                found.append(name)
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                    found.append("allow_pickle")
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_file_is_read_by_running_it(path: Path) -> None:
    assert _unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('a')",
        "from torch import load",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "eval('1')",
    ],
)
def test_reading_by_running_is_seen(source: str) -> None:
    assert len(_unsafe(source)) == 1


GENERATED = re.compile(
    r"(\.py[cod]|\.nb[ci]|\.so|\.egg-info/.*|\.DS_Store)$|(^|/)(__pycache__|\.venv|build|dist|_build)/"
)


def test_no_generated_file_is_tracked() -> None:
    try:
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    tracked = [name for name in listed.stdout.split("\0") if name]
    assert [name for name in tracked if GENERATED.search(name)] == []
