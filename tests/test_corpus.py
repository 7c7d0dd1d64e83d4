"""Finding text, setting some of it aside, and refusing what can't be trained on."""

from __future__ import annotations

import hashlib
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from lightwatch.corpus import Corpus, Source, is_held_out, is_there
from lightwatch.errors import DataError


def tree(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def many(folder: Path, count: int = 200) -> Path:
    """A folder of `count` files, each with its own bytes."""
    return tree(folder, **{f"d{n % 7}__f{n}.txt": f"file number {n}. ".encode() * 5 for n in range(count)})


def test_the_default_is_the_standard_library_without_its_tests() -> None:
    """The same files that a plain walk finds: *.py, no tests, nothing installed, whole files held out."""
    corpus = Corpus.read()
    names = {*corpus.files, *corpus.held_out_files}
    assert {"json/decoder.py", "asyncio/base_events.py", "os.py", "collections/__init__.py"} <= names
    banned = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "site-packages", "dist-packages", "__pycache__"}
    assert all(name.endswith(".py") for name in names)
    assert not [name for name in names if banned & set(name.split("/")) or "_sysconfigdata" in name]
    stdlib = Path(sysconfig.get_path("stdlib"))
    for name in ("json/decoder.py", "os.py"):
        content = (stdlib / name).read_bytes()
        assert content in (corpus.held_out if is_held_out(name) else corpus.text)
    assert len(names) > 300 and len(corpus.text) > 3_000_000
    assert 0.01 < len(corpus.held_out) / len(corpus.text) < 0.12
    assert corpus == Corpus.read("") and corpus.fingerprint == Corpus.read("").fingerprint


def test_whole_files_are_held_out_and_never_trained_on(tmp_path: Path) -> None:
    """The two parts share no file and together are all of them; about one in twenty is set aside."""
    corpus = Corpus.read(many(tmp_path, 1000), sequence_length=16)
    assert not set(corpus.files) & set(corpus.held_out_files)
    assert len(corpus.files) + len(corpus.held_out_files) == 1000
    assert 25 <= len(corpus.held_out_files) <= 85
    for name in corpus.held_out_files:
        assert (tmp_path / name).read_bytes() not in corpus.text
    expected = [b"".join((tmp_path / n).read_bytes() for n in part) for part in (corpus.files, corpus.held_out_files)]
    assert [corpus.text, corpus.held_out] == expected
    assert list(corpus.files) == sorted(corpus.files) and list(corpus.held_out_files) == sorted(corpus.held_out_files)


def test_which_files_are_held_out_depends_on_their_names_alone(tmp_path: Path) -> None:
    """The same names in another folder are split the same, and a file's fate does not change when others join."""
    one = Corpus.read(many(tmp_path / "a"), 16)
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")
    assert Corpus.read(tmp_path / "b" / "c", 16) == one
    tree(tmp_path / "a", zzz=b"one more")
    more = Corpus.read(tmp_path / "a", 16)
    assert set(one.held_out_files) <= set(more.held_out_files) and set(one.files) <= set(more.files)
    digest = hashlib.blake2b(b"d1/f1.txt", digest_size=8).digest()
    assert is_held_out("d1/f1.txt") == (int.from_bytes(digest, "little") % 20 == 0)


def test_a_single_file_gives_its_end(tmp_path: Path) -> None:
    """Its last 5% are evaluated, the rest trained on; nothing is lost."""
    text = bytes(range(1, 201)) * 50
    tree(tmp_path, one=text)
    corpus = Corpus.read(tmp_path / "one", 64)
    assert corpus.text + corpus.held_out == text and len(corpus.held_out) == len(text) // 20
    assert Corpus.read(tmp_path, 64) == corpus  # a folder with one file is that file


def test_nothing_is_held_out_where_a_part_would_hold_no_sample(tmp_path: Path) -> None:
    """A part shorter than sequence_length + 1 would be useless: then all is trained on."""
    tree(tmp_path, one=b"x" * 1299)  # 5% of it are 64 bytes
    assert len(Corpus.read(tmp_path / "one", 64).held_out) == 0 and len(Corpus.read(tmp_path / "one", 64).text) == 1299
    assert len(Corpus.read(tmp_path / "one", 63).held_out) == 64
    two = many(tmp_path / "two", 200)
    full = Corpus.read(two, 16)
    for name in full.files:  # only files that would be held out are left
        (two / name).unlink()
    left = Corpus.read(two, 16)
    assert left.held_out == b"" and left.text == full.held_out and left.held_out_files == ()


def test_in_a_folder_binary_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    """Files with NUL bytes are counted; hidden ones ignored, in hidden folders too; links to folders not followed."""
    tree(tmp_path, a=b"text " * 9, b__c=b"more " * 9, b__image=b"\x89PNG\0", other=b"\0", **{".git__config": b"secret"})
    tree(tmp_path, **{"b__.hidden": b"secret"})
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    corpus = Corpus.read(tmp_path, 8)
    assert corpus.text + corpus.held_out == b"text " * 9 + b"more " * 9
    assert corpus.skipped == 2 and "2 binary files left out" in str(corpus)


