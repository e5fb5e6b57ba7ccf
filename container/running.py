"""Run an image with the kernel isolation of a container engine; needs root.

The image's user without capabilities, a read-only root, own namespaces (mount, PID, network without a route out, IPC,
UTS), and the image's command as process 1.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from container.build import CommandFailed, Image

_DEVICES = ("null", "zero", "full", "random", "urandom")
_START_SECONDS = 10.0


@dataclass(frozen=True)
class Running:
    """A container. process: `unshare` on the host, which exits with the container's exit code."""

    image: Image
    process: "subprocess.Popen[bytes]"

    def execute(self, command: Sequence[str], sent: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run a command inside, as `docker exec`. Raises CommandFailed if the container is not running."""
        inside = [
            "nsenter",
            f"--target={self._first()}",
            "--mount",
            "--net",
            "--pid",
            "--root",
            f"--wdns={self.image.folder}",
        ]
        return subprocess.run([*inside, *_as_user(self.image), *command], input=sent, capture_output=True, check=False)

    def stop(self, patience: float) -> tuple[int | None, float]:
        """SIGTERM to process 1: its exit code, None after `patience` seconds, and the seconds it took.

        Raises CommandFailed if the container is not running.
        """
        began = time.monotonic()
        os.kill(self._first(), signal.SIGTERM)
        try:
            return self.process.wait(patience), time.monotonic() - began
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL process 1 if it is running; the kernel then kills all others in its namespace.

        (`unshare --kill-child` does not reach a process that has changed its user.)
        """
        if self.process.poll() is None:
            os.kill(self._first(), signal.SIGKILL)

    def _first(self) -> int:
        """The host's PID of process 1. Raises CommandFailed."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for _ in range(int(_START_SECONDS / 0.1)):
            if self.process.poll() is None and (found := children.read_text().split()):
                return int(found[0])
            time.sleep(0.1)
        raise CommandFailed(f"the container did not start, or exited with {self.process.poll()}")


@contextmanager
def running(image: Image, arguments: Sequence[str], writable: Mapping[str, str], log: Path) -> Iterator[Running]:
    """Run the image until the block ends, then kill it.

    arguments: appended to the image's entry point; writable: {folder inside: tmpfs options}; log: file of its output.
    """
    script = _script(image, [*_as_user(image), *image.entrypoint, *arguments], writable)
    unshare = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--"]
    with log.open("wb") as out, subprocess.Popen([*unshare, "sh", "-euc", script], stdout=out, stderr=out) as process:
        container = Running(image, process)
        try:
            yield container
        finally:
            container.kill()


def _script(image: Image, command: Sequence[str], writable: Mapping[str, str]) -> str:
    root = shlex.quote(str(image.root))
    lines = [
        "ip link set lo up",
        f"mount --bind {root} {root}",
        f"mount -o remount,bind,ro {root}",
        f"mount -t proc proc {root}/proc",
        f"mount -t tmpfs -o mode=755 tmpfs {root}/dev",
        *(f"touch {root}/dev/{device}; mount --bind /dev/{device} {root}/dev/{device}" for device in _DEVICES),
        f"mkdir -m 1777 {root}/dev/shm",
        *(f"mount -t tmpfs -o {options} tmpfs {root}{folder}" for folder, options in writable.items()),
        f"cd {root}",
        f"exec chroot . sh -c {shlex.quote(f'cd {image.folder} && exec {shlex.join(command)}')}",
    ]
    return "\n".join(lines)


def _as_user(image: Image) -> list[str]:
    """Command prefix (setpriv, env) that drops to the image's user and environment."""
    user, group = image.user.split(":")
    return [
        *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"),
        *("env", "-i", *(f"{name}={value}" for name, value in image.environment.items())),
    ]
