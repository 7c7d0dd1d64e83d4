"""A checkpoint is found if it is whole, and refused by name if one bit of it is not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lightwatch.checkpoints import (
    Attempt,
    checkpoints_in,
    chosen,
    give_up,
    named_folder,
    newest_whole,
    prune,
    step_folder,
    sweep,
    why_damaged,
)
from lightwatch.errors import ConfigError, DataError
from lightwatch.manifest import Manifest, as_bytes, read_manifest, sha256_of_file, why_not_whole, write_manifest
from lightwatch.parts import PIECE_ELEMENTS, manifest_of, read_state, share_of, state_digest, write_part
from lightwatch.snapshot import Snapshot


def state(version: int = 3, seed: int = 1) -> Snapshot:
    """All dtypes, shapes from nothing to more than one piece, and facts such as a replica's."""
    generator = torch.Generator().manual_seed(seed + version)
    tensors: dict[str, Tensor] = {
        "parameters.big": torch.randn(PIECE_ELEMENTS * 2 + 5, generator=generator),
        "parameters.row": torch.randn(3, 5, generator=generator),
        "parameters.one": torch.randn((), generator=generator),
        "buffers.none": torch.zeros(0, 4),
        "buffers.count": torch.tensor(version),
        "hidden.flags": torch.tensor([True, False, True]),
        "optimizer.half": torch.randn(7, generator=generator).bfloat16(),
        "optimizer.wide": torch.randn(9, generator=generator).double(),
        "optimizer.bytes": torch.arange(11, dtype=torch.uint8),
    }
    facts = {"exponents": [3, 4], "optimizer": {"dict": [["lr", 0.1]]}, "position": [0, version, 0, 0]}
    return Snapshot(tensors, facts)


def write(folder: Path, snapshot: Snapshot, *, run: str = "run", count: int = 1, mark: str = "m") -> Manifest:
    """A checkpoint as `count` writers make it, who know nothing of each other but their number."""
    version = snapshot.facts["position"][1]
    attempt = Attempt(folder, run, mark)
    folder.mkdir(parents=True, exist_ok=True)
    shares = [share_of(snapshot, index, count) for index in range(count)]
    files = [write_part(share, folder, attempt.part(index, count)) for index, share in enumerate(shares)]
    told = {"version": version, "lineage": snapshot.facts["position"][0]}
    told |= {"control": '{"generation": [1, 2]}', "spheres": ({"path": "0/1"},)}
    manifest = manifest_of(attempt, shares[-1], files, snapshot.digest(), told)
    write_manifest(folder, manifest)
    return manifest


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(one: Snapshot, other: Snapshot) -> bool:
    """To the bit, in every tensor and fact."""
    return (
        one.facts == other.facts
        and one.tensors.keys() == other.tensors.keys()
        and all(
            tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])
            for name, tensor in one.tensors.items()
        )
    )


# ------------------------------------------------------------ parts


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_a_state_is_put_together_whoever_wrote_it_in_how_many_parts(count: int, tmp_path: Path) -> None:
    """The same state, the same two digests, whatever the number of writers; each file is what hashlib says."""
    snapshot = state()
    manifest = write(tmp_path / "c", snapshot, count=count)
    found = read_state(tmp_path / "c", read_manifest(tmp_path / "c"))
    assert same(found, snapshot)
    assert manifest.state_digest == state_digest(snapshot) and manifest.digest == snapshot.digest()
    for file in manifest.files:
        content = (tmp_path / "c" / file.name).read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_shares_are_about_equal_and_memory_of_their_own() -> None:
    snapshot = Snapshot({f"parameters.{n}": torch.zeros(PIECE_ELEMENTS) for n in range(12)}, {})
    shares = [share_of(snapshot, index, 4) for index in range(4)]
    assert [sum(flat.numel() for _, flat in share.held.values()) for share in shares] == [3 * PIECE_ELEMENTS] * 4
    for tensor in snapshot.tensors.values():
        tensor.fill_(1)
    assert all(float(flat.sum()) == 0 for share in shares for _, flat in share.held.values())


@pytest.mark.parametrize("count", [1, 3])
def test_a_share_over_another_one_is_what_it_would_be_in_new_memory(count: int, tmp_path: Path) -> None:
    """Also where a tensor has become another one, or the other share was of another place."""
    older, newer = state(3), state(4)
    older.tensors["optimizer.half"] = torch.zeros(7)
    older.tensors["optimizer.wide"] = torch.zeros(2).double()
    for index in range(count):
        over = share_of(older, (index + 1) % count, count)
        one, other = share_of(newer, index, count, over), share_of(newer, index, count)
        assert write_part(one, tmp_path, "part") == write_part(other, tmp_path, "part")


