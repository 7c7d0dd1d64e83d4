"""From a join line to a machine that takes part, over real sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import zmq

from control.brief import brief
from control.enrol import enrol
from control.entrance import Enrol
from control.errors import KeyFileError, KeyRefused, NoAnswer
from control.keyfile import KeyFile, Pair, lock_to, own_key, read_key
from control.protocol import Ask, Hello, Welcome
from control.tokens import JoinLine, Tokens
from control.wire import encode
from lightwatch import config
from lightwatch.errors import ConfigError
from spheres.entry import enter_by_line
from tests.control.fakes import until
from tests.control.keyed import Keyed

pytestmark = pytest.mark.cluster


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keyed]:
    """The user's own folder is the test's: each file there is deleted to be another machine."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "run").mkdir()
    keyed = Keyed(tmp_path / "run")
    yield keyed
    keyed.close()


def line_of(run: Keyed, machines: int = 1, valid_s: float = 3600.0) -> JoinLine:
    token = Tokens(run.keys).new(time.time(), machines, valid_s)
    return JoinLine(run.address, "run", run.keys.pair.public, token)


def be_another_machine() -> None:
    own_key("run", "sphere").unlink()


def test_a_pasted_line_makes_a_machine_that_takes_part(run: Keyed) -> None:
    """Its key is its user's alone, control has the public half, and its spheres are welcome at once."""
    path = enrol(str(line_of(run)), name="lab-3")
    assert path == own_key("run", "sphere") and path.stat().st_mode & 0o777 == 0o600
    key = read_key(path)
    assert (key.name, key.role, key.run_id, key.address) == ("lab-3", "sphere", "run", run.address)
    assert run.keys.allowed()[key.public].name == "lab-3"
    sphere = run.sphere("0", key)
    sphere.hello()
    assert sphere.expect(Welcome).sphere == 1
    assert list(path.parent.iterdir()) == [path]


def test_the_line_pasted_again_on_the_same_machine_costs_nothing(run: Keyed) -> None:
    """It has its key for that run already."""
    line = str(line_of(run))
    before = enrol(line).read_bytes()
    assert enrol(line).read_bytes() == before
    assert len(run.keys.allowed()) == 3


def test_a_line_for_two_is_used_by_two_and_refused_to_the_third(run: Keyed) -> None:
    """Also by a control that was killed in between: a use is on the disk before anybody hears of it."""
    line = str(line_of(run, machines=2))
    enrol(line, name="box")
    be_another_machine()
    run.process.process.kill()
    run.process.process.wait()
    run.process.begin_again()
    assert read_key(enrol(line, name="box")).name == "box-2"
    be_another_machine()
    with pytest.raises(KeyRefused, match=r"used already, by box, box-2.*\[LW545\]"):
        enrol(line)


def test_who_missed_the_answer_asks_again_as_the_same_machine(run: Keyed) -> None:
    """The pair lies there from before the token was used; so it is used once."""
    line = line_of(run)
    path = enrol(str(line))
    key = read_key(path)
    path.unlink()
    path.with_suffix(".drawn").write_bytes(msgspec.json.encode(Pair(public=key.public, secret=key.secret)))
    assert read_key(enrol(str(line))).public == key.public


def test_a_line_is_refused_once_its_hour_is_over(run: Keyed) -> None:
    """At the handshake: who shows it is nobody any more."""
    with pytest.raises(KeyRefused, match=r"its hour is over.*\[LW545\]"):
        enrol(str(line_of(run, valid_s=0.0)))


def test_a_made_up_token_gets_nowhere(run: Keyed) -> None:
    """Though all else in the line is right, and another token is valid."""
    line = line_of(run)
    made_up = JoinLine(line.address, line.run_id, line.control, Pair.draw())
    with pytest.raises(KeyRefused, match="LW545"):
        enrol(str(made_up))
    assert len(run.keys.allowed()) == 2


def test_a_control_that_is_not_the_lines_gets_no_key_of_ours(run: Keyed) -> None:
    """Whoever took over the address can't prove that it is the one: nothing is sent to it."""
    line = line_of(run)
    other = JoinLine(line.address, line.run_id, Pair.draw().public, line.token)
    with pytest.raises((KeyRefused, NoAnswer)):
        enrol(str(other), timeout_s=5.0)
    assert len(run.keys.allowed()) == 2


def test_what_is_no_line_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(KeyFileError, match="no join line"):
        enrol("tcp://127.0.0.1:1/run")


def test_nobody_there_is_said_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    line = JoinLine("tcp://127.0.0.1:9", "run", Pair.draw().public, Pair.draw())
    began = time.monotonic()
    with pytest.raises(NoAnswer):
        enrol(str(line), timeout_s=0.5)
    assert time.monotonic() - began < 1.0


