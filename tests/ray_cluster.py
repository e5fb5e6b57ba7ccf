"""The embedding job on a Ray cluster of two nodes: the local engine's keys and vectors, whatever dies in the middle.

Not part of `make test`, which installs no Ray: `make test-ray` runs it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

import embed.engines.writing
from cache import SpecMismatch, VectorStore, read_index
from embed.__main__ import main
from embed.clip.options import EncoderOptions, EncoderRequest
from embed.engines import ray_engine
from embed.engines.ray_engine import ClusterUnavailable
from embed.engines.ray_workers import Encoder, Facts
from embed.job import Summary, embed_dataset
from embed.plan.settings import EmbedSettings

DEMO = "demo/memes"
ENCODER = "local-dir:demo/encoder"
# Long enough for two busy cores; what hangs must not hang for ever.
_PATIENCE = 240

pytestmark = [
    # Ray's own: sockets and files that its processes leave to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def gpus() -> int:
    return 0


@pytest.fixture
def cluster(gpus: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of one processor each, beside a head that does no work; `gpus` of each are counted only."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, num_gpus=gpus)
        made.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", made.address)
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The demo, embedded by the local engine."""
    return embed_dataset(settings(tmp_path_factory.mktemp("local"), "local"), say=lambda note: None)


@pytest.fixture
def tiny_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment for each shard, so that a test can wait for one, and two batches a shard."""
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_SECONDS", 0.0)
    monkeypatch.setattr(ray_engine, "_BATCHES_PER_SHARD", 2)


def settings(artifacts: Path, engine: str = "ray", device: str = "cpu") -> EmbedSettings:
    return EmbedSettings(
        DEMO, ENCODER, artifacts=artifacts, device=device, options=EncoderOptions("projected", "fp32"), engine=engine
    )


def check_equal(ours: VectorStore, theirs: VectorStore) -> None:
    for kind in ("image", "text"):
        keys = sorted(theirs.known(kind))
        assert keys and ours.known(kind) == set(keys)
        assert ours.read(kind, keys).tobytes() == theirs.read(kind, keys).tobytes()
        assert sum(map(len, ours.held(kind).values())) == len(keys), "a row was written twice"
    assert not ours.damaged


class OnProcessor(Encoder):
    """An encoder for GPUs that Ray counts and nobody has."""

    def __init__(self, request: EncoderRequest, device: str) -> None:
        assert device == "cuda"
        super().__init__(request, "cpu")


def when_segments_stand(artifacts: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    """Act in a thread as soon as so many segments of pictures are written."""

    def watch() -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if len(list((artifacts / "vectors").glob("*/image-*.h5"))) >= count:
                return act()
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def encoder_processes(name: str = "Encoder") -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(f"ray::{name}".encode()):
                found.append(int(folder.name))
    return found


def test_the_cluster_makes_what_the_local_engine_makes(
    cluster: Cluster, local: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_SECONDS", float("inf"))
    summary = embed_dataset(settings(tmp_path), say=lambda note: None)
    check_equal(summary.store, local.store)
    assert (summary.work.distinct, summary.work.embedded, summary.work.prompts) == (
        local.work.distinct,
        local.work.embedded,
        local.work.prompts,
    )
    index, other = (read_index(settings(where).index) for where in (tmp_path, local.store.folder.parents[1]))
    for column in ("ids", "splits", "labels", "image_keys", "text_keys", "text_tokens", "skipped", "image_stamps"):
        assert getattr(index, column) == getattr(other, column)
    assert len(list(summary.store.folder.glob("image-*.h5"))) == 1  # of eight shards
    again = embed_dataset(settings(tmp_path), say=lambda note: None)
    assert again.work.embedded == {"image": 0, "text": 0} and again.work.device == ""


def test_a_killed_worker_costs_the_shard_in_its_hand(
    cluster: Cluster, local: Summary, tmp_path: Path, tiny_segments: None
) -> None:
    notes: list[str] = []
    killed: list[int] = []

    def kill() -> None:
        killed.append(encoder_processes()[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = when_segments_stand(tmp_path, 2, kill)
    summary = embed_dataset(settings(tmp_path), say=notes.append)
    thread.join(_PATIENCE)
    assert killed
    check_equal(summary.store, local.store)
    (lost,) = [note for note in notes if "lost" in note]
    assert "20 items" in lost


@pytest.mark.parametrize("gpus", [1])
def test_for_gpus_tasks_prepare_and_a_killed_encoder_is_replaced(
    cluster: Cluster, local: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_segments: None
) -> None:
    monkeypatch.setattr(ray_engine, "Encoder", OnProcessor)
    notes: list[str] = []
    thread = when_segments_stand(tmp_path, 2, lambda: os.kill(encoder_processes("OnProcessor")[0], signal.SIGKILL))
    summary = embed_dataset(settings(tmp_path, device="auto"), say=notes.append)
    thread.join(_PATIENCE)
    check_equal(summary.store, local.store)
    assert len([note for note in notes if "lost" in note]) == 1
    assert summary.work.device == "2 of the Ray cluster's GPUs"


def test_a_node_that_goes_takes_nothing_with_it(
    cluster: Cluster, local: Summary, tmp_path: Path, tiny_segments: None
) -> None:
    node = min(cluster.worker_nodes, key=lambda node: node.unique_id)
    thread = when_segments_stand(tmp_path, 2, lambda: cluster.remove_node(node, allow_graceful=False))
    summary = embed_dataset(settings(tmp_path), say=lambda note: None)
    thread.join(_PATIENCE)
    assert len(cluster.worker_nodes) == 1
    check_equal(summary.store, local.store)


def test_a_killed_job_goes_on_with_what_is_missing(cluster: Cluster, local: Summary, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from embed.engines import ray_engine, writing
from embed.job import embed_dataset
from ray_cluster import settings
ray_engine._BATCHES_PER_SHARD, writing._SEGMENT_SECONDS = 2, 0.0
embed_dataset(settings(Path({str(tmp_path)!r})), say=lambda note: None)
"""
    job = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    thread = when_segments_stand(tmp_path, 3, job.kill)
    assert job.wait(_PATIENCE) == -signal.SIGKILL
    thread.join(_PATIENCE)
    summary = embed_dataset(settings(tmp_path), say=lambda note: None)
    check_equal(summary.store, local.store)
    assert summary.work.cached["image"] >= 60 and summary.work.embedded["image"] == 720 - summary.work.cached["image"]


