"""Overload test of the server: refusals, latency of accepted requests, memory, and a graceful stop.

    python -m bench.load    (`make bench-load`)

200 clients for 60 s against `python -m api serve` with default settings, on a stream with 30 % repeated memes; then
SIGTERM under load. Prints a table and, as its last line, one JSON object. Exit 1 if a claim fails. Needs Linux
(`/proc`).
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.settings import ServeSettings
from api.transport.listener import STOP_SECONDS
from bench.client import LOST, Answer, Measured, ask, percentiles, read_memes, with_repeats
from bench.machine import describe, print_json, python, say
from bench.servers import Server, make_bundle, serving

# Bound on the relative change of resident memory.
_MOST_DEVIATION = 0.05
# Warm-up of memory (threads, allocator arenas, connections): a minute, or in runs under 120 s a quarter of the run.
_SETTLE_S, _LONG_S, _SHARE = 60.0, 120.0, 0.25
# Besides the server's own limit: half a second for threads, and the interpreter's exit.
_EXIT_S = STOP_SECONDS + 1.5
# Clients continue for longer than the server may take to stop, and end when it stops listening.
_GO_ON_S = _EXIT_S + 2.0


@dataclass
class Watch:
    """Monitor of the server's process. rss_mb: resident memory, once a second; stopped: perf_counter of SIGTERM."""

    rss_mb: list[float] = field(default_factory=list)
    stopped: float = 0.0
    exit_code: int | None = None
    exit_s: float | None = None

    def run(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Sample memory each second, send SIGTERM after `seconds`, and wait for the exit."""
        began = time.perf_counter()
        while (gone := len(self.rss_mb)) <= seconds:
            time.sleep(max(0.0, began + gone - time.perf_counter()))
            self.rss_mb.append(_rss_mb(process.pid))
        self.stopped = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = process.wait(_GO_ON_S)
            self.exit_s = round(time.perf_counter() - self.stopped, 2)
        except subprocess.TimeoutExpired:
            pass  # it stays None, and the claim fails


def main() -> int:
    """Measure and print; exit code 1 if a claim fails."""
    args = _parser().parse_args()
    machine, settings = describe(), ServeSettings()
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        bundle = args.bundle or make_bundle(args.data, Path(folder))
        with serving(python("api", "serve", "--bundle", bundle), "/readyz") as server:
            say(f"ready after {server.ready_s} s; {args.clients} clients for {args.seconds:g} s")
            watch, measured = _load(server, args)
    result = {
        "benchmark": "load",
        "data": args.data.resolve().name,
        "machine": machine,
        "clients": args.clients,
        "seconds": args.seconds,
        "server": {"queue": settings.queue, "batch": settings.batch, "stop_s": STOP_SECONDS, "ready_s": server.ready_s},
        **summary(measured, watch, settings.queue, settings.batch, args.seconds),
    }
    print(_table(result))
    print_json(result)
    return 0 if all(result["claims"].values()) else 1


def _load(server: Server, args: argparse.Namespace) -> tuple[Watch, Measured]:
    watch, stream = Watch(), with_repeats(read_memes(args.data))
    watcher = threading.Thread(target=watch.run, args=(server.process, args.seconds), daemon=True)
    watcher.start()
    measured = ask(server.port, stream, args.clients, args.seconds + _GO_ON_S)
    watcher.join()
    return watch, measured


def summary(measured: Measured, watch: Watch, queue: int, batch: int, seconds: float) -> dict[str, Any]:
    """Counts by status, latencies, memory, exit, and which claims hold."""
    before = [a for a in measured.answers if a.started + a.seconds <= watch.stopped]
    during = [a for a in measured.answers if a.started <= watch.stopped < a.started + a.seconds]
    after = [a for a in measured.answers if a.started > watch.stopped]
    accepted = [answer.seconds for answer in before if answer.status == 200]
    rate = len(accepted) / (watch.stopped - measured.began)
    # worst case: a full queue ahead, and the running batch
    bound_ms = round((queue + batch) / rate * 1000, 1) if rate else None
    latency = percentiles(accepted)
    p99_ms = latency["p99_ms"]
    in_time = p99_ms is not None and bound_ms is not None and p99_ms <= bound_ms
    settled = int(_SETTLE_S if seconds >= _LONG_S else seconds * _SHARE)
    deviation = max(abs(mb / watch.rss_mb[settled] - 1) for mb in watch.rss_mb[settled:])
    refused = [answer for answer in measured.answers if answer.status == 503]
    return {
        "before_stop": _counts(before),
        "under_way_at_stop": _counts(during),
        "after_stop": _counts(after),
        "accepted_per_s": round(rate, 2),
        "latency": latency,
        "bound_ms": bound_ms,
        "rss_mb": watch.rss_mb,
        "rss_from_s": settled,
        "rss_deviation": round(deviation, 4),
        "exit_code": watch.exit_code,
        "exit_s": watch.exit_s,
        "client_cores": round(measured.cpu / measured.seconds, 3),
        "claims": {
            "nothing but 200 and 503 until SIGTERM": {a.status for a in before} <= {200, 503},
            "every 503 has Retry-After": all(answer.retry_after is not None for answer in refused),
            "p99 of accepted within what queue and batch give": in_time,
            f"memory within {_MOST_DEVIATION:.0%} of second {settled}": deviation <= _MOST_DEVIATION,
            "whoever asked before SIGTERM was answered": {a.status for a in during} <= {200, 503},
            f"exit 0 within {_EXIT_S:g} s": watch.exit_code == 0 and (watch.exit_s or 0) <= _EXIT_S,
        },
    }


def _counts(answers: list[Answer]) -> dict[str, int]:
    """{status: responses}; "lost" for a connection that ended without a response."""
    found = Counter("lost" if answer.status == LOST else str(answer.status) for answer in answers)
    return dict(sorted(found.items()))


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _table(result: dict[str, Any]) -> str:
    latency, rss, start = result["latency"], result["rss_mb"], result["rss_from_s"]
    server = result["server"]
    rows = {
        "clients": f"{result['clients']} for {result['seconds']:g} s, using {result['client_cores']} cores themselves",
        "server": f"at most {server['queue']} memes under way, batches of up to {server['batch']}",
        "answers before SIGTERM": result["before_stop"],
        "under way at SIGTERM": result["under_way_at_stop"],
        "sent after SIGTERM": result["after_stop"],
        "accepted": f"{result['accepted_per_s']}/s; p50, p95, p99, max {', '.join(map(str, latency.values()))} ms",
        "bound": f"{result['bound_ms']} ms: queue + batch memes at the rate of accepted ones",
        "memory": f"{rss[0]} MB at second 0, {rss[start]} at {start}, {rss[-1]} at the end, "
        f"largest deviation {result['rss_deviation']:.1%}",
        "end": f"exit {result['exit_code']} {result['exit_s']} s after SIGTERM",
    }
    claims = [f"{claim:52}{'holds' if holds else 'FAILS'}" for claim, holds in result["claims"].items()]
    return "\n".join([f"{name:24}{value}" for name, value in rows.items()] + claims)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Overload test of the server.")
    parser.add_argument("--data", type=Path, default=Path("demo/memes"), help="folder of memes (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, help="what is served (default: random ViT-B-32, tuned on the memes)")
    parser.add_argument("--clients", type=int, default=200, help="concurrent clients (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="until SIGTERM; 120 or more: memory from minute 1 (default: 60)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
