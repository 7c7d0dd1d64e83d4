"""A sphere's process: join the run, train what the run folder or a script says, and leave in good order."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from control import crash
from control.errors import KeyFileError
from control.keyfile import KeyFile, Pair, found_key, read_key
from control.protocol import Failed, Hello
from lightwatch import config, job
from lightwatch import sync as seam
from lightwatch.errors import ConfigError, DataError, LightwatchError, RunEnded, told
from lightwatch.saver import Home
from lightwatch.sync import Sick
from lightwatch.trace import Trace

from .address import network_stack, own_address
from .folder import Folder
from .graves import Worn
from .larder import Larder
from .launch import Pulse
from .link import START_ANEW, AdmissionRefused, Link, LinkBroken
from .post import Post
from .sync import TreeSync
from .writers import Saves

OPEN_S, OPEN_SUPERVISED_S = 30.0, 600.0
"""How long control is waited for; a supervised sphere may come while control is started anew."""
FAREWELL_S = 3.0


def main(post: Post, *, former: int = 0, pulse: Pulse | None = None) -> int:
    """Be the sphere at this post until the run is over; the exit code: 0 done, 1 the run failed, 2 the user's input is
    to blame, 75 this process must be started anew and the run goes on.

    former: process id of the sphere here before, which is dead. pulse: tells the supervisor that this process lives;
    given b"v", that it made a version; hears when to leave.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    crash.arm(post.dir, "sphere", post.path)
    run = config.load(post.dir / "config.toml", config.RunConfig())
    run_id, silence_s = json.loads((post.dir / "control.json").read_text())["run_id"], run.control.silence_s
    try:
        own = _key(post, run_id)
        reached_at = own_address(post.control, post.interface)
    except KeyFileError as error:
        print(error, file=sys.stderr)
        return 2
    except ConfigError as error:  # a cable that is out, a name that can't be looked up: it may be better in a moment
        print(error, file=sys.stderr)
        return START_ANEW
    larder = Larder(reached_at, Pair.draw() if own is not None else None)
    link = _linked(post.control, _hello(run_id, post.path, former, larder), silence_s, pulse, own)
    folder = _folder(post, run)
    sync = TreeSync(link, run_id, silence_s, larder=larder, folder=folder, pulse=pulse)
    sync.saves, sync.home = Saves(link, run.control.checkpoint_at), _home(post, run_id, run)
    sync.local_rank = slot_of(post.path) if post.local_rank is None else post.local_rank
    sync.trace = Trace(post.dir / "profile", post.path) if post.profile else None
    try:
        link.open(OPEN_S if pulse is None else OPEN_SUPERVISED_S)
        _take_part(run, sync, post.script, link)
        return 0
    except RunEnded as end:
        return 1 if end.status == "failed" else 0
    except AdmissionRefused as error:
        print(error, file=sys.stderr)
        return START_ANEW if link.heard.view else 1  # who was called once fits: what is given up is this process
    except (Sick, LinkBroken, Worn) as error:
        print(error, file=sys.stderr)
        return START_ANEW
    except Exception as error:
        return _give_up(link, post.path, error)
    finally:
        link.close()
        larder.close()


def _take_part(run: config.RunConfig, sync: TreeSync, script: Sequence[str], link: Link) -> None:
    """Train until the script or the run is over; a stop may end the script before anybody has ended the run."""
    seam.current = sync
    try:
        if script:
            job.run_script(script, run.training.seed)
        else:
            job.build(run, sync).train()
    except RunEnded as end:
        if end.status != "stopped" or link.heard.end is not None:
            raise
    sync.leave()


def slot_of(path: str) -> int:
    """Which of its host's spheres one at region/host/slot is; 0 where the slot is no number."""
    slot = path.rpartition("/")[2]
    return int(slot) if slot.isascii() and slot.isdigit() else 0


def _key(post: Post, run_id: str) -> KeyFile | None:
    if post.key:
        return read_key(Path(post.key))
    return found_key(post.dir, "sphere", run_id=run_id, address=post.control)


def _home(post: Post, run_id: str, run: config.RunConfig) -> Home:
    """A script's model and data are its own: the config says nothing of them."""
    sections = ("control",) if post.script else ("model", "data", "control")
    return Home(post.dir, run_id, run.control.tree, {name: asdict(getattr(run, name)) for name in sections})


def _folder(post: Post, run: config.RunConfig) -> Folder:
    return Folder(
        post.dir,
        post.path,
        keep=lambda model: job.finish(model, post.dir, run.training.seed),
        configured=lambda config: job.write_config(post.dir, config, run) if post.script else None,
    )


def _linked(address: str, hello: Hello, silence_s: float, pulse: Pulse | None, own: KeyFile | None) -> Link:
    """The link to control, by which this sphere says also that it was asked to leave."""
    if pulse is None:
        return Link(address, hello, silence_s, key=own)
    link = Link(address, hello, silence_s, pulse=pulse, leave=pulse.end, key=own)
    pulse.listen(link.ask_to_leave)
    return link


def _hello(run_id: str, path: str, former: int, larder: Larder) -> Hello:
    return Hello(
        run_id=run_id,
        path=path,
        pid=os.getpid(),
        host=socket.gethostname(),
        address=larder.address,
        former=former,
        port=larder.port,
        nonce=uuid.uuid4().hex,
        larder_key=larder.key,
        stack=network_stack(),
    )


def _give_up(link: Link, path: str, error: Exception) -> int:
    """Tell control what went wrong in one sentence, log the whole, and wait to hear that the run is over."""
    traceback.print_exc()
    usage = isinstance(error, ConfigError | DataError)
    try:
        link.send(Failed(text=told(error), usage=usage, detail=traceback.format_exc()))
        link.wait(lambda heard: heard.end, FAREWELL_S)
    except LightwatchError:
        pass  # control is gone too: the log has it all
    return 2 if usage else 1
