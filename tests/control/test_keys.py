"""A run's folder of keys: what is in it, who can read it, and that a revoked key never comes in again."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from control.config import Settings, check_listen
from control.errors import AddressError, KeyFileError
from control.keyfile import KeyFile, Pair, fits, found_key, is_public, own_key, read_key
from control.keys import Keys, Machine
from control.roles import Role

FOLDERS, SECRETS = ("keys", "allowed", "local"), ("control.key", "sphere.key", "client.key")
MODES = dict.fromkeys(FOLDERS, 0o700) | dict.fromkeys(SECRETS, 0o600)


def keys_of(folder: Path) -> Keys:
    return Keys.made(folder)


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask says; and control's two halves belong together."""
    before = os.umask(0)
    try:
        keys = keys_of(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [keys.folder, *keys.folder.rglob("*")]}
    assert {name: modes[name] for name in MODES} == MODES
    assert fits(keys.pair) and (keys.folder / "control.pub").read_text().strip() == keys.pair.public
    assert keys.pair.secret not in repr(keys.pair)


def test_keys_are_made_once(tmp_path: Path) -> None:
    """The second call finds those of the first; so does one after a beginning that was cut short."""
    keys = keys_of(tmp_path)
    assert not list(keys.folder.glob("*.new"))
    pair, allowed = keys.pair, keys.allowed()
    assert (keys_of(tmp_path).pair, keys_of(tmp_path).allowed()) == (pair, allowed)
    os.rename(keys.folder / "control.key", keys.folder / "control.new")
    (keys.folder / "local" / "client.key").unlink()
    again = keys_of(tmp_path)
    assert again.pair == pair and read_key(keys.folder / "local" / "client.key").public in again.allowed()


def test_the_folders_own_machine_has_a_key_for_each_role(tmp_path: Path) -> None:
    """They are allowed like anybody's, and can be revoked like anybody's."""
    keys = keys_of(tmp_path)
    for role in ("sphere", "client"):
        key = found_key(tmp_path, role)
        assert key is not None and key.control == keys.pair.public
        assert keys.allowed()[key.public].role is Role(role)


def test_a_new_key_is_allowed_by_its_public_half_alone(tmp_path: Path) -> None:
    """The secret is in the key file and nowhere in the run's folder."""
    keys = keys_of(tmp_path)
    key = keys.new("lab-3", Role.SPHERE, run_id="run", address="tcp://h:1")
    assert keys.allowed()[key.public].name == "lab-3"
    assert all(key.secret.encode() not in path.read_bytes() for path in keys.folder.rglob("*") if path.is_file())
    key.write(tmp_path / "lab-3.key")
    assert read_key(tmp_path / "lab-3.key") == key
    with pytest.raises(FileExistsError):
        key.write(tmp_path / "lab-3.key")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", "a b", "é", "x" * 65])
def test_a_name_that_could_be_another_path_is_refused(tmp_path: Path, name: str) -> None:
    """For new ones and for revoking."""
    keys = keys_of(tmp_path)
    for act in (lambda: keys.new(name, Role.SPHERE), lambda: keys.revoke(name)):
        with pytest.raises(KeyFileError, match=r"\[LW541\]"):
            act()


def test_a_name_is_one_machines(tmp_path: Path) -> None:
    """The second hears so; where a name is only wished for, the next free one is given."""
    keys = keys_of(tmp_path)
    assert keys.free_name("lab") == "lab"
    keys.new("lab", Role.SPHERE)
    with pytest.raises(KeyFileError, match="there is a machine 'lab' already"):
        keys.new("lab", Role.CLIENT)
    assert keys.free_name("lab") == "lab-2"


def test_a_revoked_key_never_comes_in_again(tmp_path: Path) -> None:
    """Its name does, with another key; both are remembered as revoked."""
    keys = keys_of(tmp_path)
    first = keys.new("lab", Role.SPHERE)
    keys.revoke("lab")
    assert first.public not in keys.allowed() and first.public in keys.revoked()
    with pytest.raises(KeyFileError, match="was revoked once"):
        keys.allow(Machine(name="other", public=first.public, role=Role.SPHERE, since=""))
    second = keys.new("lab", Role.SPHERE)
    keys.revoke("lab")
    assert {first.public, second.public} <= set(keys.revoked())
    with pytest.raises(KeyFileError, match="there is no machine 'lab'; allowed are local-clients, local-spheres"):
        keys.revoke("lab")


