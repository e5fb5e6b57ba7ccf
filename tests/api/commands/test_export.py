"""Exported bundles: the same predictions, no network, no paths and no content."""

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import picture
from huggingface_hub import constants

from api.__main__ import main
from api.commands import export
from api.metrics import Metrics
from api.model import classifier as classifier_module
from api.model.classifier import MemeClassifier
from api.model.loading import LoadedModel, load_model
from api.model.prediction import Meme, Predictor
from api.schema import Explanation
from cache import SpecMismatch, read_index
from embed.clip.delta import DELTA, write_delta
from embed.clip.encoder import load_encoder
from embed.clip.options import EncoderOptions
from embed.clip.weights import EncoderUnavailable
from embed.data.dataset import read_dataset
from embed.job import embed_dataset
from embed.plan.settings import EmbedSettings
from head.bundle.format import LABELS, UnusableBundle
from head.data.features import fingerprint, load_tuning
from head.judge.calibration import Calibration
from report.__main__ import main as report
from tests.api.model.test_card import FINETUNED
from tests.api.model.test_classifier import as_features, fitted, settings_of, write_bundle
from tests.embed.clip.test_delta import mixed

CPU = torch.device("cpu")
ENCODER = Path("demo/encoder").resolve()
COUNT = 32
INSIDE = ("open_clip_config.json", "open_clip_model.safetensors", "source.json")
Change = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Made:
    """A bundle, its artifacts folder, and its export."""

    bundle: Path
    artifacts: Path
    data: Path
    export: Path
    tuned: frozenset[str]  # ids

    def picture(self, row: int) -> bytes:
        return (self.data / "pictures" / f"{row}.png").read_bytes()


