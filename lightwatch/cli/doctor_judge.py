"""From findings to sentences: what was found, what was expected, and what to do. Pure; all thresholds are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .doctor_findings import Check, Findings, Verdict

if TYPE_CHECKING:
    from control.checkup import Contact, Doctor, Neighbour

CLOCK_S = 5.0
"""Clocks may be so far apart: what people compare, logs and the hour of a join line, is coarser."""
OF_DATA = ("data", "eval_data")
OF_MACHINE = ("lightwatch", "torch", "device", "machine", "cpu_capability", "environment")
"""What a script of the user's own has no part in."""
CURES = {
    "lightwatch": "install the same release on all",
    "torch": "install the same build on all",
    "cpu_capability": "unset ATEN_CPU_CAPABILITY here, or set it on all to what the oldest processor can",
    "environment": "set these variables to the same values on all",
    "probe": "one micro-batch gives other bits here, by another processor or library; leave this machine out, or train "
    'with reduction = "float"',
}


def judge(found: Findings) -> list[Check]:
    """The lines of the answer, in order. Each fault has a code."""
    checks = [*_control(found)]
    checks += [_fault(trouble.name, trouble.text) for trouble in found.troubles]
    if found.told is not None:
        checks += [*_versions(found), *_clock(found)]
    checks += [*_interface(found), *_disk(found)]
    if found.told is not None:
        checks += [*_proof(found), *_ports(found), *_links(found)]
    elif any(check.verdict is Verdict.FAULT for check in checks):
        text = "versions, clock, data, fingerprint and ports were not compared, for control told nothing"
        checks.append(Check("rest", Verdict.NOTE, text))
    return checks


def is_settled(found: Findings) -> bool:
    """Whether nothing that is still to come, from this machine or from one that was met, would change the answer."""
    if found.told is None or not found.proof.over:
        return False
    knocked = all((each.address, each.port) in found.knocks for each in found.told.neighbours)
    return knocked and all(other.done and _back(found, other) is not None for other in _here(found))


def takes_part(found: Findings) -> bool:
    """Whether spheres of this machine are in the run already: then what it would prove, they have proved."""
    own = {address for _, address in found.places}
    told = found.told
    return told is not None and bool(told.fingerprint) and any(each.address in own for each in told.neighbours)


def _here(found: Findings) -> list[Doctor]:
    """The others that this doctor has to do with: not one that was about to end when it was seen first."""
    return [other for other in found.met.values() if other.name in found.contacts or not other.leaves]


def _back(found: Findings, other: Doctor) -> Contact | None:
    """How the other one reached this machine, once it has tried."""
    return next((contact for contact in other.contacts if contact.doctor == found.name), None)


def _ok(name: str, text: str, about: str = "") -> Check:
    return Check(name, Verdict.OK, text, about)


def _note(name: str, text: str, about: str = "") -> Check:
    return Check(name, Verdict.NOTE, text, about)


def _fault(name: str, text: str, about: str = "") -> Check:
    return Check(name, Verdict.FAULT, text, about)


# ---------------------------------------------------------------- this machine and control


def _control(found: Findings) -> list[Check]:
    knock = found.at_control
    if knock is None:
        return []
    if knock.why:
        text = (
            f"{found.control} can't be reached from here: {knock.why}; see that `lightwatch up` runs there, that this "
            "is its address in a network of both, and that a firewall lets its port in [LW501]"
        )
        return [_fault("control", text)]
    if found.told is None:
        return []
    by = "this machine's own key" if found.enrolled else "the join line, which is not used up by that"
    return [_ok("control", f"answers at {found.control} in {_ms(knock.round_trip_s)}, by {by}")]


def _versions(found: Findings) -> list[Check]:
    assert found.told is not None
    checks = []
    for name in ("lightwatch", "torch", "python"):
        here, there = found.versions.get(name, ""), found.told.versions.get(name, "")
        if not here:
            checks.append(_fault("versions", f"{name} is not installed here; control has {there or 'none'} [LW506]"))
        elif not there or _release(name, here) == _release(name, there):
            continue
        elif name == "python":
            text = f"Python {here} here, {there} at control: that may be, but the standard library's source differs"
            checks.append(_note("versions", text))
        else:
            text = f"{name} {here} here, {there} at control; install the same on all: `pip install {name}=={there}`"
            checks.append(_fault("versions", f"{text} [LW506]"))
    if checks:
        return checks
    every = ", ".join(f"{name} {version}" for name, version in sorted(found.versions.items()))
    return [_ok("versions", f"{every}: as at control")]


def _release(name: str, version: str) -> str:
    """What has to be equal: a build's own mark, as in 2.9.1+cpu, is the fingerprint's affair."""
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def _clock(found: Findings) -> list[Check]:
    if found.clock is None:
        return []
    ahead_s = found.clock.here_s - found.clock.there_s
    apart = f"{abs(ahead_s):,.1f} s {'ahead of' if ahead_s > 0 else 'behind'} control's"
    if abs(ahead_s) - found.clock.uncertain_s > CLOCK_S:
        text = f"this machine's is {apart}; at most {CLOCK_S:g} s are expected: let NTP set both (chrony, timesyncd)"
        return [_fault("clock", f"{text} [LW705]")]
    return [_ok("clock", apart)]


