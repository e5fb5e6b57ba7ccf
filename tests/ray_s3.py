"""Pictures in a bucket, with a server of S3's protocol on this machine: `make test-ray`, which installs what it needs.

The demo's memes are embedded from a bucket, by a manifest of each format, and compared with those of the folder.
"""

import json
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from fakes import picture
from moto.server import ThreadedMotoServer

from cache import VectorStore, content_key, read_index
from embed.__main__ import main
from embed.data.dataset import read_dataset
from embed.data.memes import Meme
from embed.pictures.hashing import read_picture
from embed.pictures.locate import pictures_root
from embed.pictures.remote import MISSING
from tests.embed.data.test_manifest import FORMATS

# boto3 and moto speak of what botocore will drop one day
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::PendingDeprecationWarning")
DEMO = Path("demo/memes")
ENCODER = "local-dir:demo/encoder"
ROOT = "s3://meme-bucket/deep/memes"
KEY = "AKIAEXAMPLE"


class Bucket:
    """put: into the bucket; fetched: keys of the objects that were asked for whole since the last look."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._fetched: list[str] = []

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket="meme-bucket", Key=f"deep/memes/{name}", Body=data)

    def note(self, key: str) -> None:
        self._fetched.append(key)

    def fetched(self) -> set[str]:
        seen, self._fetched = set(self._fetched), []
        return seen


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The demo's pictures in a bucket, and the environment that leads there."""
    from fsspec.config import conf, set_conf_env
    from moto.s3.models import S3Backend
    from s3fs import S3FileSystem

    # another server of another test is another store, for the same URL
    S3FileSystem.clear_instance_cache()
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "FSSPEC_S3_ENDPOINT_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    before = dict(conf)
    set_conf_env(conf)  # which a new process does when it starts
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="meme-bucket")
    bucket = Bucket(client)
    for meme in demo():
        bucket.put(meme.image, (DEMO / meme.image).read_bytes())
    get = S3Backend.get_object

    def noting(self: Any, bucket_name: str, key: str, *more: Any, **named: Any) -> Any:
        from flask import request

        if request.method == "GET":
            bucket.note(key.removeprefix("deep/memes/"))
        return get(self, bucket_name, key, *more, **named)

    monkeypatch.setattr(S3Backend, "get_object", noting)
    yield bucket
    conf.clear()
    conf.update(before)
    for found in client.list_objects_v2(Bucket="meme-bucket").get("Contents", []):
        client.delete_object(Bucket="meme-bucket", Key=found["Key"])
    client.delete_bucket(Bucket="meme-bucket")
    S3FileSystem.clear_instance_cache()


def demo() -> list[Meme]:
    """Some of the demo's memes, of every split."""
    return read_dataset(DEMO)[1][::12]


def manifest(folder: Path, kind: str, full: bool) -> Path:
    rows = [
        {
            "image": f"{ROOT}/{meme.image}" if full else meme.image,
            "text": meme.text,
            "label": str(meme.label),
            "split": meme.split,
        }
        for meme in demo()
    ]
    return FORMATS[kind](folder / f"memes.{kind}", rows)


def embed(
    capsys: pytest.CaptureFixture[str], artifacts: Path, data: Path, images: str = "", *more: str
) -> dict[str, Any]:
    arguments = ["--data", str(data), "--model", ENCODER, "--artifacts", str(artifacts), "--images", images, "--json"]
    assert main([*arguments, *more]) == 0
    printed = capsys.readouterr()
    assert not any(word in printed.out + printed.err for word in ("hush", KEY))
    return json.loads(printed.out)