def text_of(row: int) -> str:
    return f"some words of meme {row} " * (row % 3)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of a data set with a split column."""
    return make(tmp_path_factory, "fp32", split=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of a data set whose test split was made by tuning."""
    return make(tmp_path_factory, "bf16", split=False)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of a fine-tuned encoder, with a full and a low-rank change in each tower."""
    return make(tmp_path_factory, "bf16", split=True, change=mixed())


@pytest.fixture(params=["one", "other", "finetuned"])
def made(request: pytest.FixtureRequest) -> Made:
    return request.getfixturevalue(request.param)


def make(
    tmp_path_factory: pytest.TempPathFactory, precision: str, split: bool, change: dict[str, torch.Tensor] | None = None
) -> Made:
    """change: the weight changes of fine-tuning, if any."""
    root = tmp_path_factory.mktemp("made")
    data = root / "data"
    (data / "pictures").mkdir(parents=True)
    source, memes = read_dataset(Path("demo/memes"))
    rows = []
    for row, meme in enumerate(memes[:: len(memes) // COUNT][:COUNT]):
        shutil.copyfile(source / meme.image, data / "pictures" / f"{row}.png")
        rows.append({"id": f"id-{row}-of-it", "img": f"pictures/{row}.png", "text": text_of(row)})
        rows[-1] |= {"label": row % 2, "split": ("train", "train", "validation", "test")[row // 2 % 4 if split else 0]}
    (data / "memes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    delta = root / "delta" if change else None
    if delta and change:
        write_delta(delta, change)
    asked = EmbedSettings(
        str(data),
        f"local-dir:{ENCODER}",
        artifacts=root / "artifacts",
        device="cpu",
        options=EncoderOptions(precision),
        delta=delta,
    )
    embed_dataset(asked, say=lambda _: None)
    made = Made(root / "bundle", asked.artifacts, data, root / "export", tune(root / "bundle", asked))
    before = os.umask(0o022)
    try:
        assert exported(made, made.export) == 0
    finally:
        os.umask(before)
    return made


def tune(bundle: Path, asked: EmbedSettings) -> frozenset[str]:
    """Write a bundle of heads with random weights; returns the ids of its training memes."""
    index = read_index(asked.index)
    memes = load_tuning(index, asked.layout.vectors, False, 0)
    ensemble = fitted(as_features(memes.image, memes.text))
    logits = ensemble.score(memes)
    slope = float(2 / logits.std())
    calibration = Calibration("platt", slope, float(-slope * np.median(logits)))
    write_bundle(bundle, ensemble, calibration, index.spec, {n: index.source[n] for n in ("model", "pretrained")})
    counts = {name: int(np.sum(memes.label == value)) for value, name in enumerate(LABELS)}
    data = {"source": asked.data, "index": asked.index.name, "counts": {"train": counts}}
    edit(bundle, lambda config: config.update(data=data | {"fingerprint": fingerprint(memes, index.spec)}))
    for name in ("predictions.json", "gallery.json", "metrics.json", "report.html"):
        (bundle / name).write_text(json.dumps(json.loads((bundle / "config.json").read_text())["tuning_metrics"]))
    if asked.delta:
        shutil.copyfile(asked.delta, bundle / DELTA)
        edit(bundle, lambda config: config.update(finetuned=FINETUNED))
    return frozenset(memes.ids.tolist())


def edit(bundle: Path, change: Change) -> Path:
    config = json.loads((bundle / "config.json").read_text())
    change(config)
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def exported(made: Made, out: Path, *more: str, bundle: Path | None = None) -> int:
    source = ["--bundle", str(bundle or made.bundle), "--artifacts", str(made.artifacts)]
    return main(["export", *source, "--out", str(out), *more])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def loaded(bundle: Path, old: Predictor | None = None, **settings: Any) -> Iterator[LoadedModel]:
    found = load_model(settings_of(bundle, **settings), Metrics(), old=old)
    with closing(found.predictor):
        yield found


def explained(made: Made, bundle: Path, artifacts: Path) -> list[Explanation]:
    with loaded(bundle, artifacts=artifacts) as found:
        asked = [Meme(made.picture(row), text_of(row), explain=True) for row in range(0, COUNT, 5)]
        return [found.predictor.predict(meme, "id").explanation for meme in asked]


@pytest.fixture
def asked_of_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that were looked up or connected to; all fail."""
    asked: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(str(arguments))
        raise OSError("no network here")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def test_an_export_gives_the_same_bits(made: Made) -> None:
    plain, other = (MemeClassifier.from_bundle(folder, CPU) for folder in (made.bundle, made.export))
    answers = [
        of(
            [of.prepare_image(made.picture(row)) for row in range(COUNT)],
            list(map(of.prepare_text, map(text_of, range(COUNT)))),
        )
        for of in (plain, other)
    ]
    assert torch.equal(*answers) and np.ptp(answers[0].numpy()) > 0.2, "a constant would pass"
    assert (other.version, other.threshold, other.encoder.spec) == (plain.version, plain.threshold, plain.encoder.spec)


