"""A model hub, played by a module that keeps repositories as folders; no network."""

from __future__ import annotations

import fnmatch
import inspect
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from statewise._errors import DataError
from statewise.models import LanguageModel, LanguageModelConfig, load_pretrained, push_to_hub
from statewise.nn import LRU, Mamba


class Hub(ModuleType):
    """The three functions that are used, on folders below ``root``."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.asked, self.private = root, [], None

    def _chosen(self, folder: Path, patterns: list[str]) -> list[Path]:
        files = [p for p in folder.rglob("*") if p.is_file()]
        names = {p: str(p.relative_to(folder)) for p in files}
        return [p for p in files if any(fnmatch.fnmatch(names[p], one) for one in patterns)]

    def snapshot_download(self, repo_id, *, revision, allow_patterns) -> str:
        self.asked.append((repo_id, revision))
        source, target = self.root / repo_id, self.root / "kept" / repo_id
        if not source.is_dir():
            raise OSError(f"404 for\n{repo_id}")
        target.mkdir(parents=True, exist_ok=True)
        for file in self._chosen(source, allow_patterns):
            shutil.copy(file, target / file.name)
        return str(target)

    def create_repo(self, repo_id, *, private, exist_ok) -> str:
        self.private = private
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"hub://{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns) -> None:
        assert commit_message
        for file in self._chosen(self.root / repo_id, delete_patterns):
            file.unlink()
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return stand_in


def model(**settings) -> LanguageModel:
    given = {"layer": Mamba.spec(d_state=4)} | settings
    return LanguageModel(LanguageModelConfig(24, 8, 2, **given), seed=3).eval()


def test_a_model_goes_there_and_back(hub: Hub) -> None:
    made, text = model(), torch.tensor([[1, 5, 2]])
    assert made.push_to_hub("someone/a-model", private=True) == "hub://someone/a-model"
    assert hub.private is True
    back = LanguageModel.from_pretrained("someone/a-model", revision="v1")
    assert hub.asked == [("someone/a-model", "v1")]
    assert torch.equal(back(text)[0], made(text)[0])
    half = load_pretrained("someone/a-model", dtype=torch.bfloat16)
    assert half.embedding.weight.dtype == torch.bfloat16


def test_only_settings_and_safetensors_are_downloaded(hub: Hub) -> None:
    push_to_hub(model(), "someone/m", layout="state-spaces")
    source = hub.root / "someone" / "m"
    for name in ("pytorch_model.bin", "modeling.py", "tokenizer.json", "other.safetensors"):
        (source / name).write_bytes(b"x")
    (source / "onnx").mkdir()
    (source / "onnx" / "config.json").write_text("[]")
    load_pretrained("someone/m")
    kept = sorted(p.name for p in (hub.root / "kept" / "someone" / "m").iterdir())
    assert kept == ["config.json", "model.safetensors"]


def test_pushing_replaces_shards_and_leaves_other_files(hub: Hub) -> None:
    source = hub.root / "someone" / "m"
    source.mkdir(parents=True)
    old = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(old))
    for name in ("model-00001-of-00001.safetensors", "README.md", "tokenizer.json"):
        (source / name).write_text("x")
    push_to_hub(model(), "someone/m")
    left = {p.name for p in source.iterdir()}
    assert left == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert load_pretrained("someone/m").config.n_layer == 2


def test_a_folder_comes_before_a_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model().save_pretrained(tmp_path / "here" / "m")
    assert load_pretrained("here/m").config.n_layer == 2
    with pytest.raises(ValueError, match=r"no revisions.*here/m.*'v1'"):
        load_pretrained("here/m", revision="v1")
    for folder in (Path("no/where"), "/no/where", "./no", "nowhere"):
        with pytest.raises(DataError, match=r"config\.json"):
            load_pretrained(folder)
    assert hub.asked == []


def test_what_cannot_be_downloaded_is_told(hub: Hub) -> None:
    with pytest.raises(DataError, match=r"someone/gone: neither a folder.*404 for someone/gone"):
        load_pretrained("someone/gone")
    source = hub.root / "someone" / "pickled"
    source.mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"someone/pickled: .*no weights as safetensors"):
        load_pretrained("someone/pickled")


def test_nothing_is_made_of_what_cannot_be_written(hub: Hub) -> None:
    with pytest.raises(ValueError, match="LRU"):
        push_to_hub(model(layer=LRU.spec()), "someone/m")
    with pytest.raises(ValueError, match=r"organisation/name.*'alone'"):
        push_to_hub(model(), "alone")
    assert not (hub.root / "someone").exists()


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: load_pretrained("someone/m"),
        lambda: model().push_to_hub("someone/m"),
    ):
        with pytest.raises(ImportError, match=r"'huggingface_hub'.*statewise\[hub\]"):
            call()


def test_the_real_package_takes_the_same_arguments() -> None:
    real = pytest.importorskip("huggingface_hub")
    for name in ("snapshot_download", "create_repo", "upload_folder"):
        ours = inspect.signature(getattr(Hub, name)).parameters
        theirs = inspect.signature(getattr(real, name)).parameters
        assert set(ours) - {"self"} <= set(theirs)
