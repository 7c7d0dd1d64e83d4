"""What a doctor's findings mean: a sentence for each kind, with what was found, what is expected, and the cure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from control.checkup import CheckedUp, Contact, Doctor, Neighbour
from lightwatch.cli.doctor_findings import Check, Clock, Disk, Findings, Knock, Proof, Trouble, Verdict
from lightwatch.cli.doctor_judge import is_settled, judge
from lightwatch.errors import code_of

VERSIONS = {"lightwatch": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7"}
PRINT = {"lightwatch": "0.1.0", "torch": "2.13.0+cpu", "cpu_capability": "AVX512", "layout": "l", "config.seed": "1"}
PRINT |= {"data": "d" * 64, "eval_data": "e" * 64, "probe": "p" * 64}
MINE = [("eth0", "10.0.0.2"), ("eth1", "10.9.0.2")]
THEIRS = [("eth0", "10.0.0.1"), ("eth1", "10.9.0.1")]
TOLD = CheckedUp(versions=VERSIONS, clock_s=1000.0)
OTHER = Doctor(
    name="b",
    host="lab-1",
    places=THEIRS,
    port=5000,
    key="k",
    fingerprint=PRINT,
    done=True,
    contacts=[Contact(doctor="a", address="10.0.0.2", round_trip_s=0.002, bytes_per_s=4e6)],
)
SPHERE = Neighbour(path="lab-1/0", host="lab-1", address="10.0.0.1", port=6000)


def findings(**changes: Any) -> Findings:
    """Of a machine with which nothing is wrong, and another one that it met."""
    good = Findings(
        control="tcp://10.0.0.1:5555",
        machine="lab-2",
        versions=dict(VERSIONS),
        name="a",
        run_id="run",
        at_control=Knock(0.001),
        told=TOLD,
        clock=Clock(1000.0, 1000.0, 0.01),
        disk=Disk("/runs", 10**9, 10**8),
        proof=Proof(dict(PRINT), over=True),
        step_bytes=8_000_000,
        places=MINE,
        contacts={"b": Contact(doctor="b", address="10.0.0.1", round_trip_s=0.002, bytes_per_s=2e6)},
        met={"b": OTHER},
    )
    return replace(good, **changes)


def faults(found: Findings) -> list[Check]:
    return [check for check in judge(found) if check.verdict is Verdict.FAULT]


def the_fault(found: Findings, name: str, *words: str, code: str) -> None:
    """It is the only one, and holds these words."""
    (check,) = faults(found)
    assert check.name == name and code_of(check.text) == code, check
    for word in words:
        assert word in check.text, check.text


def other(**changes: Any) -> Doctor:
    return msgspec.structs.replace(OTHER, **changes)


def print_with(**changes: str) -> dict[str, str]:
    return {**PRINT, **{name.replace("__", "."): value for name, value in changes.items()}}


def test_a_machine_with_which_nothing_is_wrong_is_told_so_on_every_point() -> None:
    """One line each, and what a step costs on the link: its bytes by the slower direction."""
    checks = judge(findings())
    assert {check.verdict for check in checks} == {Verdict.OK}
    names = [check.name for check in checks]
    assert names == [
        *("control", "versions", "clock", "interface", "disk", "fingerprint", "data", "ports", "link"),
    ]
    assert "round trip 2.0 ms, 2 MB/s from here, 4 MB/s to here" in checks[-1].text
    assert "8.0 MB, take 4 s" in checks[-1].text


def test_control_that_is_not_reached_is_named_and_nothing_is_compared() -> None:
    found = findings(at_control=Knock(why="connection refused"), told=None)
    the_fault(found, "control", "tcp://10.0.0.1:5555", "connection refused", "firewall", code="LW501")
    assert judge(found)[-1].name == "rest"


@pytest.mark.parametrize(("name", "code"), [("lightwatch", "LW506"), ("torch", "LW506")])
def test_another_version_is_named_with_both_and_how_to_install_it(name: str, code: str) -> None:
    found = findings(versions={**VERSIONS, name: "9.9.9"})
    the_fault(found, "versions", f"{name} 9.9.9", VERSIONS[name], f"pip install {name}=={VERSIONS[name]}", code=code)


def test_another_build_of_torch_is_the_fingerprints_affair_and_another_python_is_a_note() -> None:
    assert not faults(findings(versions={**VERSIONS, "torch": "2.13.0+cu130", "python": "3.12.1"}))
    notes = [check for check in judge(findings(versions={**VERSIONS, "python": "3.12.1"})) if check.name == "versions"]
    assert [check.verdict for check in notes] == [Verdict.NOTE] and "3.12.1" in notes[0].text
    control_without_torch = msgspec.structs.replace(TOLD, versions={"lightwatch": "0.1.0", "python": "3.11.7"})
    assert not faults(findings(told=control_without_torch))


def test_a_machine_without_torch_is_told_so() -> None:
    versions = {"lightwatch": "0.1.0", "python": "3.11.7"}
    the_fault(findings(versions=versions), "versions", "torch is not installed", code="LW506")


@pytest.mark.parametrize(("here_s", "words"), [(4600.0, "3,600.0 s ahead"), (-2600.0, "3,600.0 s behind")])
def test_a_clock_that_is_off_by_an_hour_is_named_with_its_direction(here_s: float, words: str) -> None:
    the_fault(findings(clock=Clock(here_s, 1000.0, 0.01)), "clock", words, "NTP", code="LW705")


def test_a_slow_answer_is_no_clock_that_is_off() -> None:
    """What the question took bounds what can be known."""
    assert not faults(findings(clock=Clock(1020.0, 1000.0, 16.0)))
    assert faults(findings(clock=Clock(1020.0, 1000.0, 14.0)))


def test_a_disk_without_room_is_named_with_both_figures() -> None:
    the_fault(findings(disk=Disk("/runs", 10**6, 10**8)), "disk", "1.0 MB free", "100.0 MB", "--dir", code="LW601")


@pytest.mark.parametrize("field", ["cpu_capability", "config.seed", "probe"])
def test_another_fingerprint_is_named_by_its_first_field_with_both_values(field: str) -> None:
    """Against the run's first sphere, and where there is none yet, against each other doctor."""
    here = Proof({**PRINT, field: "other"}, over=True)
    words = (field, "'other'", PRINT[field], "same bits")
    the_fault(findings(proof=here), "fingerprint", *words, "lab-1", code="LW403")
    of_run = msgspec.structs.replace(TOLD, fingerprint=PRINT)
    the_fault(findings(proof=here, told=of_run), "fingerprint", *words, "the run", code="LW403")


