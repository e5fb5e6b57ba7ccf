"""Peer (b) of `bench.embed`: clip-retrieval's `inference` in its own virtual environment.

Settings that suit it here: a webdataset with as many shards as workers (its folder mode pairs `a.jpg` with `a.txt` by
whole names and finds nothing, its issue #352), batches of 32 as in the plain loop, one worker per core, no jit. It uses
the project's version of torch and writes normalised float16.
"""

import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import environment
from bench.cases import Case, read_rows
from bench.machine import BENCH_FOLDER, ROOT, CommandFailed, run
from bench.weights import MODEL
from cache import cores

VERSION = "2.45.0"
_BATCH = 32
# The newest versions that it runs with, where its own requirements have no bound. setuptools: its `clip` imports
# pkg_resources; transformers: for multilingual-clip and sentence-transformers 2.
_PINS = (
    f"clip-retrieval=={VERSION}",
    "all_clip==1.3.0",
    "open-clip-torch==2.32.0",
    "numpy==1.26.4",
    "pandas==2.3.3",
    "pyarrow==15.0.2",
    "setuptools==80.10.2",
    "sentence-transformers==2.7.0",
    "transformers==4.57.6",
    "webdataset==0.2.111",
)
_PROJECT_PINS = ("torch", "torchvision", "pillow", "timm", "ftfy")
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
_TABLE_AS_JSON = "import json, sys, pandas; print(json.dumps(pandas.read_parquet(sys.argv[1]).to_dict('list')))"


@dataclass(frozen=True)
class Inference:
    """A run. seconds: as it reports, from the first batch requested to the last written; wall: of the whole command.

    vectors: {"image" | "text": (N, D) float32} in the order of the case.
    """

    seconds: float
    wall: float
    vectors: dict[str, np.ndarray]


def install(folder: Path = BENCH_FOLDER / "clip-retrieval") -> Path:
    """The interpreter of clip-retrieval's virtual environment, created if needed. Raises PeerUnavailable."""
    pins, trial = [*_PINS, *_project_pins()], ["-m", "clip_retrieval.cli", "inference", "--help"]
    return environment.install(f"clip-retrieval {VERSION}", folder, pins, trial, _ENVIRONMENT)


def write_shards(case: Case) -> str:
    """Write the case's memes as tar files, one per core; return their name pattern."""
    rows = read_rows(case.folder)
    for number in range(cores()):
        with tarfile.open(case.folder / f"shard-{number}.tar", "w") as shard:
            for row in rows[number :: cores()]:
                # its reader requires one extension; Pillow ignores it
                _put(shard, f"{row.id}.jpg", row.picture.read_bytes())
                _put(shard, f"{row.id}.txt", row.text.encode())
    return str(case.folder / (f"shard-{{0..{cores() - 1}}}.tar" if cores() > 1 else "shard-0.tar"))


def infer(interpreter: Path, case: Case, shards: str, weights: Path, out: Path) -> Inference:
    """Run it on the shards. Raises CommandFailed."""
    shutil.rmtree(out, ignore_errors=True)
    flags = {
        "input_dataset": shards,
        "input_format": "webdataset",
        "output_folder": out,
        "clip_model": f"open_clip:{MODEL}/{weights.resolve()}",
        "batch_size": _BATCH,
        "num_prepro_workers": cores(),
        "enable_image": case.images,
        "enable_text": case.texts,
        "enable_metadata": False,
        "use_jit": False,
    }
    command = (interpreter, "-m", "clip_retrieval.cli", "inference")
    done = run([*command, *(f"--{name}={value}" for name, value in flags.items())], _ENVIRONMENT)
    stats = json.loads((out / "stats" / "0.json").read_text("utf-8"))
    if stats["sample_count"] != case.count:
        raise CommandFailed(f"clip-retrieval embedded {stats['sample_count']} memes of {case.count}")
    return Inference(stats["total_duration"], done.seconds, _vectors(interpreter, case, out))


def _vectors(interpreter: Path, case: Case, out: Path) -> dict[str, np.ndarray]:
    table = run([interpreter, "-c", _TABLE_AS_JSON, out / "metadata" / "metadata_0.parquet"]).last_json()
    rows = read_rows(case.folder)
    # without pictures its table has only captions, which are distinct in that case
    names, wanted = (
        (table["image_path"], [row.id for row in rows])
        if case.images
        else (table["caption"], [row.text for row in rows])
    )
    place = {name: number for number, name in enumerate(names)}
    order = [place[name] for name in wanted]
    sides = [("image", "img")] * case.images + [("text", "text")] * case.texts
    read = {name: np.load(out / f"{short}_emb" / f"{short}_emb_0.npy") for name, short in sides}
    return {name: vectors[order].astype(np.float32) for name, vectors in read.items()}


def _project_pins() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.split("==")[0].lower() in _PROJECT_PINS]


def _put(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    shard.addfile(info, io.BytesIO(data))
