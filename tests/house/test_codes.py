"""Every sentence that refuses or reports a failure ends with a code, and every code has its paragraph."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house.sentences import error_classes, uncoded
from tests.house.source import PACKAGES, ROOT, python_files

PAGE = ROOT / "lightwatch" / "errors.md"
FILES = python_files(*PACKAGES)
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
ERRORS = error_classes(list(TREES.values()))


def shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def codes_of(tree: ast.Module) -> set[str]:
    """The codes in the texts of a file, well formed or not: in brackets, or alone. Docstrings don't count."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    return {code for text in texts for code in re.findall(r"(?<=\[)LW[^\]]*(?=\])|\ALW[^\s]+\Z", text)}


def mistakes(page: str, used: set[str]) -> list[str]:
    """What is wrong with a page of codes, given those that the source uses."""
    wrong, numbers, subject = [], [], ""
    for block in re.split(r"^(?=##)", page, flags=re.MULTILINE)[1:]:
        head, _, rest = block.partition("\n")
        if head.startswith("## "):
            subject = head.removeprefix("## ")[:1]
            continue
        number, _, title = head.removeprefix("### ").partition(" ")
        numbers.append(number)
        if not re.fullmatch(r"LW[0-9]{3}", number) or not title.strip():
            wrong.append(f"{head}: expected a number of three digits and a title")
        elif number[2] != subject:
            wrong.append(f"{number}: stands under subject {subject}")
        cause, _, cure = rest.strip().partition("\nCure: ")
        if not cause.startswith("Cause: ") or "\n\n" in rest.strip() or not cause[7:].strip() or not cure.strip():
            wrong.append(f"{number}: expected one paragraph, its Cause: and its Cure:")
    wrong += [f"{number}: stands on the page twice" for number in sorted(set(numbers)) if numbers.count(number) > 1]
    wrong += [f"{number}: missing from the page" for number in sorted(used - set(numbers))]
    wrong += [f"{number}: used nowhere" for number in sorted(set(numbers) - used)]
    return wrong if numbers == sorted(numbers) else [*wrong, "the numbers are not in order"]


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_every_sentence_ends_with_a_code(file: Path) -> None:
    """Whether raised, returned or sent."""
    assert not uncoded(TREES[file], ERRORS, shown(file))


def test_the_page_holds_exactly_the_codes_that_are_used() -> None:
    """Each once, under its subject, with its cause and its cure."""
    used = set[str]().union(*(codes_of(tree) for tree in TREES.values()))
    assert not mistakes(PAGE.read_text(encoding="utf-8"), used)


GOOD = """
class OurError(LightwatchError): pass

WHY = "always so [LW003]"

def f(self):
    raise OurError(f"{self} is wrong [LW001]")
    raise OurError("two parts " "in one [LW001]") from None
    raise OurError(WHY if self else self.message.text)
    return Refused(text=told(self))
    complain(coded("what", "LW002"))
    what = f"wrong: {self} [LW001]"
    raise OurError(what)
    try: pass
    except (OurError, LightwatchError) as error:
        raise OurError(f"{self}: {error}") from None
        raise OurError(str(error)) from None

def _fail(reason):
    return OurError(f"failed: {reason}")

def soundness(self) -> str | None:
    return None
    return "" if self else "unsound [LW304]"
"""
BAD = [
    'raise OurError("no code")',
    'raise OurError("[LW001] at the wrong end")',
    'raise OurError("malformed [LW01]")',
    'raise OurError(f"wrapped: {error}")',
    'raise OurError(f"{a} [LW001] and more {b}")',
    'raise OurError("one [LW001]" if a else "other")',
    "raise OurError(WHATEVER)",
    "def f(x):\n    x = 'one [LW001]'\n    x = 'other'\n    raise OurError(x)",
    "try: pass\nexcept (OurError, OSError) as error: raise OurError(str(error))",
    "send(Failed(text='no code', usage=True))",
    "def soundness(): return 'unsound'",
    "def decide(): return Do.KILL, 'no reason'",
    "print('no code', file=sys.stderr)",
    "Answer(ok=late, text='no code')",
    "complain(coded('what', ''))",
    "complain(coded('what', 'LW001' if a else b))",
]


def test_a_sentence_with_a_code_is_known_in_all_its_forms() -> None:
    """Also where it is passed on, or quotes another one at its end."""
    tree = ast.parse(GOOD)
    assert not uncoded(tree, error_classes([tree]))


@pytest.mark.parametrize("text", BAD)
def test_a_sentence_without_a_code_is_found(text: str) -> None:
    assert uncoded(ast.parse(text), {"OurError"})


PARAGRAPHS = """# Codes
## 0: one
### LW001 A title
Cause: this,
and that.
Cure: do it.
## 1: other
### LW101 Another
Cause: this.
Cure: do it.
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("LW001", "LW01", "three digits"),
        ("LW001", "LW102", "not in order"),
        ("LW101", "LW201", "under subject 1"),
        ("LW101 Another", "LW101", "title"),
        ("LW101", "LW001", "twice"),
        ("Cure: do it.", "", "LW101: expected"),
        ("Cause: this.", "Cause:", "LW101: expected"),
        ("this.\n", "this.\n\n", "one paragraph"),
        ("### LW101 Another", "Another", "LW101: missing"),
        ("## 1", "### LW002 More\nCause: a.\nCure: b.\n## 1", "LW002: used nowhere"),
    ],
)
def test_a_mistake_on_the_page_is_found(old: str, new: str, said: str) -> None:
    """Each of them by what is wrong."""
    assert not mistakes(PARAGRAPHS, {"LW001", "LW101"})
    before, _, after = PARAGRAPHS.rpartition(old)
    assert said in "\n".join(mistakes(before + new + after, {"LW001", "LW101"}))


def test_the_codes_of_a_file_are_those_in_its_texts() -> None:
    """In brackets or alone, malformed ones too; what a docstring tells of codes is no use of them."""
    tree = ast.parse('"""As [LW001]."""\nf(f"{a} wrong [LW002]", "LW003", "[LW4x]", "such as LW005")')
    assert codes_of(tree) == {"LW002", "LW003", "LW4x"}
