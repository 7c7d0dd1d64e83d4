"""Model files: whole or not at all, the same bytes for the same weights."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lightwatch.checkpoint import load_model, save_model
from lightwatch.config import GPTConfig
from lightwatch.errors import DataError
from lightwatch.files import write_whole
from lightwatch.flat import digest_of
from lightwatch.model import GPT
from tests.models import mlp


def tied_gpt(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(layers=1, heads=2, width=8, context=4, tied=True))


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def names_in(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as opened:
        return set(opened.keys())


@pytest.mark.parametrize("make", [mlp, tied_gpt, lambda seed: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))])
def test_a_model_that_is_written_and_read_is_the_same_model(make: Callable[[int], nn.Module], tmp_path: Path) -> None:
    """Into a model of other weights; the digest is that of the one written, ties hold, and nothing else is left."""
    model, other = make(1), make(2)
    for buffer in model.buffers():
        buffer.add_(3)
    file = tmp_path / "model.safetensors"
    save_model(model, file)
    load_model(other, file)
    assert digest_of(other) == digest_of(model)
    assert left_in(tmp_path) == ["model.safetensors"]
    if isinstance(other, GPT):
        assert other.head.weight is other.tokens.weight


def test_a_bare_torch_model_loads_the_file(tmp_path: Path) -> None:
    """Other tools read it: plain state_dict names, contiguous tensors."""
    model, bare = mlp(1), mlp(2)
    model[0].weight.data = model[0].weight.data.t().contiguous().t()  # type: ignore[operator]
    save_model(model, tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        bare.load_state_dict({name: file.get_tensor(name) for name in file.keys()}, strict=True)
    assert digest_of(bare) == digest_of(model)


def test_tied_weights_stand_once_under_the_name_of_the_digest(tmp_path: Path) -> None:
    model = tied_gpt()
    save_model(model, tmp_path / "m")
    assert names_in(tmp_path / "m") == {name for name, _ in model.named_parameters()}
    assert "tokens.weight" in names_in(tmp_path / "m") and "head.weight" not in names_in(tmp_path / "m")


def test_empty_tensors_are_all_kept(tmp_path: Path) -> None:
    """Empty ones share an address without being one."""
    model = nn.Module()
    model.a, model.b = nn.Parameter(torch.zeros(0, 2)), nn.Parameter(torch.zeros(0, 2))
    save_model(model, tmp_path / "m")
    assert names_in(tmp_path / "m") == {"a", "b"}


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    """Twice from one model, and from another object whose memory is laid out otherwise."""
    model, other = tied_gpt(), tied_gpt()
    other.positions.weight.data = other.positions.weight.data.t().contiguous().t()
    for name, each in (("a", model), ("b", model), ("c", other)):
        save_model(each, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    save_model(tied_gpt(5), tmp_path / "d")
    assert (tmp_path / "d").read_bytes() != (tmp_path / "a").read_bytes()


def test_what_is_not_this_models_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """Missing, no safetensors, cut off, another shape, an unknown name, a name that lacks: each says which."""
    model = mlp()
    before, state = digest_of(model), mlp(3).state_dict()
    save_file(state, tmp_path / "whole")
    (tmp_path / "text").write_text("not a model")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-8])
    save_file({**state, "2.bias": torch.zeros(4)}, tmp_path / "shape")
    save_file({**state, "3.bias": torch.zeros(4)}, tmp_path / "unknown")
    save_file({name: t for name, t in state.items() if name != "2.bias"}, tmp_path / "lacks")
    for name, sentence in (
        ("nowhere", r"nowhere does not exist; name a run folder"),
        ("text", r"text can't be read as safetensors"),
        ("cut", r"cut can't be read as safetensors"),
        (".", r"can't be read as safetensors"),
        ("shape", r"shape: 2\.bias has shape \(4,\), the model expects \(3,\)"),
        ("unknown", r"unknown: 3\.bias has shape \(4,\), the model expects no such name"),
        ("lacks", r"lacks lacks 2\.bias, which the model has"),
    ):
        with pytest.raises(DataError, match=sentence):
            load_model(model, tmp_path / name)
        assert digest_of(model) == before
    load_model(model, tmp_path / "whole")
    assert digest_of(model) == digest_of(mlp(3))


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("old", [b"old", None])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    where: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the disk's own; the old file is whole, the part written aside is gone."""
    file = tmp_path / "model.safetensors"
    if old:
        file.write_bytes(old)
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[where], full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        save_model(mlp(), file)
    assert error.value.errno == errno.ENOSPC
    assert left_in(tmp_path) == (["model.safetensors"] if old else [])
    assert not old or file.read_bytes() == old


def test_an_interrupt_in_the_middle_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        assert left_in(tmp_path) != []
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"content")
    assert left_in(tmp_path) == []


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, flush, name, and then the folder's own flush: a reader sees the old file or the new one."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    (tmp_path / "a").write_bytes(b"old")

    def spying_fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(f"flush {'folder' if target == tmp_path else target.read_bytes().decode()}")
        fsync(descriptor)

    def spying_replace(path: Path, target: Path) -> Path:
        events.append(f"name over {target.read_bytes().decode()}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", spying_fsync)
    monkeypatch.setattr(Path, "replace", spying_replace)
    write_whole(tmp_path / "a", b"new")
    assert events == ["flush new", "name over old", "flush folder"]
    assert (tmp_path / "a").read_bytes() == b"new" and left_in(tmp_path) == ["a"]


def test_a_folder_that_is_not_there_is_the_disks_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no" / "a", b"content")
    assert left_in(tmp_path) == []