def keys_and_vectors(artifacts: Path, told: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    index = read_index(Path(told["index"]))
    assert "hush" not in str(index) and KEY not in str(index)
    return list(index.image_keys), VectorStore(artifacts / "vectors", index.spec).read("image", index.image_keys)


@pytest.mark.parametrize(("kind", "full"), [("csv", True), ("jsonl", False), ("parquet", True)])
def test_a_bucket_gives_the_keys_and_vectors_of_the_folder_and_is_not_fetched_again(
    tmp_path: Path, bucket: Bucket, kind: str, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    there = embed(capsys, local, manifest(tmp_path, kind, full=False), str(DEMO))
    keys, vectors = keys_and_vectors(local, there)
    table = manifest(tmp_path, kind, full)
    first = embed(capsys, remote, table, ROOT)
    images = read_index(Path(first["index"])).images
    assert not first["skipped"] and bucket.fetched() == set(images)
    found_keys, found = keys_and_vectors(remote, first)
    assert found_keys == keys and np.array_equal(found, vectors)
    second = embed(capsys, remote, table, ROOT)
    assert second["embedded"] == {"image": 0, "text": 0} and not bucket.fetched()
    changed = images[5]
    bucket.put(changed, picture(5))
    third = embed(capsys, remote, table, ROOT)
    assert third["embedded"] == {"image": 1, "text": 0} and bucket.fetched() == {changed}
    assert embed(capsys, remote, table, ROOT, "--rehash")["embedded"]["image"] == 0
    assert bucket.fetched() == set(images)


def test_objects_of_every_kind(tmp_path: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    odd = ["what? #1 100%.png", "a+b & c.png", "ünï 🤷.png", "%41.png", "a*[b]{c}.png", "deep//twice.png"]
    for seed, name in enumerate(odd):
        bucket.put(name, picture(200 + seed))
    bucket.put("empty.png", b"")
    names = [*odd, "empty.png", "gone.png", "images", "%2e%2e/x.png", "s3://other/a.png"]
    rows = [{"image": name, "text": f"t{n}", "label": "1"} for n, name in enumerate(names)]
    told = embed(capsys, tmp_path, FORMATS["csv"](tmp_path / "memes.csv", rows), ROOT)
    said = {row["id"]: row["reason"] for row in told["skipped"]}
    assert list(said) == names[len(odd) :] and said["gone.png"] == MISSING and "empty" in said["empty.png"]
    index = read_index(Path(told["index"]))
    assert index.image_keys[: len(odd)] == [content_key(picture(200 + seed)) for seed in range(len(odd))]


@pytest.mark.parametrize(
    ("images", "environment", "said"),
    [
        ("s3://no-such-bucket/memes", {}, "The specified bucket does not exist"),
        (ROOT, {"FSSPEC_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, "EndpointConnectionError"),
        (ROOT, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "NoCredentialsError"),
    ],
)
def test_a_store_that_gives_nothing_is_one_sentence(
    tmp_path: Path, bucket: Bucket, images: str, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    command = [
        sys.executable,
        "-m",
        "embed",
        "--model",
        "demo",
        "--data",
        str(manifest(tmp_path, "csv", False)),
        "--images",
        images,
    ]
    done = subprocess.run(
        [*command, "--artifacts", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2 and done.stderr.count(said) == 1, done.stderr
    assert f"error: IMAGES={images}: the store does not give it" in done.stderr
    assert not any(word in done.stderr for word in ("Traceback", "hush", KEY))


def _read(root: Path, name: str) -> str:
    return content_key(read_picture(root / name))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_bucket_is_read_from_threads_and_from_other_processes(bucket: Bucket, method: str) -> None:
    root = pictures_root({"data": "", "images": ROOT})
    names = [meme.image for meme in demo()]
    expected = [content_key((DEMO / name).read_bytes()) for name in names]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda name: _read(root, name), names)) == expected
    assert _read(pickle.loads(pickle.dumps(root)), names[0]) == expected[0]
    with multiprocessing.get_context(method).Pool(1) as processes:
        assert processes.starmap_async(_read, [(root, name) for name in names[:8]]).get(60) == expected[:8]


def test_ray_workers_read_the_bucket(tmp_path: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    table = manifest(tmp_path, "parquet", full=True)
    arguments = ["--data", str(table), "--images", ROOT, "--model", ENCODER, "--engine", "ray", "--json"]
    command = [sys.executable, "-m", "embed", *arguments, "--artifacts", str(tmp_path / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert bucket.fetched() == {meme.image for meme in demo()} and KEY not in done.stdout + done.stderr
    there = keys_and_vectors(tmp_path, embed(capsys, tmp_path, manifest(tmp_path, "csv", full=False), str(DEMO)))
    found = keys_and_vectors(tmp_path / "ray", json.loads(done.stdout))
    assert found[0] == there[0] and np.allclose(found[1], there[1], atol=1e-2)  # bfloat16, in other batches