def test_a_share_takes_the_memory_of_one_that_is_over() -> None:
    """A training asks the system for a copy's memory once, not at each save."""
    first = share_of(state(3))
    second = share_of(state(4), over=first)
    assert all(second.held[name][1] is flat for name, (_, flat) in first.held.items())


def test_a_part_is_a_file_that_the_safetensors_library_reads(tmp_path: Path) -> None:
    """One writer's part has each tensor under its own name, in its own shape."""
    snapshot = state()
    part = write_part(share_of(snapshot), tmp_path, "part.safetensors")
    with safe_open(tmp_path / part.name, framework="pt") as file:
        assert set(file.keys()) == set(snapshot.tensors)
        for name, tensor in snapshot.tensors.items():
            assert file.get_tensor(name).shape == tensor.shape and torch.equal(file.get_tensor(name), tensor)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_part(share_of(state()), tmp_path, name) for name in ("a", "b"))
    assert one.sha256 == other.sha256
    assert write_part(share_of(state(4)), tmp_path, "c").sha256 != one.sha256


@pytest.mark.parametrize(
    "what", ["parameters.row", "optimizer.half", "hidden.flags", "buffers.count", "exponents", "version"]
)
def test_a_state_digest_is_of_all_that_the_next_step_depends_on(what: str) -> None:
    """And not of the order in force, which may be told in other words."""
    snapshot, other = state(), state()
    if what == "exponents":
        other.facts["exponents"] = [3, 5]
    elif what == "version":
        other.facts["position"] = [0, 4, 0, 0]
    else:
        other.tensors[what].reshape(-1).view(torch.uint8)[0] ^= 1
    assert state_digest(snapshot) != state_digest(other)
    other = state()
    other.facts["position"], other.facts["in_force"] = [2, 3, 0, 0], 7
    assert state_digest(snapshot) == state_digest(other)


def test_a_dtype_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.x is of dtype complex128"):
        share_of(Snapshot({"optimizer.x": torch.zeros(2, dtype=torch.complex128)}))


def test_a_part_that_lacks_is_named(tmp_path: Path) -> None:
    """A manifest that names one part twice, and not the other: what is missing is said, and nothing is given."""
    manifest = write(tmp_path / "c", state(), count=2)
    write_manifest(tmp_path / "c", dataclasses.replace(manifest, files=manifest.files[:1] * 2))
    with pytest.raises(DataError, match="its parts do not hold all of"):
        read_state(tmp_path / "c", read_manifest(tmp_path / "c"))


def test_a_manifest_of_more_than_its_parts_hold_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    manifest = write(tmp_path / "c", state())
    for shape in ((1 << 40,), (-1, 3)):
        tensors = {**manifest.tensors, "parameters.row": ("float32", shape)}
        write_manifest(tmp_path / "c", dataclasses.replace(manifest, tensors=tensors))
        with pytest.raises(DataError, match=r"its parts have .* bytes, its tensors would need"):
            read_state(tmp_path / "c", read_manifest(tmp_path / "c"))


# ------------------------------------------------------------ the manifest


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """And its hash, which control keeps, is that of the file."""
    manifest = write(tmp_path / "c", state(), count=2)
    assert read_manifest(tmp_path / "c") == manifest
    assert write_manifest(tmp_path / "c", manifest) == sha256_of_file(tmp_path / "c" / "manifest.json")
    assert (tmp_path / "c" / "manifest.json").read_bytes() == as_bytes(manifest)


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "c", state())
    file = tmp_path / "c" / "manifest.json"
    file.write_text(file.read_text().replace("checkpoint 1", "checkpoint 999"))
    with pytest.raises(DataError, match=r"format 'checkpoint 999', expected 'checkpoint 1'.*LW605"):
        read_manifest(tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"format": NaN}', b"[" * 100_000, b"\xff", b'"x"'])
def test_what_is_no_manifest_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json is"):
        read_manifest(tmp_path)


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    """Its sha256 is right: whoever made it up knew the form."""
    manifest = write(tmp_path / "c", state())
    elsewhere = dataclasses.replace(manifest, files=(manifest.files[0]._replace(name="../x"),))
    write_manifest(tmp_path / "c", elsewhere)
    with pytest.raises(DataError, match="another folder"):
        read_manifest(tmp_path / "c")


