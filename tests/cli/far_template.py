"""`python -m tests.cli.far_template NAME …`: the template of one of two pretended hosts; the rest is its own.

Its workers have what those of a host of its own would have: a name, and their own shared memory. Run it inside the
host's network namespace (`ip netns exec`, which gives it a mount namespace as well).
"""

from __future__ import annotations

import sys

from scripts.benchmarks.sphere_host import be_a_host
from spheres import template

if __name__ == "__main__":
    be_a_host(sys.argv.pop(1))
    sys.exit(template.main())