def test_other_data_are_named_once_and_the_probe_that_follows_from_them_is_not() -> None:
    here = Proof(print_with(data="x" * 64, probe="y" * 64), over=True)
    the_fault(findings(proof=here, data="/my/text"), "data", "/my/text", "x" * 12, "--data", code="LW403")


def test_data_are_held_against_the_config_before_any_sphere_has_come() -> None:
    """Whose are the run's is not to blame for another machine's; with nobody else there, they are compared all the
    same."""
    wrong = print_with(data="x" * 64, eval_data="x" * 64, probe="y" * 64)
    here = Proof(wrong, over=True)
    among = findings(proof=here, data="/my/text", data_wanted="d" * 64)
    for odd in (among, replace(among, met={}, contacts={})):
        the_fault(odd, "data", "/my/text", "x" * 12, "the run's data (dddddddddddd)", "--data", code="LW403")
    assert not faults(findings(met={"b": other(fingerprint=wrong)}, data_wanted="d" * 64))


def test_where_the_run_is_of_a_script_only_the_machine_is_compared() -> None:
    """What the config says is not what is trained there."""
    told = msgspec.structs.replace(TOLD, fingerprint=print_with(layout="m", config__seed="2", data="x", probe="y"))
    assert not faults(findings(told=told))
    told.fingerprint["cpu_capability"] = "DEFAULT"
    the_fault(findings(told=told), "fingerprint", "cpu_capability", code="LW403")


def test_a_fingerprint_that_did_not_come_in_time_is_a_note() -> None:
    checks = judge(findings(proof=Proof()))
    assert [check.verdict for check in checks if check.name == "fingerprint"] == [Verdict.NOTE]
    told = findings(proof=Proof(over=True), troubles=[Trouble("data", "no such file [LW101]")])
    the_fault(told, "data", "no such file", code="LW101")


CLOSED = Contact(doctor="b")
HEARD_NOTHING = other(contacts=[Contact(doctor="a")])