def test_a_token_opens_for_enrolling_and_for_nothing_else(run: Keyed) -> None:
    """No seat, no question; and the connection is closed once it has been answered."""
    line = line_of(run)
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    lock_to(dealer, line.control, line.token)
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.connect(line.address)
    try:
        dealer.send(encode(Hello(run_id="run", path="0", pid=1, host="here")))
        dealer.send(encode(Ask(request="r", what="stop")))
        assert dealer.poll(5000) and b"role enrolling may not ask" in dealer.recv()
        dealer.send(encode(Enrol(public=Pair.draw().public, name="lab")))
        assert dealer.poll(5000) and b"Enrolled" in dealer.recv()
        assert monitor.poll(5000)
    finally:
        dealer.disable_monitor()
        monitor.close(0)
        dealer.close(0)
        context.term()
    until(lambda: any("refused: a key with the role enrolling" in each for each in run.log))
    assert {machine.name for machine in run.keys.allowed().values()} == {"lab", "local-spheres", "local-clients"}


def test_a_machine_whose_key_was_revoked_comes_in_by_another_line_with_another_key(run: Keyed, tmp_path: Path) -> None:
    """Not by the line that it came by; and what it is told of the run is what control's folder says."""
    (run.folder / "config.toml").write_text("max_steps = 7\n")
    first, line = str(line_of(run)), str(line_of(run))
    came = enter_by_line(first, str(tmp_path / "here"))
    before = read_key(Path(came.key))
    run.keys.revoke(before.name)
    until(lambda: _is_refused(run.address, before))
    with pytest.raises(KeyRefused, match="LW545"):
        enter_by_line(first, str(tmp_path / "here"))
    again = enter_by_line(line, str(tmp_path / "here"))
    assert read_key(Path(again.key)).public != before.public
    assert again.run.training.max_steps == 7 and again.run_id == "run"


def _is_refused(address: str, key: KeyFile) -> bool:
    try:
        brief(address, key)
    except KeyRefused:
        return True
    return False


def test_many_that_enter_at_once_on_one_machine_are_one_machine(run: Keyed, tmp_path: Path) -> None:
    """As a torchrun starts them; the line is used once."""
    (run.folder / "config.toml").write_text("")
    line = str(line_of(run))
    with ThreadPoolExecutor(6) as threads:
        keys = {entry.key for entry in threads.map(lambda _: enter_by_line(line, str(tmp_path / "here")), range(6))}
    assert keys == {str(own_key("run", "sphere"))}
    assert len(run.keys.allowed()) == 3


def test_a_line_with_another_runs_name_is_refused_and_not_used_up(run: Keyed, tmp_path: Path) -> None:
    """Its key would be kept, and looked for, under that name."""
    (run.folder / "config.toml").write_text("")
    line = line_of(run)
    other = JoinLine(line.address, "another", line.control, line.token)
    with pytest.raises(KeyRefused, match=r"of run another, control at \S+ has run run.*\[LW545\]"):
        enter_by_line(str(other), str(tmp_path / "here"))
    assert not own_key("another", "sphere").exists() and len(run.keys.allowed()) == 2
    assert enter_by_line(str(line), str(tmp_path / "here")).run_id == "run"


def test_a_folder_of_another_run_is_not_written_into(run: Keyed, tmp_path: Path) -> None:
    (run.folder / "config.toml").write_text("")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "control.json").write_text('{"run_id": "another"}')
    with pytest.raises(ConfigError, match="folder of run another"):
        enter_by_line(str(line_of(run)), str(tmp_path / "here"))
    assert not (tmp_path / "here" / "config.toml").exists()


def test_a_folder_with_something_else_in_it_is_left_as_it_is(run: Keyed, tmp_path: Path) -> None:
    """A config of one's own would be written over."""
    (run.folder / "config.toml").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text("# mine\n")
    with pytest.raises(ConfigError, match=r"found config\.toml in it"):
        enter_by_line(str(line_of(run)), str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.toml"]
    assert (tmp_path / "mine" / "config.toml").read_text() == "# mine\n"


def test_a_machine_says_where_its_data_is(run: Keyed, tmp_path: Path) -> None:
    """Its own folder alone says so: control's config stays."""
    (run.folder / "config.toml").write_text("")
    entry = enter_by_line(str(line_of(run)), str(tmp_path / "here"), data=str(tmp_path / "text"))
    assert config.load(tmp_path / "here" / "config.toml", config.RunConfig()).data.path == str(tmp_path / "text")
    assert entry.run.data.path == str(tmp_path / "text") and (run.folder / "config.toml").read_text() == ""
