"""Feature specs: everything that can change a vector, as one JSON object whose hash names the store.

`embed.clip.encoder` defines the fields; bundles of `head` store them.
"""

import hashlib
import json
from typing import Any

Spec = dict[str, Any]


class SpecMismatch(ValueError):
    """Vectors that must come from the same encoder do not."""


def canonical_json(spec: Spec) -> str:
    """JSON with sorted keys and no spaces, so that equal specs have equal hashes."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def spec_id(spec: Spec) -> str:
    """The first 12 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(spec).encode("utf-8")).hexdigest()[:12]


def differences(expected: Spec, actual: Spec, prefix: str = "") -> list[str]:
    """One line per differing field, `field: expected ..., got ...`; nested names are joined by dots."""
    lines: list[str] = []
    for name in sorted(expected.keys() | actual.keys()):
        left, right = expected.get(name), actual.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: expected {left!r}, got {right!r}")
    return lines


def require_same_spec(expected: Spec, actual: Spec, what: str) -> None:
    """Raise SpecMismatch, naming the differing fields, unless the two specs are equal."""
    found = differences(expected, actual)
    if found:
        raise SpecMismatch(f"{what}: made by another encoder. " + "; ".join(found))
