"""What the tests ask of the machine: what it may lack, with what to type then, what its processor promises, and time."""

import shutil
import socket
import time
from collections.abc import Callable

from embed.clip.hardware import cpu_instructions

# Seconds, of everything that waits: a hang is a failure, a busy machine is not. Starting Python with torch takes 40 s on two
# cores at a load of 16.
PATIENCE = 120.0

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Reasons of skipped tests, as the closing line has them behind their number.
WITHOUT_CHROMIUM = "without chromium (apt-get install chromium)"
WITHOUT_CURL = "without curl (apt-get install curl)"
WITHOUT_AIOHTTP = "without aiohttp (.venv/bin/pip install -r requirements.txt)"
WITHOUT_POSTGRESQL = "without PostgreSQL (apt-get install postgresql)"
WITHOUT_IPV6 = "without the address ::1 (sysctl net.ipv6.conf.lo.disable_ipv6=0)"


def has_ipv6() -> bool:
    """Whether this machine has the address ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread or process brings about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def batch_tolerance(precision: str) -> float:
    """How far a vector of length 1 may be from what it is in another batch.

    No processor with AMX was at hand to see whether its products are the same for any number of rows.
    """
    return 1e-2 if precision != "fp32" and "amx_bf16" in cpu_instructions() else 1e-6
