"""The sentences that the source makes for people, and whether each ends with a code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

END = re.compile(r"\[LW[0-9]{3}\]\Z")

# Functions and classes that are handed a sentence: the parameter that takes it, and its place where it has one.
CARRIERS: dict[str, tuple[str, int | None]] = {
    "Answer": ("text", None),
    "Ended": ("reason", 0),
    "Failed": ("text", None),
    "Refusal": ("text", 0),
    "Refused": ("text", None),
    "Trouble": ("text", 1),
    "_end_at_once": ("reason", 0),
    "_fail": ("reason", 0),
    "_failure": ("reason", 0),
    "_fault": ("text", 1),
    "complain": ("text", 0),
    "print": ("", 0),  # to stderr alone
    "Unsound": ("reason", 0),
    "unsound": ("reason", 0),
}
# Functions that give a sentence back; one that has nothing to say gives "" or None.
SPEAKERS = {
    *("_compare", "_conflict_text", "_overdue", "_sentence", "_silence", "_trouble_of", "why_broken"),
    *("_why_not_sound", "found", "soundness", "told", "why_not_as_written", "why_not_equal", "_apart"),
    *("why", "_why", "_why_out_of_reach"),
    *("why_not_here", "_why_no_place", "why_not_allowed", "why_not_enrolled", "why_not_said", "why_refused"),
    "why_used_up",
}
# What a message, an event or a record holds was a whole sentence where it was made; so is what is kept as one.
KEPT = {"reason", "refused", "text"}
ASSIGNED = {"_amiss", "amiss"}
# An end that has control's reason, and a fault of our own.
WITHOUT_A_CODE = {"RunEnded", "IllegalMove"}
# Sentences of others, which are whole already, and words of no kind of trouble.
PASSED_ON = {
    ("control/decide.py", "begun"),  # of `rollcall.found`
    ("control/decide.py", "texts[0]"),  # the refusal itself
    ("control/process.py", "said[-1].removeprefix('control: ')"),  # control's own last words
    ("control/errors.py", 'f"control can\'t go on: {error}"'),  # a LedgerError
    ("lightwatch/cli/chaos.py", "pair.last_word('clean')"),  # of the command itself
    ("lightwatch/cli/chaos.py", "sentence"),  # of a report
    ("lightwatch/cli/crew.py", "item['why']"),  # a supervisor's own
    ("lightwatch/cli/doctor.py", "said['text']"),  # of the process that computes the fingerprint
    ("lightwatch/cli/join.py", "trouble"),  # of the crew, with their codes
    ("lightwatch/cli/main.py", "str(interrupted) or 'interrupted'"),
    ("spheres/launch.py", "leaving.code"),  # what a script gave to sys.exit
}

Around = tuple[ast.AST, ...]


@dataclass(frozen=True)
class Sentence:
    """An expression that people read, and what is around it: the file, functions, handlers, the innermost last."""

    node: ast.expr
    around: Around


def error_classes(trees: list[ast.Module]) -> set[str]:
    """The names of our exceptions: the two first ones and what is derived from them, in whatever file."""
    known = {"LightwatchError", "ControlError"}
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while True:
        more = {each.name for each in classes if {ast.unparse(base) for base in each.bases} & known}
        if more <= known:
            return known
        known |= more


def uncoded(tree: ast.Module, errors: set[str], file: str = "") -> list[str]:
    """Line and text of each sentence in a file that does not end with a code. errors: the names of our exceptions."""
    wrong = []
    for sentence in _sentences(tree, (tree,), errors):
        text = ast.unparse(sentence.node)
        if (file, text) not in PASSED_ON and not _is_coded(sentence.node, sentence.around, errors):
            wrong.append(f"{file}:{sentence.node.lineno}: {text}")
    return wrong


def _sentences(node: ast.AST, around: Around, errors: set[str]) -> Iterator[Sentence]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Call():
                yield from _handed_on(child, around, errors)
            case ast.Return(value=ast.Tuple(elts=[ast.Attribute(attr="KILL"), reason])):
                yield Sentence(reason, around)
            case ast.Return(value=ast.expr() as value) if _speaks(around) and not _is_other_type(value, errors):
                yield Sentence(value, around)
            case ast.Assign(targets=[ast.Attribute(attr=name)], value=value) if name in ASSIGNED:
                yield Sentence(value, around)
        inner = (*around, child) if isinstance(child, ast.FunctionDef | ast.ExceptHandler) else around
        yield from _sentences(child, inner, errors)


def _handed_on(call: ast.Call, around: Around, errors: set[str]) -> Iterator[Sentence]:
    name = _name(call.func)
    if name in errors - WITHOUT_A_CODE:
        yield from (Sentence(node, around) for node in call.args[:1])
    words = {word.arg: word.value for word in call.keywords}
    if name not in CARRIERS or (name == "print" and "stderr" not in ast.unparse(words.get("file", call.func))):
        return
    if name == "Answer" and isinstance(words["ok"], ast.Constant) and words["ok"].value is True:
        return
    parameter, place = CARRIERS[name]
    given = [words[parameter]] if parameter in words else call.args[place:][:1] if place is not None else []
    yield from (Sentence(node, around) for node in given)


def _speaks(around: Around) -> bool:
    functions = [each for each in around if isinstance(each, ast.FunctionDef)]
    return bool(functions) and functions[-1].name in SPEAKERS


def _is_other_type(value: ast.expr, errors: set[str]) -> bool:
    """Whether this makes an object, such as the event that a function gives if there is nothing to refuse."""
    return isinstance(value, ast.Call) and _name(value.func)[:1].isupper() and _name(value.func) not in errors


def _is_coded(node: ast.expr, around: Around, errors: set[str]) -> bool:
    """Whether what the expression gives ends with a code, as far as the source can tell; "" and None say nothing."""

    def so(*each: ast.expr) -> bool:
        return all(_is_coded(one, around, errors) for one in each)

    match node:
        case ast.Constant(value=None | ""):
            return True
        case ast.Constant(value=str(text)):
            return bool(END.search(text))
        case ast.JoinedStr(values=[*_, last]):
            return so(last)
        case ast.FormattedValue(value=value) | ast.BinOp(op=ast.Add(), right=value):
            return so(value)
        case ast.Subscript(value=value) | ast.ListComp(elt=value) | ast.Call(func=ast.Name(id="str"), args=[value]):
            return so(value)
        case ast.IfExp(body=one, orelse=other):
            return so(one, other)
        case ast.BoolOp(values=values):
            return so(*values)
        case ast.Attribute(attr=name):
            return name in KEPT | ASSIGNED
        case ast.Call(func=ast.Name(id="coded"), args=[_, code]):
            given = [code.body, code.orelse] if isinstance(code, ast.IfExp) else [code]
            return all(re.fullmatch("'LW[0-9]{3}'", ast.unparse(each)) for each in given)
        case ast.Call(func=function):
            return _name(function) in SPEAKERS | errors
        case ast.Name(id=name):
            return _is_coded_name(name, around, errors)
    return False


def _is_coded_name(name: str, around: Around, errors: set[str]) -> bool:
    """An error of ours that was caught, a carrier's own parameter, or a variable that is only ever given sentences."""
    for place in reversed(around):
        if isinstance(place, ast.ExceptHandler) and place.name == name:
            caught = place.type.elts if isinstance(place.type, ast.Tuple) else [place.type]
            return all(each is not None and _name(each) in errors for each in caught)
        if isinstance(place, ast.FunctionDef) and CARRIERS.get(place.name, ("", 0))[0] == name:
            return True
        if isinstance(place, ast.FunctionDef | ast.Module):
            inside = ast.walk(place) if isinstance(place, ast.FunctionDef) else place.body
            given = [value for node in inside for value in _given(node, name)]
            if given:
                return all(_is_coded(value, around, errors) for value in given)
    return False


def _given(node: ast.AST, name: str) -> list[ast.expr]:
    """What an assignment gives to this variable. A verdict is a move and its sentence."""
    match node:
        case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
            return [value]
        case ast.Assign(targets=[ast.Tuple(elts=[_, ast.Name(id=target)])], value=ast.Call(func=function)) if (
            target == name and _name(function) == "decide"
        ):
            return [ast.Constant(value="")]
    return []


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