def test_the_signature_changes_with_every_change(tmp_path: Path) -> None:
    """Also where a name stays and its file is another."""
    keys = keys_of(tmp_path)
    seen = [keys.signature()]
    for act in (
        lambda: keys.new("lab", Role.SPHERE),
        lambda: keys.revoke("lab"),
        lambda: keys.new("lab", Role.SPHERE),
        lambda: keys.revoke("lab"),
    ):
        act()
        assert keys.signature() not in seen
        seen.append(keys.signature())
    assert keys.signature() == seen[-1]


def test_no_machine_is_given_the_role_of_a_token(tmp_path: Path) -> None:
    """Nor a key that is none."""
    keys = keys_of(tmp_path)
    with pytest.raises(KeyFileError, match="no machine has the role enrolling"):
        keys.new("lab", Role.ENROLLING)
    with pytest.raises(KeyFileError, match="is no public key"):
        keys.allow(Machine(name="lab", public="x" * 40 + "\n", role=Role.SPHERE, since=""))


# ---------------------------------------------------------------- key files


def a_key(**fields: str) -> KeyFile:
    pair = Pair.draw()
    return KeyFile(
        **{"name": "n", "role": "sphere", "control": Pair.draw().public, "public": pair.public, "secret": pair.secret}
        | fields
    )


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """With what to do about it."""
    path = tmp_path / "a.key"
    a_key().write(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_key(path)


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[1]", b"null"])
def test_what_is_no_key_file_is_refused_by_its_path(tmp_path: Path, text: bytes) -> None:
    """As one that is not there."""
    path = tmp_path / "a.key"
    path.write_bytes(text)
    path.chmod(0o600)
    for each in (path, tmp_path / "none.key"):
        with pytest.raises(KeyFileError, match=f"{each.name}: .*LW541"):
            read_key(each)


def test_halves_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """A file that was edited, or half copied."""
    for number, key in enumerate((a_key(public=Pair.draw().public), a_key(control="x"), a_key(secret="y" * 40))):
        key.write(tmp_path / f"{number}.key")
        with pytest.raises(KeyFileError, match="damaged"):
            read_key(tmp_path / f"{number}.key")
    assert is_public(Pair.draw().public) and not is_public("short") and not is_public("é" * 40)


def test_a_machines_own_key_is_found_by_run_or_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's folder; the run's id decides where it is known, and a broken file of another run harms nobody."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert found_key(None, "sphere", run_id="r1") is None
    one, two = a_key(run_id="r1", address="tcp://h:1"), a_key(run_id="r2", address="tcp://h:2")
    own_key("r1", "sphere").parent.mkdir(parents=True)
    one.write(own_key("r1", "sphere"))
    two.write(own_key("r2", "sphere"))
    own_key("r3", "sphere").write_text("broken")
    assert found_key(None, "sphere", run_id="r2", address="tcp://h:1") == two
    assert found_key(None, "sphere", address="tcp://h:1") == one
    assert found_key(None, "sphere", address="tcp://h:9") is None
    assert found_key(None, "client", run_id="r1") is None
    with pytest.raises(KeyFileError):
        found_key(None, "sphere", run_id="r3")


# ---------------------------------------------------------------- where control may listen


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:*", "tcp://[::]:5", "tcp://10.0.0.1:5555", "tcp://lab-3:1"])
def test_control_leaves_the_machine_only_with_keys(tmp_path: Path, address: str) -> None:
    """Without them the sentence says how to get some."""
    with pytest.raises(AddressError, match="lightwatch keys new"):
        check_listen(address)
    with pytest.raises(AddressError, match="LW007"):
        Settings(folder=tmp_path, run_id="run", listen=address)
    keys_of(tmp_path)
    assert Settings(folder=tmp_path, run_id="run", listen=address).listen == address


def test_a_machine_of_another_release_is_not_guessed_at(tmp_path: Path) -> None:
    """A file that can't be read is an error, not a machine less."""
    keys = keys_of(tmp_path)
    (keys.folder / "allowed" / "odd").write_bytes(msgspec.json.encode({"name": "odd"}))
    with pytest.raises(KeyFileError, match="odd: can't be read"):
        keys.allowed()