def test_a_port_that_is_closed_in_one_direction_is_named_with_the_direction() -> None:
    """Whose firewall it is follows from it."""
    out = findings(contacts={"b": CLOSED})
    the_fault(out, "ports", "one direction", "this machine can't reach lab-1", "10.0.0.1", "let TCP", code="LW408")
    back = findings(met={"b": HEARD_NOTHING})
    the_fault(back, "ports", "one direction", "lab-1 (10.0.0.1) can't reach this machine at 10.0.0.2", code="LW408")
    both = findings(contacts={"b": CLOSED}, met={"b": HEARD_NOTHING})
    the_fault(both, "ports", "both directions", "--interface", code="LW408")


def test_the_wrong_interface_is_named_with_the_right_one() -> None:
    """Here or there: the other machine reaches it at another address than its spheres would be told."""
    here = findings(met={"b": other(contacts=[Contact(doctor="a", address="10.9.0.2")])})
    the_fault(here, "interface", "10.0.0.2 (eth0) of here", "--interface eth1", code="LW408")
    there = findings(contacts={"b": Contact(doctor="b", address="10.9.0.1")})
    the_fault(there, "interface", "10.0.0.1 (eth0) of lab-1", "--interface eth1", "there", code="LW408")


def test_an_interface_that_is_none_is_told_in_the_words_of_who_looked() -> None:
    found = findings(places=[], troubles=[Trouble("interface", "--interface 'x': none [LW508]")], met={}, contacts={})
    the_fault(found, "interface", "none", code="LW508")


def with_sphere(knock: Knock, sphere: Neighbour = SPHERE, **changes: Any) -> Findings:
    told = msgspec.structs.replace(TOLD, neighbours=[sphere])
    return findings(told=told, knocks={(sphere.address, sphere.port): knock}, **changes)


def test_a_sphere_that_can_not_be_reached_is_named() -> None:
    the_fault(with_sphere(Knock(why="no answer within 2 s")), "ports", "lab-1/0", "no answer", "6000", code="LW408")
    the_fault(with_sphere(Knock(0.1, by_another=True)), "interface", "lab-1/0", "10.0.0.2", "--interface", code="LW408")
    lost = Neighbour(path="lab-1/0", host="lab-1", address="127.0.0.1", port=6000)
    the_fault(with_sphere(Knock(0.1), lost), "interface", "127.0.0.1", "no other machine", code="LW408")


def test_what_was_not_tried_is_said() -> None:
    """From a machine with spheres but no doctor nobody came here; and with nobody at all nothing can be tried."""
    alone = with_sphere(Knock(0.1), met={}, contacts={})
    assert not faults(alone)
    assert [check.text for check in judge(alone) if check.verdict is Verdict.NOTE and "was not tried" in check.text]
    (nobody,) = [check for check in judge(findings(met={}, contacts={})) if check.name == "ports"]
    assert nobody.verdict is Verdict.NOTE and "at the same time" in nobody.text
    mute = findings(met={"b": other(contacts=[])})
    assert [check.verdict for check in judge(mute) if check.name == "ports"] == [Verdict.NOTE]


def test_whose_spheres_take_part_has_proved_itself() -> None:
    """No fingerprint is taken anew: that would cost their steps."""
    mine = Neighbour(path="lab-2/0", host="lab-2", address="10.0.0.2", port=6000)
    told = msgspec.structs.replace(TOLD, fingerprint=print_with(probe="z"), neighbours=[mine])
    assert not faults(findings(told=told, knocks={("10.0.0.2", 6000): Knock(0.1)}))


def test_a_doctor_stays_until_nothing_more_can_come() -> None:
    """Neither for itself nor for the other; one that was about to end when it was seen is not waited for."""
    assert is_settled(findings())
    assert not is_settled(findings(told=None))
    assert not is_settled(findings(proof=Proof()))
    assert not is_settled(findings(met={"b": other(done=False)}))
    assert not is_settled(findings(met={"b": other(contacts=[])}))
    assert not is_settled(findings(told=msgspec.structs.replace(TOLD, neighbours=[SPHERE])))
    assert is_settled(with_sphere(Knock(why="no answer")))
    ghost = other(name="c", leaves=True, done=False)
    assert is_settled(findings(met={"b": OTHER, "c": ghost}))
    assert len(judge(findings(met={"b": OTHER, "c": ghost}))) == len(judge(findings()))