@pytest.mark.parametrize("count", [1, 3])
def test_every_flip_and_every_cut_of_every_file_is_found_and_named(count: int, tmp_path: Path) -> None:
    """50 random flips and 20 cuts of each: that checkpoint is refused by a sentence with the file's name, and the
    older one is taken."""
    rng = random.Random(count)
    write(tmp_path / "step-2", state(2))
    write(tmp_path / "step-3", state(3), count=count)
    for file in sorted((tmp_path / "step-3").iterdir()):
        whole = file.read_bytes()
        places = [rng.randrange(len(whole)) for _ in range(49)] + [len(whole) - 1]
        damaged = [whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :] for at in places]
        damaged += [whole[: rng.randrange(len(whole))] for _ in range(19)] + [b""]
        for content in damaged:
            file.write_bytes(content)
            found = newest_whole(tmp_path)
            assert found.manifest is not None and found.manifest.version == 2
            assert len(found.skipped) == 1 and str(file) in found.skipped[0] and "[LW605]" in found.skipped[0]
        file.unlink()
        assert newest_whole(tmp_path).path == tmp_path / "step-2"
        file.write_bytes(whole)
    assert newest_whole(tmp_path).path == tmp_path / "step-3" and not newest_whole(tmp_path).skipped


# ------------------------------------------------------------ the folder


def test_the_newest_is_that_of_the_newest_lineage(tmp_path: Path) -> None:
    """A restore opens a lineage at an older version; what was made before it is past."""
    write(tmp_path / "step-9", state(9))
    restored = state(5)
    restored.facts["position"] = [1, 5, 0, 0]
    write(tmp_path / "step-5", restored)
    assert newest_whole(tmp_path).path == tmp_path / "step-5"
    assert [found.path.name for found in checkpoints_in(tmp_path)] == ["step-9", "step-5"]


def test_those_of_another_run_are_neither_taken_nor_removed_nor_written_over(tmp_path: Path) -> None:
    write(tmp_path / "step-3", state(3), run="theirs")
    assert step_folder(tmp_path, 3, "ours") == tmp_path / "step-3-ours"
    assert step_folder(tmp_path, 3, "theirs") == step_folder(tmp_path / "new", 3, "ours").parent.parent / "step-3"
    for version in (1, 2, 3):
        write(step_folder(tmp_path, version, "ours"), state(version), run="ours")
    with pytest.raises(DataError, match=r"several runs \(ours, theirs\).*LW606"):
        newest_whole(tmp_path)
    assert newest_whole(tmp_path, "theirs").path == tmp_path / "step-3"
    assert prune(tmp_path, "ours", 1) == [tmp_path / "step-1", tmp_path / "step-2"]
    assert names_in(tmp_path) == ["step-3", "step-3-ours"]


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert checkpoints_in(folder) == [] and newest_whole(folder).path is None
        with pytest.raises(DataError, match=r"no whole checkpoint to go on from: it holds none \[LW606\]"):
            chosen(folder)


def test_the_one_that_is_named_is_chosen_if_it_is_whole(tmp_path: Path) -> None:
    for version in (1, 2):
        write(tmp_path / f"step-{version}", state(version))
    assert chosen(tmp_path / "step-1").path == tmp_path / "step-1"
    assert chosen(tmp_path).path == tmp_path / "step-2"
    next((tmp_path / "step-1").glob("run-*")).unlink()
    with pytest.raises(DataError, match=r"run-m-1-of-1\.safetensors is not there"):
        chosen(tmp_path / "step-1")


def test_every_damaged_one_is_told_apart(tmp_path: Path) -> None:
    """Also those that nobody would take: a sentence for each that is damaged."""
    for version in (1, 2, 3):
        write(tmp_path / f"step-{version}", state(version))
    assert [why_damaged(found) for found in checkpoints_in(tmp_path)] == [None] * 3
    (tmp_path / "step-1" / "manifest.json").write_text("{")
    part = next((tmp_path / "step-2").glob("run-*"))
    part.write_bytes(part.read_bytes()[:-1])
    first, second, third = (why_damaged(found) for found in checkpoints_in(tmp_path))
    assert first and "step-1" in first and second and str(part) in second and third is None


@pytest.mark.parametrize(("most", "left"), [(0, 6), (2, 2), (6, 6), (9, 6)])
def test_as_many_stay_as_were_asked_for(most: int, left: int, tmp_path: Path) -> None:
    for version in range(1, 7):
        write(tmp_path / f"step-{version}", state(version))
    write(tmp_path / "best", state(2))
    gone = prune(tmp_path, "run", most)
    assert names_in(tmp_path) == ["best", *(f"step-{version}" for version in range(7 - left, 7))]
    assert {path.name for path in gone} == {f"step-{version}" for version in range(1, 7 - left)}


def test_the_newest_whole_one_is_never_removed(tmp_path: Path) -> None:
    """Two are kept, and both are damaged: a third stays, the newest that is not."""
    for version in range(1, 6):
        write(tmp_path / f"step-{version}", state(version))
    for version in (4, 5):
        part = next((tmp_path / f"step-{version}").glob("run-*"))
        part.write_bytes(b"x" + part.read_bytes()[1:])
    prune(tmp_path, "run", 2)
    assert names_in(tmp_path) == ["step-3", "step-4", "step-5"]
    assert newest_whole(tmp_path).path == tmp_path / "step-3"


