"""`python -m tests.cli.far_template NAME ADDRESS …`: the template of one of two pretended hosts; the rest is its own.

Its workers have what those of a host of its own would have: a name, their own shared memory, and an address at which
the other host reaches them. Run it inside the host's network namespace (`ip netns exec`, which gives it a mount
namespace as well).
"""

from __future__ import annotations

import sys
from functools import partial

from control.protocol import Hello
from scripts.benchmarks.sphere_host import be_a_host
from spheres import template, worker
from spheres.larder import Larder

if __name__ == "__main__":
    name, address = sys.argv[1:3]
    del sys.argv[1:3]
    be_a_host(name)
    vars(worker).update(Hello=partial(Hello, address=address), Larder=partial(Larder, address))
    sys.exit(template.main())
