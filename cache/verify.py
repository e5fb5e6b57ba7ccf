"""Verify all checksums of the cache: segments, manifests, specs, and that each index finds its vectors.

    python -m cache verify

It changes nothing, but has the next opening of a damaged store hash every segment. Each finding names the command that repairs
the damage.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from cache.contents import UnusableStore, index_files, rebuild_command, store_folders, stored_spec
from cache.index.dataset_index import DatasetIndex, UnusableIndex, read_index
from cache.store import headers
from cache.store.keys import text_key
from cache.store.manifest import (
    manifest_entry,
    manifest_path,
    read_manifest,
    segment_files,
    segment_kind,
)
from cache.store.segments import KINDS, DamagedSegment, check_segment, read_header
from cache.store.spec import spec_id

_ANY_EMBED = "`make embed` with the DATA, MODEL and PRETRAINED that filled this store rebuilds it"
_UNREAD = "not damage: let it be read, and verify again"
_COMPACT = "no row is lost; `python -m cache compact` rewrites the manifest"


@dataclass(frozen=True)
class Finding:
    """One damage: what is wrong, with the file's name, and the command that repairs it."""

    damage: str
    remedy: str


@dataclass
class Verification:
    """Numbers of what was checked, and the damage; bytes: of intact segments."""

    stores: int = 0
    segments: int = 0
    indexes: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(artifacts: Path) -> Verification:
    """Verify all stores and indexes under `artifacts`, with a progress bar. Raises NoCache, OSError."""
    folders, verified = store_folders(artifacts), Verification()
    indexes = _read_indexes(artifacts, verified)
    total = sum(path.stat().st_size for folder in folders for path in segment_files(folder))
    keys: dict[str, dict[str, set[str]]] = {}
    with tqdm(total=total, desc="verifying", unit="B", unit_scale=True, delay=1, leave=False) as bar:
        for folder in folders:
            commands = [rebuild_command(i.source) for i in indexes.values() if spec_id(i.spec) == folder.name]
            remedy = f"`{commands[0]}` recomputes its rows" if commands else _ANY_EMBED
            keys[folder.name] = _check_store(folder, remedy, verified, bar.update)
    for path, index in indexes.items():
        _check_index(path, index, keys.get(spec_id(index.spec), {kind: set() for kind in KINDS}), verified)
    return verified


def _read_indexes(artifacts: Path, verified: Verification) -> dict[Path, DatasetIndex]:
    indexes = {}
    for path in index_files(artifacts):
        verified.indexes += 1
        try:
            indexes[path] = read_index(path)
        except UnusableIndex as error:
            remedy = "`make embed` with the same DATA, MODEL and PRETRAINED as before rewrites it"
            verified.findings.append(Finding(str(error), remedy))
    return indexes


def _check_store(
    folder: Path, remedy: str, verified: Verification, advance: Callable[[int], object]
) -> dict[str, set[str]]:
    """{kind: keys of the store's intact segments}."""
    verified.stores += 1
    try:
        stored_spec(folder)
    except UnusableStore as error:
        verified.findings.append(Finding(str(error), remedy))
    entries, unreadable = read_manifest(folder)
    for number in unreadable:
        verified.findings.append(Finding(f"{manifest_path(folder)}, line {number}: damaged, or cut off", _COMPACT))
    listed = {entry["segment"]: entry for entry in entries}
    keys: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for name in sorted({path.name for path in segment_files(folder)} | listed.keys()):
        path = folder / name
        verified.segments += 1
        try:
            digest, size = check_segment(path), path.stat().st_size
            found = read_header(path).keys
        except DamagedSegment as error:
            headers.forget(folder)
            verified.findings.append(Finding(str(error), remedy))
            continue
        except OSError as error:
            verified.findings.append(Finding(f"{path}: cannot be read ({error.strerror})", _UNREAD))
            continue
        keys[segment_kind(name)].update(found)
        verified.bytes += size
        advance(size)
        if name in listed and listed[name] != manifest_entry(path, len(found), digest):
            verified.findings.append(Finding(f"{manifest_path(folder)}: the line of {name} is damaged", _COMPACT))
    return keys


def _check_index(path: Path, index: DatasetIndex, keys: dict[str, set[str]], verified: Verification) -> None:
    rows = [row for row, reason in enumerate(index.skipped) if not reason]
    prompts = {text_key(text) for texts in index.prompts.values() for text in texts}
    missing = {
        "image": {index.image_keys[row] for row in rows} - keys["image"],
        "text": ({index.text_keys[row] for row in rows} | prompts) - keys["text"],
    }
    if any(missing.values()):
        counts = " and ".join(f"{len(names)} {kind}" for kind, names in missing.items() if names)
        damage = f"{path}: {counts} vectors are not in the store {spec_id(index.spec)}"
        verified.findings.append(Finding(damage, f"`{rebuild_command(index.source)}` recomputes them"))
