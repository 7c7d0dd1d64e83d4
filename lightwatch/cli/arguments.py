"""What can be typed: the commands, their flags, and one sentence for each mistake.

argparse and not tyro: `--help` must come in under 0.3 s also beside a run that takes every core. Measured on an idle
machine, the whole process: argparse 0.04 s, tyro 0.17 s; and a mistake is to be answered by one sentence, not a panel.
"""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from ..errors import ConfigError
from ..trace import STEPS, WARM

LOG_LEVELS = ("debug", "info", "warning", "error")
DEFAULT_TREE = "2x2"
NEAR = 0.7
"""How alike two words are whose letters were mixed up, or of which one was left out; 1: the same."""
_WHERE = "a run's folder, made by train or run (default: the newest under ./runs)"
_PROFILE_HELP = (
    f"write what each sphere does in {STEPS} steps from version {WARM} on, earlier if the run ends before, "
    "to DIR/profile/, for ui.perfetto.dev or chrome://tracing"
)
_LISTEN_HELP = "where control listens, tcp://127.0.0.1:PORT; beyond this machine if --out DIR has keys"
_TREE_HELP = "the spheres: N, AxB… like 2x2, or path:N,… like eu/a:2,us/b:1; 1 is one process without control"


class Parser(argparse.ArgumentParser):
    """Raises ConfigError with one sentence instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        sentence = re.sub(r"^argument (\S+): ", lambda found: f"{found[1].split('/')[0]}: ", message)
        raise ConfigError(f"{_with_what_is_near(sentence)}; see `{self.prog} --help` [LW001]")


def _with_what_is_near(sentence: str) -> str:
    """Argparse's sentence about a word that is none of those to choose from; where one or two of them are near, with
    these alone."""
    found = re.fullmatch(r"(.*)invalid choice: '(.*)' \(choose from (.*)\)", sentence, re.DOTALL)
    if found is None:
        return sentence
    from difflib import get_close_matches

    choices = [word.strip("'") for word in found[3].split(", ")]  # bare in later Pythons
    near = get_close_matches(found[2], choices, n=2, cutoff=NEAR)
    return f"{found[1]}there is no '{found[2]}', perhaps {' or '.join(near)} is meant" if near else sentence


def build_parser(version: str) -> Parser:
    """The whole command line. Values that a config field judges stay as they are typed, but for their type."""
    parser = Parser(prog="lightwatch", description="Train one model on a tree of processes: the same bits on any tree.")
    parser.add_argument("--version", action="version", version=f"lightwatch {version}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_train(_command(commands, "train", "train the byte-level GPT on text"))
    for question, help_text in (
        ("status", "show how a run stands"),
        ("tree", "show a run's tree, with what each sphere does"),
        ("health", "show which spheres compute, wait, are stuck or lost"),
        ("stats", "show what was done at and under each node of the tree"),
        ("events", "tell a run's story as it goes on, until its end"),
    ):
        _add_where(_command(commands, question, help_text))
    for order, help_text in (
        ("pause", "pause a run after the step it is in"),
        ("resume", "let a paused run go on"),
        ("stop", "end a run after the step it is in, keeping the model"),
        ("rebalance", "deal the micro-batches anew, by how fast each sphere was"),
    ):
        _add_where(_command(commands, order, help_text))
    checkpoint = _command(commands, "checkpoint", "save a run's next version, and wait until it is on the disk")
    _add_where(checkpoint)
    name_help = "of its folder; such a one is never pruned (default: step-<version>)"
    checkpoint.add_argument("--name", metavar="NAME", default="", help=name_help)
    restore = _command(commands, "restore", "take a run that goes on back to one of its checkpoints")
    _add_where(restore)
    restore.add_argument("--name", metavar="NAME", default="", help="of its folder (default: the newest)")
    drain = _command(commands, "drain", "have a sphere leave: the others take its work, and nothing is computed twice")
    _add_path(drain, "of the sphere in the tree, or of a node for all below it")
    _add_terms(commands)
    _add_sample(_command(commands, "sample", "let a trained model write"))
    _add_run(_command(commands, "run", "run your own script on a tree"))
    _add_chaos(_command(commands, "chaos", "train twice, once with faults, and compare the bits"))
    _add_verify(_command(commands, "verify", "check what a run left: its ledger, its files, and steps made again"))
    _add_checkpoints(_command(commands, "checkpoints", "list, verify, export or prune what a run has saved"))
    _add_up(_command(commands, "up", "start control for a run, and print the line by which machines join it"))
    _add_join(_command(commands, "join", "start this machine's spheres for a run, by the line that `up` printed"))
    _add_doctor(_command(commands, "doctor", "check whether this machine fits a run, by the line that `up` printed"))
    _add_keys(_command(commands, "keys", "say which machines may connect to a run's control"))
    _add_explain(_command(commands, "explain", "say what causes and cures an error, by its code"))
    return parser


def parse(argv: list[str], version: str) -> argparse.Namespace:
    """Read the command line. Raises ConfigError; SystemExit only for --help and --version."""
    parser = build_parser(version)
    found, unknown = parser.parse_known_args(argv)
    parser.prog = f"{parser.prog} {found.command or ''}".rstrip()  # whose help a mistake points to
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if found.command is None:
        parser.error("a command is missing: train, status, stop, sample, run, chaos, checkpoints…; --help has them all")
    if "flagged_path" in found:
        _settle_path(found, parser)
    return found


def _command(commands: argparse._SubParsersAction[Parser], name: str, text: str) -> Parser:
    return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)


def _add_debug(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: a --debug before the command must not be undone by the default of the one behind it.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")


def _add_launch(parser: argparse.ArgumentParser, tree: str) -> None:
    parser.add_argument("--tree", metavar="T", default=None, help=f"{_TREE_HELP} (default: {tree})")
    parser.add_argument("--out", metavar="DIR", default=None, help="the run's folder, new or empty (default: runs/…)")
    parser.add_argument("--listen", metavar="ADDRESS", default=None, help=_LISTEN_HELP)
    parser.add_argument("--profile", action="store_true", help=_PROFILE_HELP)
    _add_talk(parser)


def _add_talk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="stdout is one line, the summary; all else goes to stderr")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--log-level", metavar="L", type=_log_level, default="warning", help=", ".join(LOG_LEVELS))
    _add_debug(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_job(parser)
    parser.add_argument("--resume", metavar="DIR", default=None, help="go on with the run in DIR, as it was begun")
    override_help = "with --resume: what is given otherwise counts from there on, as far as it may: --steps"
    parser.add_argument("--override", action="store_true", help=override_help)
    _add_launch(parser, DEFAULT_TREE)


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", metavar="N", type=_whole, default=None, help="end at version N")
    parser.add_argument("--data", metavar="PATH", default=None, help="a text file, a folder or a glob")
    parser.add_argument("--seed", metavar="S", type=_whole, default=None, help="decides v0, order and dropout")
    parser.add_argument("--config", metavar="FILE", default=None, help="a TOML file; flags go over it")
    parser.add_argument("--reduction", metavar="R", default=None, help="exact (default) or float")
    parser.add_argument("--device", metavar="D", default=None, help="cpu (default), cuda, or auto: cuda where it is")


def _add_up(parser: argparse.ArgumentParser) -> None:
    _add_job(parser)
    wait_help = "the first step waits for so many spheres, wherever they are; others may come later (default: 1)"
    parser.add_argument("--wait-for", metavar="N", type=_whole, default=1, help=wait_help)
    machines_help = "how many machines the join line lets in; 0: no line is printed (default: 16)"
    parser.add_argument("--machines", metavar="N", type=_whole, default=16, help=machines_help)
    dir_help = "the run's folder; if it holds a run, that goes on (default: a new one, runs/…)"
    parser.add_argument("--dir", metavar="DIR", default=None, help=dir_help)
    listen_help = "where control listens, tcp://HOST:PORT (default: on all addresses, at a free port)"
    parser.add_argument("--listen", metavar="ADDRESS", default=None, help=listen_help)
    _add_talk(parser)


def _add_join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("line", metavar="LINE", help="what `lightwatch up` or `lightwatch keys token` has printed")
    spheres_help = "how many here (default: one per GPU, else one per `threads` cores)"
    parser.add_argument("--spheres", metavar="N", type=_whole, default=None, help=spheres_help)
    at_help = "this machine's place in the tree, like eu/lab-3 (default: the host's name)"
    parser.add_argument("--at", metavar="PATH", default=None, help=at_help)
    interface_help = "by which other machines' spheres reach these (default: the one that leads to control)"
    parser.add_argument("--interface", metavar="IF", default="", help=interface_help)
    data_help = "where the data is on this machine, if elsewhere than on control's; other content is refused"
    parser.add_argument("--data", metavar="PATH", default="", help=data_help)
    parser.add_argument("--dir", metavar="DIR", default="", help="a folder for the run (default: runs/RUN)")
    parser.add_argument("--quiet", action="store_true", help="say only how it ended")
    _add_debug(parser)
    script_help = "in a run of your own script: that, and its arguments; all that follows is theirs"
    parser.add_argument("--script", metavar="SCRIPT", nargs=argparse.REMAINDER, default=[], help=script_help)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "line", metavar="LINE", help="the join line, which is not used up; start it on all machines at once"
    )
    wait_help = "seconds to wait for the doctor of another machine (default: 5)"
    parser.add_argument("--wait", metavar="S", type=_whole, default=5, help=wait_help)
    for flag, metavar in (("--interface", "IF"), ("--data", "PATH"), ("--dir", "DIR")):
        parser.add_argument(flag, metavar=metavar, default="", help="as for `lightwatch join`")
    parser.add_argument("--json", action="store_true", help="stdout is one line, an object with all that was found")
    _add_debug(parser)


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", nargs="?", default=None, help=_WHERE)
    parser.add_argument("--control", metavar="ADDRESS", default=None, help="control's address, tcp://HOST:PORT")
    parser.add_argument("--key", metavar="FILE", default=None, help="this machine's key (default: its own for the run)")
    parser.add_argument("--json", action="store_true", help="stdout is JSON alone: one line, of events one a line")
    _add_debug(parser)


def _add_path(parser: argparse.ArgumentParser, help_text: str) -> None:
    """A path, by its place before DIR or by its flag: `_settle_path` sees to it that one of them was given."""
    parser.add_argument("path", metavar="PATH", nargs="?", default=None, help=help_text)
    _add_where(parser)
    parser.add_argument(
        "--path",
        metavar="PATH",
        dest="flagged_path",
        default=None,
        help="in place of PATH; what stands alone is then DIR",
    )


def _settle_path(found: argparse.Namespace, parser: Parser) -> None:
    """With the flag what stands alone is DIR."""
    if found.flagged_path is not None:
        if found.dir is not None:
            parser.error(f"unrecognized arguments: {found.dir}")
        found.dir, found.path = found.path, found.flagged_path
    if found.path is None:
        parser.error("the following arguments are required: PATH")
    del found.flagged_path


def _add_terms(commands: argparse._SubParsersAction[Parser]) -> None:
    """What takes a word of its own."""
    terminate = _command(commands, "terminate", "end one sphere of a run for good; the others go on without it")
    _add_path(terminate, "where it is in the tree")
    spawn = _command(commands, "spawn", "have a sphere again where one was terminated")
    _add_path(spawn, "where it is to be in the tree")
    rate = _command(commands, "lr", "give the schedule another base learning rate")
    rate.add_argument("--rate", metavar="RATE", type=float, required=True, help="a number above 0")
    _add_where(rate)
    wait = _command(commands, "wait", "wait until a run has a version, or is in a state")
    one = wait.add_mutually_exclusive_group(required=True)
    one.add_argument("--version", metavar="N", type=_count, default=None, help="this one, or a later one")
    states = ("initializing", "running", "paused", "stopping", "stopped")
    one.add_argument("--state", choices=states, default=None, help="what it is to be")
    wait.add_argument("--timeout", metavar="S", type=_seconds, default=3600.0, help="seconds at most (default: 3600)")
    _add_where(wait)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="a run's folder")
    parser.add_argument("--prompt", metavar="TEXT", default="def ", help="the text it goes on from (default: 'def ')")
    parser.add_argument("--length", metavar="N", type=_whole, default=400, help="bytes to write (default: 400)")
    parser.add_argument("--seed", metavar="S", type=_whole, default=0, help="another seed, another text")
    _add_debug(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_launch(parser, DEFAULT_TREE)
    parser.add_argument("script", metavar="SCRIPT", help="a Python file that builds a Trainer and calls train()")
    rest = parser.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER, help="handed to the script")
    rest.required = False  # else argparse asks for it beside a SCRIPT that is missing


def _add_chaos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tree", metavar="T", default=DEFAULT_TREE, help=f"{_TREE_HELP} (default: {DEFAULT_TREE})")
    parser.add_argument("--steps", metavar="N", type=_whole, default=60, help="of each run (default: 60)")
    parser.add_argument("--seed", metavar="S", type=_whole, default=1, help="of the run and of its faults (default: 1)")
    parser.add_argument("--data", metavar="PATH", default=None, help="a text file, a folder or a glob")
    parser.add_argument("--config", metavar="FILE", default=None, help="a TOML file; flags go over it")
    for flag, count, what in (
        ("--sphere-kills", 10, "spheres killed by SIGKILL"),
        ("--supervisor-kills", 1, "supervisors killed, each with its sphere"),
        ("--template-kills", 1, "kills of the template that spheres are forked from"),
        ("--control-kills", 3, "kills of control"),
        ("--both-kills", 1, "kills of a sphere and control at once"),
        ("--stops", 3, "SIGSTOPs of 0.1 to 10 s, of spheres, control, supervisors, the template in turn"),
        ("--joins", 2, "spheres that join at a new path"),
        ("--save-kills", 2, "kills of a sphere or control in the middle of a checkpoint"),
        ("--blackouts", 0, "kills of all spheres at once; else one that holds the state is always left"),
    ):
        parser.add_argument(flag, metavar="N", type=_whole, default=None, help=f"{what} (default: {count})")
    parser.add_argument(
        "--crash-point", metavar="P", default=None, help="NAME[@WHO][#N]; the counts are then 0 by default"
    )
    parser.add_argument(
        "--list-crash-points", action="store_true", help="say where a process can be made to die, and end"
    )
    parser.add_argument(
        "--out", metavar="DIR", default=None, help="gets clean/ and chaos/; new or empty (default: runs/…)"
    )
    parser.add_argument("--json", action="store_true", help="stdout is one line, the report; all else goes to stderr")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    _add_debug(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="a run's folder")
    steps_help = "compare these versions with a replay, which begins at version 0"
    parser.add_argument("--steps", metavar="A:B", type=_span, default=None, help=steps_help)
    sample_help = "replay the first N versions, 0 for none (default: 20)"
    parser.add_argument("--sample", metavar="N", type=_whole, default=None, help=sample_help)
    parser.add_argument("--json", action="store_true", help="stdout is one line, an object with all that was found")
    _add_debug(parser)


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    whats = parser.add_subparsers(dest="what", metavar="list|verify|export|prune", parser_class=Parser, required=True)
    dir_help = "a run's folder, a folder of checkpoints, or a single one"
    for what, text in (
        ("list", "show the checkpoints that are there"),
        ("verify", "hash every byte again; exit code 1 if a checkpoint is not what was written"),
        ("export", "write model.safetensors and config.json, which other tools read"),
        ("prune", "remove the oldest ones, but never the newest whole one, nor those with a name of their own"),
    ):
        command = _command(whats, what, text)
        command.add_argument("dir", metavar="DIR", help=dir_help)
        if what == "export":
            command.add_argument("--to", metavar="FOLDER", required=True, help="where they go")
            command.add_argument("--step", metavar="N", type=_whole, help="that of version N (default: the newest)")
        elif what == "prune":
            command.add_argument("--keep", metavar="N", type=_whole, required=True, help="how many of a run stay")
        else:
            command.add_argument("--json", action="store_true", help="stdout is one line, an object with all found")
        _add_debug(command)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    whats = parser.add_subparsers(dest="what", metavar="new|list|revoke|token", parser_class=Parser, required=True)
    for what, text in (
        ("new", "draw a machine's key and allow it; the first one gives the run its keys"),
        ("list", "show who is allowed, and who was revoked"),
        ("revoke", "throw a machine out, at once and for good"),
        ("token", "print a join line, which enrols machines within an hour"),
    ):
        command = _command(whats, what, text)
        command.add_argument("dir", metavar="DIR", nargs="?", default=None, help=_WHERE)
        if what == "new":
            command.add_argument("--name", metavar="NAME", required=True, help="of the machine")
            role_help = "sphere (default) takes part, client gives orders, watcher looks"
            command.add_argument("--role", choices=("sphere", "client", "watcher"), default="sphere", help=role_help)
            command.add_argument("--out", metavar="FILE", default=None, help="the key file (default: NAME.key)")
        elif what == "revoke":
            command.add_argument("name", metavar="NAME", help="of the machine")
        elif what == "token":
            machines_help = "how many machines it lets in (default: 1)"
            command.add_argument("--machines", metavar="N", type=_whole, default=1, help=machines_help)
            control_help = "control's address as those machines reach it, tcp://HOST:PORT (default: where it listens)"
            command.add_argument("--control", metavar="ADDRESS", default=None, help=control_help)
        _add_debug(command)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    code_help = "as it stands in brackets at the end of a sentence; its digits do (default: list all)"
    parser.add_argument("code", metavar="CODE", nargs="?", default=None, help=code_help)
    _add_debug(parser)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text):  # int() would also take ' 1_0' and other scripts' digits
        raise argparse.ArgumentTypeError(f"expected a whole number, got {_short(text)}")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {_short(text)}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # a NaN is not
        raise argparse.ArgumentTypeError(f"expected seconds, a number of at least 0, got {_short(text)}")
    return seconds


def _span(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected A:B, two versions such as 0:20, got {_short(text)}")
    return int(found[1]), int(found[2])


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"expected {', '.join(LOG_LEVELS)}, got {_short(text)}")
    return text.lower()


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:37] + "...")