def _interface(found: Findings) -> list[Check]:
    if not found.places:
        return []
    (name, address), *others = found.places
    why = "as was asked for" if found.wanted else "it leads to control"
    more = f"; others: {', '.join(f'{at} ({on})' for on, at in others)}" if others else ""
    return [_ok("interface", f"spheres here are reached at {address} ({name}): {why}{more}")]


def _disk(found: Findings) -> list[Check]:
    if found.disk is None:
        return []
    disk = found.disk
    free, need = f"{_mb(disk.free_bytes)} free under {disk.folder}", f"the run may keep {_mb(disk.need_bytes)} there"
    if disk.free_bytes < disk.need_bytes:
        return [_fault("disk", f"{free}, and {need}: free some space, or give a --dir on another disk [LW601]")]
    return [_ok("disk", f"{free}; {need}")]


# ---------------------------------------------------------------- fingerprint and data


def _proof(found: Findings) -> list[Check]:
    assert found.told is not None
    here = found.proof.fingerprint
    if takes_part(found):
        return [_ok("fingerprint", "not taken anew, for spheres of this machine take part: theirs is the run's")]
    if not here:
        if any(trouble.name in ("data", "fingerprint") for trouble in found.troubles):
            return []
        return [_note("fingerprint", "not told in time: many data, or a busy machine; try again with --wait 60")]
    if found.told.fingerprint:
        return _compared(found, "the run", found.told.fingerprint)
    wanted = [_data(found, "the run", {"data": found.data_wanted})] if found.data_wanted else []
    references = {_called(other): other.fingerprint for other in _here(found) if other.fingerprint}
    if not references:
        nobody = "nobody to compare with: no sphere, no other doctor"
        return [
            _note("fingerprint", f"{len(here)} fields, probe {here.get('probe', '')[:12]}; {nobody}"),
            *(wanted or [_note("data", f"hash {here.get('data', '')[:12]}; {nobody}")]),
        ]
    checks = [check for whose, there in references.items() for check in _compared(found, whose, there)]
    return [*wanted, *(check for check in checks if not wanted or check.name != "data")]


def _compared(found: Findings, whose: str, there: dict[str, str]) -> list[Check]:
    here = found.proof.fingerprint
    names = [*there, *(name for name in here if name not in there)]
    if here.get("layout") != there.get("layout") and here.get("lightwatch") == there.get("lightwatch"):
        names = [name for name in names if name in OF_MACHINE]
        text = (
            f"{whose} trains another model than its config says: a script of your own, so only the machine was compared"
        )
        checks = [_note("data", text, whose)]
    else:
        checks = [_data(found, whose, there)]
    apart = [name for name in names if name not in OF_DATA and here.get(name) != there.get(name)]
    if apart == ["probe"] and checks[0].verdict is Verdict.FAULT:
        apart = []  # other data give another gradient
    if not apart:
        text = f"{len(names)} fields and the probe as those of {whose}" if "probe" in names else f"as that of {whose}"
        return [_ok("fingerprint", text, whose), *checks]
    name = apart[0]
    others = f", and so differ {len(apart) - 1} more" if len(apart) > 1 else ""
    text = f"{name} is {here.get(name)!r} here and {there.get(name)!r} in {whose}{others}; the same bits need the same"
    return [_fault("fingerprint", f"{text} on all: {CURES.get(name, 'make it equal')} [LW403]", whose), *checks]


def _data(found: Findings, whose: str, there: dict[str, str]) -> Check:
    here = found.proof.fingerprint
    if all(here.get(name) == there[name] for name in OF_DATA if name in there):
        return _ok("data", f"hash {here.get('data', '')[:12]}, as that of {whose}", whose)
    what = found.data or "the standard library's source of this Python"
    text = f"{what} has another hash ({here.get('data', '')[:12]}) than {whose}'s data ({there.get('data', '')[:12]})"
    return _fault("data", f"{text}; name a copy of the same files with --data PATH [LW403]", whose)


# ---------------------------------------------------------------- between machines


def _ports(found: Findings) -> list[Check]:
    assert found.told is not None
    others = _here(found)
    checks = [check for other in others for check in _pair(found, other)]
    hosts: dict[str, list[Neighbour]] = {}
    for each in found.told.neighbours:
        hosts.setdefault(each.host, []).append(each)
    for host, spheres in hosts.items():
        checks += _spheres(found, host, spheres, tried=host in {other.host for other in others} | {found.machine})
    if not checks:
        text = "no other machine to try with: start `lightwatch doctor` there at the same time, or with --wait 60"
        checks = [_note("ports", text)]
    return checks