def test_an_export_is_served_without_a_network(
    one: Made, asked_of_network: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with loaded(one.export, artifacts=tmp_path) as found:
        answer = found.predictor.predict(Meme(one.picture(0), "words", explain=True), "id")
    assert answer.explanation.neighbours and not asked_of_network
    with pytest.raises(EncoderUnavailable):
        load_encoder("ViT-B-32", "laion400m_e31", CPU, EncoderOptions())
    assert asked_of_network, "nothing would be noticed"


def test_an_export_can_be_moved(made: Made, tmp_path: Path) -> None:
    """In another folder, and from another working directory."""
    before = explained(made, made.bundle, made.artifacts)
    shutil.copytree(made.export, tmp_path / "there")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert explained(made, Path("there"), Path("nothing here")) == before
    assert all(len(one.neighbours) == 5 and one.image_alone is not None for one in before)
    assert {near.id for one in before for near in one.neighbours} <= made.tuned


def test_an_export_has_no_content_and_no_paths(made: Made) -> None:
    index = read_index(next((made.artifacts / "datasets").iterdir()))
    rows = [row for row, id in enumerate(index.ids) if id not in made.tuned]
    assert len(rows) >= COUNT // 6
    kept_keys = {key for row, id in enumerate(index.ids) if id in made.tuned for key in keys_of(index, row)}
    words = {index.texts[row] for row in range(COUNT)} - {""}
    of_test = {index.ids[row] for row in rows} | {key for row in rows for key in keys_of(index, row)} - kept_keys
    places = {str(made.artifacts.parent), str(ENCODER), str(Path.cwd()), "pictures/"}
    held = b"\n".join(name.encode() + data for name, data in files_of(made.export).items())
    for told in words | of_test | places | {"an offensive", "mistakes"}:
        assert told.encode() not in held, told
    there = b"\n".join(files_of(made.artifacts).values()) + b"\n".join(files_of(made.bundle).values())
    assert all(told.encode() in there for told in words | of_test | {str(ENCODER), "pictures/"}), (
        "not to be found at all"
    )


def keys_of(index: Any, row: int) -> tuple[str, str]:
    return index.image_keys[row], index.text_keys[row]


def test_the_exported_index_has_no_data_of_test_memes(made: Made) -> None:
    plain, bare = (read_index(next((of / "datasets").iterdir())) for of in (made.artifacts, made.export / "training"))
    columns = ("ids", "labels", "image_keys", "text_keys", "text_tokens", "text_cut", "groups")
    for row, id in enumerate(plain.ids):
        if id in made.tuned:
            assert [getattr(bare, name)[row] for name in columns] == [getattr(plain, name)[row] for name in columns]
        else:
            assert [getattr(bare, name)[row] for name in columns] == ["", -1, "", "", 0, 0, ""]
            assert bare.splits[row] == "test"
    assert not any((*bare.images, *bare.texts, *bare.image_stamps, *bare.skipped)) and bare.prompts == {}
    assert len(plain.prompts) == 2 and bare.spec == plain.spec


def test_the_files_of_an_export(one: Made) -> None:
    (segments,) = (one.export / "training" / "vectors").iterdir()
    found = {str(path.relative_to(one.export)) for path in one.export.rglob("*") if path.is_file()}
    found = {name for name in found if not name.startswith(f"training/vectors/{segments.name}")}
    assert found == {
        "config.json", "head.safetensors", "metrics.json", *(f"encoder/{name}" for name in INSIDE),
        f"training/datasets/{next((one.artifacts / 'datasets').iterdir()).name}",
    }  # fmt: skip


def test_the_card_is_that_of_the_bundle(one: Made) -> None:
    with loaded(one.bundle) as plain, loaded(one.export) as other:
        assert other.card == plain.card


def test_the_files_are_readable_for_others(one: Made) -> None:
    paths = [one.export, *one.export.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o644}


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.write_bytes(index.read_bytes()[:-1] + b"x"),
        lambda index: shutil.rmtree(index.parent.parent / "vectors"),
    ],
    ids=["a damaged index", "no vectors"],
)
def test_unreadable_training_memes_are_left_out(
    one: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], Any]
) -> None:
    shutil.copytree(one.artifacts, tmp_path / "artifacts")
    change(next((tmp_path / "artifacts" / "datasets").iterdir()))
    out = tmp_path / "out"
    assert exported(one, out, "--artifacts", str(tmp_path / "artifacts")) == 0
    assert "without the training memes" in capsys.readouterr().err and not (out / "training").exists()
    MemeClassifier.from_bundle(out, CPU)


@pytest.mark.parametrize("name", [*(f"encoder/{name}" for name in INSIDE), "head.safetensors"])
def test_a_damaged_file_is_named(one: Made, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(one.export, tmp_path / "copy")
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole), len(whole) // 5):
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        # the place may be in a digest of another file, or in the spec
        inside = "|".join([*INSIDE, "expected"]) if name.endswith("source.json") else name
        with pytest.raises((EncoderUnavailable, UnusableBundle, SpecMismatch), match=inside):
            MemeClassifier.from_bundle(folder, CPU)


def test_a_damaged_export_is_not_exported(one: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(one.export, tmp_path / "copy")
    weights = folder / "encoder" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert exported(one, tmp_path / "out", bundle=folder) == 2
    assert "open_clip_model.safetensors: damaged" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"copy"}