def test_what_dead_saves_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    """Parts without a manifest, those of an earlier save of the same version, what lay aside; not another run's, not
    the save's that is being written, not what a user put there."""
    write(tmp_path / "step-1", state(1), mark="old")
    write(tmp_path / "step-1", state(1), mark="new")
    (tmp_path / "step-1" / ".manifest.json.77").write_text("half")
    for name in ("run-dead-1-of-2.safetensors", ".run-dead-2-of-2.safetensors.77"):
        (tmp_path / "step-2").mkdir(exist_ok=True)
        (tmp_path / "step-2" / name).write_bytes(b"x")
    (tmp_path / "step-3").mkdir()
    (tmp_path / "step-4").mkdir()
    kept = ["run-now-1-of-2.safetensors", ".run-now-2-of-2.safetensors.88", "theirs-x-1-of-1.safetensors", "notes.txt"]
    for name in [*kept, "run-dead-1-of-1.safetensors"]:
        (tmp_path / "step-4" / name).write_bytes(b"x")
    sweep(tmp_path, "run", Attempt(tmp_path / "step-4", "run", "now"))
    assert names_in(tmp_path) == ["step-1", "step-4"]
    assert names_in(tmp_path / "step-1") == ["manifest.json", "run-new-1-of-1.safetensors"]
    assert names_in(tmp_path / "step-4") == sorted(kept)
    assert newest_whole(tmp_path).path == tmp_path / "step-1"


def test_a_save_that_is_given_up_takes_only_its_own_away(tmp_path: Path) -> None:
    """The older checkpoint in the same folder stays whole; a folder that becomes empty goes."""
    write(tmp_path / "step-1", state(1), mark="old")
    for folder in ("step-1", "step-2"):
        attempt = Attempt(tmp_path / folder, "run", "now")
        attempt.path.mkdir(exist_ok=True)
        for name in (attempt.part(), f".{attempt.part(1, 2)}.99"):
            (attempt.path / name).write_bytes(b"x")
        give_up(attempt)
        give_up(attempt)
    assert names_in(tmp_path) == ["step-1"]
    assert names_in(tmp_path / "step-1") == ["manifest.json", "run-old-1-of-1.safetensors"]


def test_a_writer_that_gives_up_takes_its_own_part_alone_and_the_next_sweep_the_rest(tmp_path: Path) -> None:
    """Another may be writing its part, or be about to: it would take the loss for a fault of its own disk."""
    attempt = Attempt(tmp_path / "step-1", "run", "now")
    attempt.path.mkdir()
    (attempt.path / f".{attempt.part(1, 2)}.99").write_bytes(b"x")
    give_up(attempt, attempt.part(1, 2))
    assert names_in(attempt.path) == []
    write_part(share_of(state(1), 0, 2), attempt.path, attempt.part(0, 2))
    (attempt.path / f".{attempt.part(0, 2)}.98").write_bytes(b"x")
    give_up(attempt, attempt.part(1, 2))
    assert names_in(attempt.path) == [f".{attempt.part(0, 2)}.98", attempt.part(0, 2)]
    sweep(tmp_path, "run")
    assert names_in(tmp_path) == []


def test_a_later_manifest_decides_which_parts_count(tmp_path: Path) -> None:
    """Two saves of one version, by others and in other numbers, into the same folder."""
    write(tmp_path / "step-1", state(1), mark="g1", count=3)
    write(tmp_path / "step-1", state(1), mark="g2", count=2)
    manifest = read_manifest(tmp_path / "step-1")
    assert [file.name for file in manifest.files] == [f"run-g2-{n}-of-2.safetensors" for n in (1, 2)]
    assert why_not_whole(tmp_path / "step-1", manifest) is None
    assert same(read_state(tmp_path / "step-1", manifest), state(1))


def test_a_copied_folder_is_the_same_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "a" / "step-1", state(1))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    newest = newest_whole(tmp_path / "b")
    assert newest.path is not None and newest.manifest is not None
    assert same(read_state(newest.path, newest.manifest), state(1))
    assert str(tmp_path) not in json.dumps(json.loads((newest.path / "manifest.json").read_text()))


@pytest.mark.parametrize("name", ["", ".hidden", "step-7", "a/b", "..", "x" * 65, "a b"])
def test_a_name_that_no_folder_should_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a checkpoint's name must be"):
        named_folder(tmp_path, name)
    assert named_folder(tmp_path, "best-1.0_x") == tmp_path / "best-1.0_x"