def test_a_pattern_finds_what_it_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob, with ** too; the names are counted from its folder, so it splits like that folder."""
    many(tmp_path, 100)
    tree(tmp_path, **{"d1__note.md": b"not this", "d2__binary.txt": b"\0"})
    corpus = Corpus.read(f"{tmp_path}/**/*.txt", 16)
    assert b"not this" not in corpus.text + corpus.held_out and corpus.skipped == 1
    assert {*corpus.files, *corpus.held_out_files} == {f"d{n % 7}/f{n}.txt" for n in range(100)}
    monkeypatch.chdir(tmp_path)
    assert Corpus.read("**/*.txt", 16) == corpus
    below = Corpus.read("d1/*.txt", 16)
    assert {*below.files, *below.held_out_files} == {f"f{n}.txt" for n in range(100) if n % 7 == 1}


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    """What exists is taken as it is."""
    tree(tmp_path, **{"a[1].txt": b"it " * 20, "a1.txt": b"no " * 20})
    assert Corpus.read(tmp_path / "a[1].txt", 8).text.startswith(b"it ")


def test_a_list_of_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """The order in the list is no matter; the result is a function of names and bytes."""
    many(tmp_path, 60)
    paths = sorted(tmp_path.rglob("*.txt"))
    corpus = Corpus.read(paths, 16)
    assert corpus == Corpus.read(list(reversed(paths)), 16) == Corpus.read(tmp_path, 16)


def test_the_fingerprint_is_of_the_bytes_and_of_their_split(tmp_path: Path) -> None:
    """Equal for a copy elsewhere; another for a changed byte, and for the same bytes split elsewhere."""
    tree(tmp_path, a__one=b"x" * 4000, b__one=b"x" * 4000, c__one=b"x" * 3999 + b"y")
    first, copy, changed = (Corpus.read(tmp_path / folder / "one", 16).fingerprint for folder in "abc")
    assert first == copy != changed and len(first) == 64
    assert Corpus.read(tmp_path / "a" / "one", 1000).fingerprint != first
    whole = (len(b"x" * 3800)).to_bytes(8, "little") + b"x" * 4000
    assert first == hashlib.sha256(whole).hexdigest()


def test_the_report_counts_files_and_bytes(tmp_path: Path) -> None:
    """One line for the log: counts, bytes, hash."""
    corpus = Corpus.read(many(tmp_path), 16)
    said = str(corpus)
    assert f"{len(corpus.files)} files, {len(corpus.text)} bytes" in said and corpus.fingerprint[:12] in said
    assert f"{len(corpus.held_out_files)} files, {len(corpus.held_out)} bytes held out" in said and "\n" not in said


def test_what_can_not_be_trained_on_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Missing, empty, binary, too short, a pipe, an empty folder, a pattern without a match: one line each."""
    tree(tmp_path, empty=b"", nul=b"abc\0def" * 99, short=b"x" * 128, fits=b"x" * 129, bin__a=b"\0", bin__b=b"\0")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    Corpus.read(tmp_path / "fits", 128)
    cases: list[tuple[Source, str]] = [
        (tmp_path / "missing", "missing' can't be read: No such file"),
        (tmp_path / "empty", "empty' holds no text"),
        (tmp_path / "nul", "nul' is not text: it has a NUL byte at 3"),
        (tmp_path / "short", "holds 128 bytes of text, a sample needs 129"),
        (tmp_path / "folder", "folder' holds no text"),
        (tmp_path / "bin", r"holds no text \(2 binary files left out\)"),
        (tmp_path / "pipe", "is not a file"),
        (tmp_path / "none*.txt", r"none\*.txt' holds no text"),
        (Path("/dev/zero"), "is not a file"),
        ("a\0b", "NUL character"),
        ("a\nb", r"'a\\nb' can't be read"),
        ("not UTF-8 \udcff", "can't be read"),
        ([], "list of 0 files holds no text"),
        ([tmp_path / "nul"], "NUL byte"),
        ([tmp_path / "folder"], "is not a file"),
    ]
    for source, words in cases:
        with pytest.raises(DataError, match=words) as caught:
            Corpus.read(source, 128)
        assert "\n" not in str(caught.value)
        str(caught.value).encode()


def test_a_file_that_can_not_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silently leaving it out would give another machine other data."""
    tree(tmp_path, a=b"x" * 200, b=b"y" * 200)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="a' can't be read: Permission denied"):
        Corpus.read(tmp_path, 16)


def test_a_folder_that_can_not_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.walk would pass over it without a word."""
    tree(tmp_path, a=b"x" * 200, inner__b=b"y" * 200)
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("inner"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="inner' can't be read: Permission denied"):
        Corpus.read(tmp_path, 16)


def test_a_name_that_is_not_utf8_is_read_like_any_other(tmp_path: Path) -> None:
    """Names are bytes on Linux; the split and the order must not trip over them."""
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.txt", "wb") as file:
        file.write(b"odd name " * 9)
    tree(tmp_path, plain=b"plain " * 9)
    corpus = Corpus.read(tmp_path, 8)
    assert len(corpus.text) + len(corpus.held_out) == 135


def test_whether_data_are_there_is_asked_of_their_name_alone(tmp_path: Path) -> None:
    """A file, a folder or a pattern that matches, whatever it holds; the standard library's source always is."""
    tree(tmp_path, a__b__nul=b"\0")
    for there in ("", str(tmp_path), str(tmp_path / "a" / "b" / "nul"), str(tmp_path / "**" / "n?l")):
        assert is_there(there)
    for absent in (str(tmp_path / "text"), str(tmp_path / "*.txt")):
        assert not is_there(absent)