def test_a_copy_with_other_embeddings_is_not_kept(
    one: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = iter([torch.zeros(3), torch.ones(3)])
    monkeypatch.setattr(export, "probe", lambda encoder: next(probes))
    assert exported(one, tmp_path / "out") == 2
    assert "computes other embeddings, so nothing was written" in capsys.readouterr().err and not list(
        tmp_path.iterdir()
    )


def other_bundle(one: Made, folder: Path) -> Path:
    return shutil.copytree(one.bundle, folder / "other")


def link(one: Made, folder: Path) -> Path:
    (folder / "latest").symlink_to(one.bundle)
    return folder / "latest"


def some_folder(one: Made, folder: Path) -> Path:
    (folder / "holiday").mkdir()
    (folder / "holiday" / "photo.png").write_bytes(picture())
    return folder / "holiday"


def some_file(one: Made, folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda made, folder: made.bundle, "the bundle itself, or a folder that contains it"),
        (lambda made, folder: made.bundle.parent, "the bundle itself, or a folder that contains it"),
        (link, "the bundle itself, or a folder that contains it"),
        (other_bundle, "exists and is not an export"),
        (some_folder, "exists and is not an export"),
        (some_file, "exists and is not an export"),
    ],
    ids=["itself", "its parent", "a link to it", "another bundle", "a folder", "a file"],
)
def test_other_folders_are_not_replaced(
    one: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: Callable[[Made, Path], Path],
    message: str,
) -> None:
    out = place(one, tmp_path)
    before = [files_of(folder) for folder in (tmp_path, one.bundle.parent)]
    assert exported(one, out) == 2
    error = capsys.readouterr().err
    assert f"\nerror: --out {out}: " in error and message in error
    assert [files_of(folder) for folder in (tmp_path, one.bundle.parent)] == before


def test_an_older_export_is_replaced(one: Made, tmp_path: Path) -> None:
    out = shutil.copytree(one.export, tmp_path / "out")
    (out / "encoder" / "open_clip_model.safetensors").write_bytes(b"of an older one")
    (out / "stale").write_text("of an older one")
    assert exported(one, out) == 0
    assert files_of(out) == files_of(one.export) and os.listdir(tmp_path) == ["out"]