def test_a_picture_that_cannot_be_decoded_is_a_failure_there_too(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("cut", "whole"):
        whole = next(Path(DEMO, "Labelled Images").glob("*.jpg")).read_bytes()
        (data / f"{name}.jpg").write_bytes(whole if name == "whole" else whole[: len(whole) // 2])
    (data / "train.csv").write_text("image_name,sentence,label\ncut.jpg,a,1\nwhole.jpg,b,0\n")
    asked = EmbedSettings(str(data), ENCODER, artifacts=tmp_path / "artifacts", engine="ray")
    for _ in range(2):
        summary = embed_dataset(asked, say=lambda note: None)
        assert [name for name, _, _ in summary.skipped] == ["cut.jpg"]
        assert "cut off" in summary.skipped[0][2]


def test_an_encoder_that_cannot_be_had_is_said_as_ever(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "ray", "--model", "ViT-B-32", "--pretrained", "/no/such/file"]) == 2
    assert "neither a file nor weights published" in capsys.readouterr().err


def test_a_machine_with_other_libraries_hashes_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ray_engine.library_versions() | {"pillow": "0.1"}
    monkeypatch.setattr(ray_engine, "library_versions", lambda: ours)
    with pytest.raises(SpecMismatch, match="libraries on .*pillow: expected '0.1', got"):
        embed_dataset(settings(tmp_path), say=lambda note: None)


class Foreign(OnProcessor):
    """An encoder on a machine with another Pillow than those whose tasks prepare."""

    def load(self) -> Facts:
        facts = super().load()
        decoder = {**facts.spec["decoder"], "version": "0.1"}
        return replace(facts, spec={**facts.spec, "decoder": decoder})


@pytest.mark.parametrize("gpus", [1])
def test_a_task_that_would_prepare_otherwise_is_refused_with_the_field(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "Encoder", Foreign)
    with pytest.raises(SpecMismatch, match="preprocessing on .*decoder.version: expected '0.1'"):
        embed_dataset(settings(tmp_path, device="auto"), say=lambda note: None)


class Unloadable(Encoder):
    """An encoder on a machine that lacks a package."""

    def load(self) -> Facts:
        raise ModuleNotFoundError("No module named 'timm'")


def test_what_fails_on_a_worker_is_a_sentence(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "Encoder", Unloadable)
    with pytest.raises(ClusterUnavailable, match="failed: ModuleNotFoundError: No module named 'timm'"):
        embed_dataset(settings(tmp_path), say=lambda note: None)
    engine = ray_engine.RayEngine(EncoderRequest(ENCODER, "", EncoderOptions()), "cpu", lambda note: None)
    try:
        with pytest.raises(ClusterUnavailable, match="lost repeatedly.*fewer processors"):
            list(engine.map(os._exit, [1]))
    finally:
        engine.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_said_at_once(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match=f"no Ray cluster answers at RAY_ADDRESS={address}.*ray start --head"):
        embed_dataset(settings(tmp_path), say=lambda note: None)
    assert time.monotonic() - started < 30