def _pair(found: Findings, other: Doctor) -> list[Check]:
    """Both directions between this machine and another one."""
    whose = _called(other)
    there, back = found.contacts.get(other.name), _back(found, other)
    if there is None or back is None:
        return [_note("ports", "it did not say in time how it reaches this machine; start both doctors again", whose)]
    wrong = [
        *_elsewhere(found.places, back.address, "here", whose),
        *_elsewhere(other.places, there.address, whose, "here"),
    ]
    if wrong:
        return [_fault("interface", f"{text} [LW408]", whose) for text in wrong]
    at, here = _place(other.places), _place(found.places)
    if there.address and back.address:
        return [_ok("ports", f"open in both directions, {here} and {at}", whose)]
    if there.address:
        text = f"{whose} can't reach this machine at {here}, which reaches it: let TCP ports in here from there"
        return [_fault("ports", f"closed in one direction: {text}, 1024 and up, in each firewall [LW408]", whose)]
    if back.address:
        text = f"this machine can't reach {whose} at {at}, which reaches it: let TCP ports in there from here"
        return [_fault("ports", f"closed in one direction: {text}, 1024 and up, in each firewall [LW408]", whose)]
    text = (
        f"closed in both directions between {here} here and {at} there: let TCP ports in, 1024 and up, in each firewall"
    )
    return [_fault("ports", f"{text}, or give the --interface of a network of both [LW408]", whose)]


def _elsewhere(places: list[tuple[str, str]], reached: str, where: str, whence: str) -> list[str]:
    """A machine that is reached, but not by the interface that its spheres would be reached by."""
    if not reached or not places or reached == places[0][1]:
        return []
    name = next((name for name, address in places if address == reached), "")
    told = f"{_place(places)} of {where} can't be reached from {whence}, but {reached} ({name}) can"
    return [f"{told}: give --interface {name} to `lightwatch join` {'there' if where != 'here' else 'here'}"]


def _spheres(found: Findings, host: str, spheres: list[Neighbour], tried: bool) -> list[Check]:
    """The spheres of one host, which are only connected to: nothing disturbs their steps."""
    if host != found.machine and any(_is_loopback(each.address) for each in spheres):
        each = next(each for each in spheres if _is_loopback(each.address))
        text = f"sphere {each.path} is to be reached at {each.address}, which leads to no other machine"
        return [
            _fault(
                "interface",
                f"{text}: start it with --interface, or with control's address in the network [LW408]",
                host,
            )
        ]
    closed = [(each, knock) for each in spheres if (knock := found.knocks.get((each.address, each.port))) and knock.why]
    if closed:
        each, knock = closed[0]
        text = f"sphere {each.path} can't be reached at {each.address} port {each.port}: {knock.why}; "
        return [_fault("ports", f"{text}let TCP ports in there from here, 1024 and up, in each firewall [LW408]", host)]
    astray = next(
        (each for each in spheres if (knock := found.knocks.get((each.address, each.port))) and knock.by_another), None
    )
    if astray is not None:
        text = f"from {_place(found.places)} no way leads to sphere {astray.path} at {astray.address} and back, though"
        cure = "one does from another interface here: give its name with --interface"
        return [_fault("interface", f"{text} {cure} [LW408]", host)]
    knocks = [found.knocks[each.address, each.port] for each in spheres if (each.address, each.port) in found.knocks]
    if not knocks:
        return [_note("ports", "its spheres came too late to be tried", host)]
    count = f"{len(knocks)} {'sphere' if len(knocks) == 1 else 'spheres'}"
    best_s = min(knock.round_trip_s for knock in knocks)
    checks = [_ok("ports", f"{count} of it can be reached from here, in {_ms(best_s)}", host)]
    if not tried:
        text = "whether it reaches this machine was not tried: start `lightwatch doctor` there at the same time"
        checks.append(_note("ports", text, host))
    return checks


def _links(found: Findings) -> list[Check]:
    checks = []
    for other in _here(found):
        there, back = found.contacts.get(other.name), _back(found, other)
        if there is None or not there.address:
            continue
        to, fro = there.bytes_per_s, back.bytes_per_s if back is not None else 0.0
        text = f"round trip {_ms(there.round_trip_s)}, {_rate(to)} from here, {_rate(fro)} to here"
        least = min((rate for rate in (to, fro) if rate), default=0.0)
        if least and found.step_bytes:
            text += f"; the sums of a step, {_mb(found.step_bytes)}, take {found.step_bytes / least:.2g} s at that"
        checks.append(_ok("link", text, _called(other)))
    return checks


# ---------------------------------------------------------------- words


def _called(other: Doctor) -> str:
    return f"{other.host} ({other.places[0][1]})" if other.places else other.host


def _place(places: list[tuple[str, str]]) -> str:
    return f"{places[0][1]} ({places[0][0]})" if places else "no address"


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e6:.3g} MB/s" if bytes_per_s else "not measured"