def test_an_export_of_an_export_is_the_same_files(
    made: Made, tmp_path: Path, asked_of_network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--bundle", str(made.export), "--artifacts", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    assert main(["export", *source]) == 0
    assert files_of(tmp_path / "out") == files_of(made.export)
    assert "without" not in capsys.readouterr().err and not asked_of_network


@pytest.mark.parametrize(
    ("step", "at", "older", "error"),
    [
        ("save_encoder", 1, True, KeyboardInterrupt()),
        ("write_part", 1, False, KeyboardInterrupt()),
        ("write_index", 1, False, OSError(28, "No space left on device")),
        ("probe", 2, True, KeyboardInterrupt()),
    ],
)
def test_an_interrupted_export_leaves_the_older_one(
    one: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    at: int,
    older: bool,
    error: BaseException,
) -> None:
    out, function, calls = tmp_path / "out", getattr(export, step), []
    if older:
        shutil.copytree(one.export, out)

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == at:
            raise error
        return function(*arguments)

    monkeypatch.setattr(export, step, failing)
    assert exported(one, out) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert len(calls) == at and os.listdir(tmp_path) == (["out"] if older else [])
    assert not older or files_of(out) == files_of(one.export)
    assert isinstance(error, KeyboardInterrupt) or "error: [Errno 28] No space left" in capsys.readouterr().err


def test_a_given_encoder_is_used_instead_of_the_exported_one(one: Made, tmp_path: Path) -> None:
    folder = shutil.copytree(one.export, tmp_path / "copy")
    for path in (folder / "encoder").iterdir():
        path.write_bytes(b"")
    with pytest.raises(EncoderUnavailable, match="source.json"):
        MemeClassifier.from_bundle(folder, CPU)
    MemeClassifier.from_bundle(folder, CPU, model=f"local-dir:{ENCODER}")
    with pytest.raises(EncoderUnavailable, match="nowhere"):
        MemeClassifier.from_bundle(one.export, CPU, model="local-dir:nowhere")
    with pytest.raises(EncoderUnavailable, match="brings its own weights"):
        MemeClassifier.from_bundle(one.export, CPU, pretrained="nowhere.pt")


def test_an_export_without_its_encoder_is_a_plain_bundle(
    one: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a published encoder of the hub."""
    published = {"model": "ViT-L-14", "pretrained": "openai"}
    out = tmp_path / "out"
    shutil.copytree(one.export, out)
    edit(out, lambda config: config.update(encoder=published))
    shutil.rmtree(out / "encoder")
    asked: list[Any] = []

    def load(model: str, pretrained: str, device: torch.device, options: EncoderOptions, delta: Path | None) -> Any:
        assert delta is None
        asked.append((model, pretrained))
        return load_encoder(f"local-dir:{ENCODER}", "", device, options)

    monkeypatch.setattr(classifier_module, "load_encoder", load)
    assert MemeClassifier.from_bundle(out, CPU).name == "tested" and asked == [("ViT-L-14", "openai")]


@pytest.mark.parametrize(
    ("model", "pretrained", "kept"),
    [
        ("ViT-L-14", "openai", ("ViT-L-14", "openai")),
        ("hf-hub:some/model", "", ("hf-hub:some/model", "")),
        ("local-dir:/home/me/encoder", "", ("local-dir:encoder", "")),
        ("local-dir:demo/encoder/", "", ("local-dir:encoder", "")),
        ("ViT-B-32", "/home/me/w.pt", ("ViT-B-32", "w.pt")),
    ],
)
def test_paths_keep_their_last_part(model: str, pretrained: str, kept: tuple[str, str]) -> None:
    config = {"encoder": {"model": model, "pretrained": pretrained}, "data": {"source": "/home/me/memes", "more": 1}}
    assert export._without_paths(config) == {
        "encoder": dict(zip(("model", "pretrained"), kept)), "data": {"source": "memes", "more": 1},
    }  # fmt: skip


def test_a_reload_of_the_export_reuses_the_encoder(one: Made) -> None:
    with loaded(one.bundle) as old, loaded(one.export, old.predictor) as new:
        assert new.predictor.classifier.encoder is old.predictor.classifier.encoder
        assert new.predictor.embedding_cache is old.predictor.embedding_cache


def test_a_report_of_an_export_is_refused(one: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([str(one.export), "--artifacts", str(one.artifacts)]) == 2
    assert "predictions.json" in capsys.readouterr().err
    before = files_of(one.export)
    never_judged = shutil.copytree(one.export, tmp_path / "copy")
    (never_judged / "metrics.json").unlink()
    for artifacts in (one.artifacts, never_judged / "training"):
        assert report([str(never_judged), "--artifacts", str(artifacts)]) == 2
        assert "\nerror: " in capsys.readouterr().err
    assert files_of(one.export) == before


def test_an_export_without_training_memes(one: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default folder has the bundle's name and version, and is always inside the artifacts folder."""
    bundle = edit(shutil.copytree(one.bundle, tmp_path / "b"), lambda config: config.update(name="../a b"))
    assert main(["export", "--bundle", str(bundle), "--artifacts", str(tmp_path / "artifacts")]) == 0
    out = tmp_path / "artifacts" / "exports" / "__a_b" / "b"
    assert out.is_dir() and not (out / "training").exists()
    printed = capsys.readouterr()
    assert "exported without the training memes, so explanations will be empty" in printed.err and ".h5" in printed.err
    first, *_, training, last = printed.out.splitlines()
    total = sum(len(data) for data in files_of(out).values())
    assert first == f"export    {out} ({total / 1e6:.1f} MB)" and last == f"next      make serve BUNDLE={out}"
    assert training == "training  none (0.0 MB)"
    (said, *_) = explained(one, out, tmp_path)
    assert "is missing or damaged" in said.note and said.both is not None
