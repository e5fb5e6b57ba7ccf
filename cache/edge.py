"""The edge of every command: arguments, exit codes, Ctrl-C, closed pipes, terminals without Unicode.

Each room's `__main__.py` begins with `stop_quietly()`, marks its `main` with `exit_codes` and ends with `run_as_command`. It
imports neither numpy nor torch, so that bad arguments are refused, and Ctrl-C is answered, at once.
"""

import argparse
import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Container
from typing import NoReturn, ParamSpec

from cache.errors import reader_gone, refuse

INTERRUPTED = 130
# What a shell reports of a program that SIGPIPE ended.
_CLOSED_PIPE = 141

P = ParamSpec("P")
Main = Callable[[list[str] | None], int]
"""Runs a command with these arguments, None for those of the process; returns the exit code."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence on stderr, without the usage, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit."""
        self.exit(2, f"error: {printable(message.removeprefix('argument '))}; see `{self.prog} --help`\n")


def stop_quietly() -> None:
    """Let Ctrl-C end the process without a traceback, until `run_as_command`: while modules are imported."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def exit_codes(stopped: str = "stopped") -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate a `main`: errors of the user and the system become a sentence and exit code 2, Ctrl-C becomes `stopped` and 130."""

    def decorated(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except (ValueError, OSError) as error:
                return refuse(error)
            except KeyboardInterrupt:
                print(stopped, file=sys.stderr)
                return INTERRUPTED

        return wrapped

    return decorated


def run_as_command(main: Main, at_once: Container[int] = ()) -> NoReturn:
    """Run `main` with the arguments of the process and exit with its code.

    A character that the terminal's encoding lacks is printed as `?`; where the reader of a pipe has gone, as after `| head`,
    nothing is printed, and the code is 141. at_once: codes at which running threads are not waited for.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = _code(main)
    except KeyboardInterrupt:  # while it printed
        code = INTERRUPTED
    except OSError as error:  # of stdout or stderr: `exit_codes` has dealt with all others
        gone = isinstance(error, BrokenPipeError) and reader_gone()
        code = _CLOSED_PIPE if gone else refuse(OSError(f"standard output: {error.strerror}"))
        _forget_output()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C does not wait either
    if code in at_once:
        os._exit(code)
    sys.exit(code)


def announce(command: str, **subjects: object) -> None:
    """Print on stderr what a command works on: `tune: data demo/memes, artifacts artifacts`; empty subjects are left out."""
    words = ", ".join(f"{name} {printable(str(value))}" for name, value in subjects.items() if value)
    print(f"{command}: {words}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text without control characters, which are escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _code(main: Main) -> int:
    try:
        code = main(None)
    except SystemExit as ended:  # of argparse
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return code


def _forget_output() -> None:
    """Let the interpreter, which flushes both streams once more, do so into nothing."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
