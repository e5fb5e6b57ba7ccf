"""The served probability equals that of `head` on cached embeddings, for every image format."""

import base64
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from fakes import FakeEncoder, picture
from flask.testing import FlaskClient
from head_bundles import save_bundle
from machine import PATIENCE, batch_tolerance, until
from PIL import Image
from torch import Tensor, nn

from api.__main__ import main
from api.http.app import create_app
from api.http.service import Service
from api.metrics import Metrics
from api.model import prediction
from api.model.classifier import MemeClassifier
from api.model.loading import LoadedModel, load_model
from api.model.prediction import Predictor
from api.settings import ServeSettings
from cache import NOTICE, SpecMismatch, VectorStore, read_index
from embed.clip.encoder import load_encoder
from embed.clip.options import EncoderOptions, older_spec
from embed.clip.weights import EncoderUnavailable
from embed.data.dataset import read_dataset
from embed.data.memes import Meme
from embed.job import embed_dataset
from embed.plan.settings import EmbedSettings
from head.bundle.format import Bundle, UnusableBundle, load_bundle
from head.candidates.data import CandidateData
from head.candidates.table import CANDIDATES, TRAINED
from head.data.features import Features, joint_columns
from head.judge.calibration import Calibration
from head.model.ensemble import HeadEnsemble
from head.model.fusion import FusionHead, HeadConfig, scaled_columns
from tests.api.model.test_card import metrics_of

CPU = torch.device("cpu")
LONG = "a very long tale " * 60


@dataclass(frozen=True)
class Trained:
    """A bundle, and the probability of each meme by `head` on cached embeddings."""

    folder: Path
    root: Path
    memes: dict[str, Meme]
    probability: dict[str, float]


def kind(path: Path) -> tuple[str, str, str]:
    """Suffix, true format and mode of an image file."""
    with Image.open(path) as image:
        return path.suffix, image.format or "", image.mode


def some_of_each_kind(root: Path, memes: list[Meme]) -> list[Meme]:
    """Up to eight memes of each kind of image file, both labels."""
    taken: dict[tuple[object, ...], list[Meme]] = {}
    for meme in memes:
        group = taken.setdefault((kind(root / meme.image), meme.label), [])
        if len(group) < 4:
            group.append(meme)
    return [meme for group in taken.values() for meme in group]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    root, memes = read_dataset(Path("demo/memes"))
    memes = some_of_each_kind(root, memes)
    rows = [
        {"id": m.id, "img": str(m.image), "text": ("", LONG, m.text)[min(n, 2)], "label": m.label, "split": split}
        for n, (m, split) in enumerate(zip(memes, ["train", "validation"] * len(memes)))
    ]
    data = folder / "data"
    data.mkdir()
    shutil.copytree(root / "Labelled Images", data / "Labelled Images")
    (data / "memes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = EmbedSettings(
        str(data),
        "local-dir:demo/encoder",
        artifacts=folder / "artifacts",
        device="cpu",
        options=EncoderOptions(precision="fp32"),  # where a difference of the two ways would show
    )
    embed_dataset(settings, say=print)
    index = read_index(settings.index)
    store = VectorStore(settings.layout.vectors, index.spec)
    features = as_features(store.read("image", index.image_keys), store.read("text", index.text_keys))
    ensemble = fitted(features)
    logits = ensemble.score(features)
    slope = 2 / logits.std()  # steep enough for both labels to be sure, and for a difference of the two ways to show
    calibration = Calibration("platt", float(slope), float(-slope * np.median(logits)))
    write_bundle(
        folder / "bundle", ensemble, calibration, index.spec, {n: index.source[n] for n in ("model", "pretrained")}
    )
    by_id = {meme.id: meme for meme in read_dataset(data)[1]}
    return Trained(folder / "bundle", data, by_id, dict(zip(index.ids, calibration(logits).tolist())))


def as_features(image: np.ndarray, text: np.ndarray) -> Features:
    """Features of `head` with these embeddings; the other fields are not used."""
    count = len(image)
    numbers, words = np.zeros(count, np.int64), np.full(count, "train")
    return Features(words, image, text, numbers, words, numbers, words)


def fitted(features: Features) -> HeadEnsemble:
    """Two heads of two members with fitted scaling and random weights."""
    dims = features.image.shape[1], features.text.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = [FusionHead(HeadConfig(*dims, kind, components=8), members=2) for kind in ("align", "concat")]
    halves = [torch.arange(start, len(features), 2) for start in (0, 1)]
    for head in heads:
        for side, scaling in head.scaling.items():
            scaling.fit(torch.from_numpy(getattr(features, side)), halves)
    return HeadEnsemble(heads, [0.3, 1.4])


def write_bundle(
    folder: Path,
    ensemble: HeadEnsemble,
    calibration: Calibration,
    spec: dict[str, Any],
    encoder: dict[str, str],
    review: dict[str, Any] | None = None,
) -> Bundle:
    """A bundle that ships `ensemble` and has another method."""
    figures = metrics_of("tuning")
    settings = {
        "name": "tested", "shipped": "this", "encoder": encoder, "spec": spec, "calibration": asdict(calibration),
        "threshold": 0.5, "review": review, "aim": {"objective": "macro-f1", "target": None}, "protocol": {"name": "kfold"},
        "data": {"source": "memes", "index": "memes.h5", "fingerprint": "0" * 64, "counts": {}}, "seed": 0,
        "tuning_metrics": figures | {"methods": figures["methods"] | {"this": figures["methods"]["fusion ensemble"]}},
    }  # fmt: skip
    return save_bundle(folder, {"other": HeadEnsemble([ensemble.heads[0]], [-1.0]), "this": ensemble}, settings, {})


@pytest.fixture(scope="module")
def classifier(trained: Trained) -> MemeClassifier:
    return MemeClassifier.from_bundle(trained.folder, CPU)


@pytest.fixture(scope="module")
def client(trained: Trained) -> Iterator[FlaskClient]:
    settings, metrics = settings_of(trained.folder), Metrics()
    service = Service(settings, metrics, lambda old: load_model(settings, metrics, old=old))
    with closing(service.predictor):
        yield create_app(service).test_client()


def settings_of(bundle: Path, **more: Any) -> ServeSettings:
    return ServeSettings(bundle=bundle, device="cpu", **more)


def test_the_demo_set_has_the_usual_image_formats(trained: Trained) -> None:
    kinds = {kind(trained.root / meme.image) for meme in trained.memes.values()}
    assert kinds >= {(".png", "PNG", "RGBA"), (".png", "PNG", "P"), (".png", "JPEG", "RGB"), (".jpg", "JPEG", "RGB")}


def test_probability_over_http_equals_that_from_the_cache(client: FlaskClient, trained: Trained) -> None:
    assert np.ptp(list(trained.probability.values())) > 0.2, "a constant would pass"
    labels = set()
    for name, expected in trained.probability.items():
        meme = trained.memes[name]
        path = trained.root / meme.image
        body = {"image": base64.b64encode(path.read_bytes()).decode(), "text": meme.text}
        answer = client.post("/predict", json=body).get_json()
        assert answer["probability"] == pytest.approx(expected, abs=1e-5), (name, kind(path))
        assert (answer["label"] == "offensive") == (expected >= 0.5) and "review" not in answer
        labels.add(answer["label"])
    assert labels == {"offensive", "non-offensive"}


def test_the_classifier_is_one_module_and_takes_batches(classifier: MemeClassifier, trained: Trained) -> None:
    names = list(trained.probability)[:5]
    pixels = [classifier.prepare_image((trained.root / trained.memes[n].image).read_bytes()) for n in names]
    tokens = [classifier.prepare_text(trained.memes[n].text) for n in names]
    assert isinstance(classifier, torch.nn.Module) and not classifier.training
    expected = [trained.probability[n] for n in names]
    assert classifier(pixels, tokens).tolist() == pytest.approx(expected, abs=1e-5)
    assert {name.split(".")[0] for name in classifier.state_dict()} == {"image_tower", "text_tower", "head"}


class TinyEncoder(FakeEncoder):
    """A fake encoder with the towers that the classifier needs."""

    image_tower = text_tower = nn.Identity()


@pytest.mark.parametrize(
    "calibration",
    [Calibration("temperature", 0.7, 0.0), Calibration("platt", 2.5, -1.25), Calibration("platt", 0.01, 3.0),
     Calibration("platt", 100.0, 40.0)],
)  # fmt: skip
def test_a_probability_is_the_calibrated_score_of_the_shipped_ensemble(
    tmp_path: Path, calibration: Calibration
) -> None:
    encoder = TinyEncoder(tmp_path)
    pixels = [encoder.pixels(picture(seed)) for seed in range(12)]
    tokens = [encoder.tokens("word " * seed) for seed in range(12)]
    features = as_features(encoder.image_features(pixels).numpy(), encoder.text_features(tokens).numpy())
    ensemble = fitted(features)
    write_bundle(tmp_path / "b", ensemble, calibration, encoder.spec, {"model": "fake", "pretrained": ""})
    probability = MemeClassifier(encoder, load_bundle(tmp_path / "b"))(pixels, tokens)
    logits = ensemble.score(features)
    assert np.ptp(logits) > 0.05, "a constant would pass"
    np.testing.assert_allclose(probability.numpy(), calibration(logits), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name != TRAINED])
def test_every_candidate_can_be_served(name: str, trained: Trained, classifier: MemeClassifier, tmp_path: Path) -> None:
    index = read_index(next((trained.folder.parent / "artifacts" / "datasets").glob("*.h5")))
    store = VectorStore(trained.folder.parent / "artifacts" / "vectors", index.spec)
    image, text = store.read("image", index.image_keys), store.read("text", index.text_keys)
    features = replace(as_features(image, text), label=np.array(index.labels), joint=image.shape[1])
    rows = np.arange(len(features))
    method = CANDIDATES[name](CandidateData(features, [(rows[::2], rows[1::2]), (rows[1::2], rows[::2])], 0))
    assert method is not None and method.ensemble is not None
    calibration = Calibration("platt", float(2 / method.score(features).std()), 0.2)
    write_bundle(
        tmp_path / "b", method.ensemble, calibration, index.spec, {"model": "local-dir:demo/encoder", "pretrained": ""}
    )
    served = MemeClassifier.from_bundle(tmp_path / "b", CPU, loaded=classifier.encoder)
    expected = calibration(method.score(features))
    assert np.ptp(expected) > 0.05, "a constant would pass"
    for row in range(0, len(features), 5):
        meme = trained.memes[index.ids[row]]
        pixels, tokens = served.prepare_image((trained.root / meme.image).read_bytes()), served.prepare_text(meme.text)
        assert float(served([pixels], [tokens])) == pytest.approx(expected[row], abs=1e-5)


def test_a_bundle_of_both_features_encodes_once(trained: Trained, tmp_path: Path) -> None:
    encoder = load_encoder("local-dir:demo/encoder", "", CPU, EncoderOptions("both", "fp32"))
    memes = list(trained.memes.values())[:40]
    pixels = [encoder.pixels((trained.root / meme.image).read_bytes()) for meme in memes]
    tokens = [encoder.tokens(meme.text) for meme in memes]
    image, text = encoder.image_features(pixels).numpy(), encoder.text_features(tokens).numpy()
    joint = joint_columns(encoder.spec, image.shape[1], text.shape[1])
    assert 0 < joint < min(image.shape[1], text.shape[1])
    features = replace(as_features(image, text), joint=joint)
    config = HeadConfig(image.shape[1], text.shape[1], "align", components=8, joint=joint, agreement=True)
    head = FusionHead(config, members=2).eval()
    for name, scaling in head.scaling.items():
        scaling.fit(
            *scaled_columns(name, torch.from_numpy(image), torch.from_numpy(text), joint),
            [torch.arange(20), torch.arange(20, 40)],
        )
    ensemble, calibration = HeadEnsemble([head], [1.0]), Calibration("temperature", 3.0, 0.0)
    write_bundle(
        tmp_path / "b", ensemble, calibration, encoder.spec, {"model": "local-dir:demo/encoder", "pretrained": ""}
    )
    served = MemeClassifier.from_bundle(tmp_path / "b", CPU)
    expected = calibration(ensemble.score(features))
    assert served(pixels, tokens).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("band", [None, {"low": 0.25, "high": 0.75}])
def test_the_review_band_of_the_bundle(tmp_path: Path, band: dict[str, float] | None) -> None:
    encoder = TinyEncoder(tmp_path)
    features = as_features(np.eye(9, 48, dtype=np.float32), np.eye(9, 2, dtype=np.float32))
    review = band and {**band, "share": 0.2, "coverage": 0.8, "error": {"point": 0.1}}
    bundle = write_bundle(
        tmp_path / "b", fitted(features), Calibration("temperature", 1.0, 0.0), encoder.spec,
        {"model": "fake", "pretrained": ""}, review,
    )  # fmt: skip
    assert MemeClassifier(encoder, bundle).review == band


def test_predict_command_prints_the_same_json(
    client: FlaskClient, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    meme = next(m for m in trained.memes.values() if m.text and len(m.text) < 200)
    path = trained.root / meme.image
    assert main(["predict", str(path), "--text", meme.text, "--bundle", str(trained.folder), "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    with path.open("rb") as file:
        served = client.post("/predict", data={"image": (file, "x"), "text": meme.text}).get_json()
    assert printed.keys() == served.keys()
    assert {**printed, "request_id": ""} == {**served, "request_id": ""}


def test_a_bundle_of_another_encoder_is_refused(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes((trained.folder / "head.safetensors").read_bytes())
    config = json.loads((trained.folder / "config.json").read_text())
    config["spec"]["preprocess"]["size"] = 336
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecMismatch, match="preprocess.size: expected 336, got"):
        MemeClassifier.from_bundle(tmp_path, CPU)


def test_a_head_of_imported_vectors_is_refused(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes((trained.folder / "head.safetensors").read_bytes())
    config = json.loads((trained.folder / "config.json").read_text())
    config["spec"] = {"format": 1, "imported": "0" * 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnusableBundle, match="tuned on imported vectors"):
        MemeClassifier.from_bundle(tmp_path, CPU)


def test_the_encoder_can_be_given(trained: Trained, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(Path("demo/encoder").resolve())
    assert MemeClassifier.from_bundle(trained.folder, CPU, model=f"local-dir:{moved}").name == "tested"
    with pytest.raises(EncoderUnavailable, match="open_clip_config.json"):
        MemeClassifier.from_bundle(trained.folder, CPU, model=f"local-dir:{tmp_path / 'nowhere'}")


def test_a_missing_bundle_or_picture_exits_with_2(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(b"no image")
    for arguments, said in (
        ([str(tmp_path / "none.png"), "--bundle", str(trained.folder)], "none.png"),
        ([str(image), "--bundle", str(tmp_path)], "config.json"),
        ([str(image), "--bundle", str(trained.folder)], "not an image"),
    ):
        assert main(["predict", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: ") and said in error
    with pytest.raises(UnusableBundle):
        MemeClassifier.from_bundle(tmp_path, CPU)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> MemeClassifier:
    """A classifier of the demo encoder in one precision, with differing probabilities."""
    encoder = load_encoder("local-dir:demo/encoder", "", CPU, EncoderOptions(precision=request.param))
    memes = list(trained.memes.values())
    features = as_features(
        encoder.image_features([encoder.pixels((trained.root / meme.image).read_bytes()) for meme in memes]).numpy(),
        encoder.text_features([encoder.tokens(meme.text) for meme in memes]).numpy(),
    )
    ensemble = fitted(features)
    logits = ensemble.score(features)
    slope = float(2 / logits.std())
    calibration = Calibration("platt", slope, float(-slope * np.median(logits)))
    folder = tmp_path_factory.mktemp("demo") / "bundle"
    bundle = write_bundle(folder, ensemble, calibration, encoder.spec, {"model": "demo", "pretrained": ""})
    return MemeClassifier(encoder, bundle)


def test_probabilities_do_not_depend_on_the_batch(
    demo: MemeClassifier, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.model.batching.cores", lambda: 2)
    asked = [prediction.Meme((trained.root / m.image).read_bytes(), m.text) for m in trained.memes.values()][:20]
    with closing(Predictor(demo, settings_of(trained.folder, cache=0), Metrics())) as predictor:
        alone = [predictor.predict(meme, "id").probability for meme in asked]
        sizes, together = run_together(demo, predictor, asked, monkeypatch)
    assert max(sizes) == 8 and np.ptp(alone) > 0.2, "one at a time, or a constant, would pass"
    apart = 2 * batch_tolerance(EncoderOptions.of_spec(demo.encoder.spec).precision)
    np.testing.assert_allclose(together, alone, rtol=0, atol=apart)


def run_together(
    demo: MemeClassifier, predictor: Predictor, asked: list[prediction.Meme], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], list[float]]:
    """The batch sizes and probabilities when the model waits until all memes are queued."""
    sizes: list[int] = []
    all_sent, encode = threading.Event(), demo.encode_images

    def held(pixels: list[Tensor]) -> Tensor:
        sizes.append(len(pixels))
        assert all_sent.wait(PATIENCE)
        return encode(pixels)

    monkeypatch.setattr(demo, "encode_images", held)
    answers = [predictor.begin(meme, "id") for meme in asked]
    all_sent.set()
    return sizes, [answer().probability for answer in answers]


@contextmanager
def loaded(settings: ServeSettings, old: Predictor | None = None) -> Iterator[LoadedModel]:
    found = load_model(settings, Metrics(), old=old)
    with closing(found.predictor):
        yield found


def rewritten(trained: Trained, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the bundle with another config."""
    shutil.copytree(trained.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_another_bundle_of_the_same_encoder_reuses_encoder_and_cache(trained: Trained, tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    latest.symlink_to(trained.folder)
    meme = prediction.Meme(picture(), "words")
    with loaded(settings_of(latest)) as old:
        before = old.predictor.predict(meme, "id")
        latest.unlink()
        latest.symlink_to(rewritten(trained, tmp_path / "next", lambda config: config.update(version="next")))
        with loaded(settings_of(latest), old.predictor) as new:
            assert (new.predictor.model.version, new.card.model.version) == ("next", "next")
            assert new.predictor.classifier.encoder is old.predictor.classifier.encoder
            assert new.predictor.embedding_cache is old.predictor.embedding_cache
            assert new.predictor.predict(meme, "id").probability == before.probability


def test_the_cache_is_not_reused_for_another_encoder(trained: Trained, demo: MemeClassifier, tmp_path: Path) -> None:
    """One of the two encoders of `demo` has the spec of the bundle."""
    with (
        closing(Predictor(demo, settings_of(trained.folder), Metrics())) as old,
        loaded(settings_of(trained.folder), old) as new,
    ):
        same = demo.encoder.spec == new.predictor.classifier.encoder.spec
        assert same == (demo.encoder.spec["dtype"] == "float32")
        assert (new.predictor.embedding_cache is old.embedding_cache) == same
        assert (new.predictor.classifier.encoder is demo.encoder) == same


@pytest.mark.parametrize("alpha", [255, 90])
def test_a_bundle_of_an_older_spec_is_served_as_it_was(trained: Trained, tmp_path: Path, alpha: int) -> None:
    """Such a spec has no field `picture`: transparent pictures are encoded with the colours that they hide."""
    old = rewritten(trained, tmp_path / "old", lambda config: config.update(spec=older_spec(config["spec"])))
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 30), (9, 80, 200, alpha)).save(buffer, "PNG")
    with loaded(settings_of(old)) as older, loaded(settings_of(trained.folder), older.predictor) as newer:
        classifier = older.predictor.classifier
        assert "picture" not in classifier.encoder.spec and classifier.encoder is not newer.predictor.classifier.encoder
        assert older.predictor.embedding_cache is not newer.predictor.embedding_cache
        resize = open_clip.image_transform(classifier.encoder.spec["preprocess"]["size"], is_train=False).transforms[
            :-2
        ]
        pixels = reduce(lambda image, step: step(image), resize, Image.open(buffer))
        expected = classifier([torch.from_numpy(np.array(pixels))], [classifier.prepare_text("words")])
        was, now = (of.predictor.predict(prediction.Meme(buffer.getvalue(), "words"), "id") for of in (older, newer))
        assert was.probability == round(float(expected), 6)
        assert (now.probability == was.probability) == (alpha == 255)


@contextmanager
def started(bundle: Path, *python: str) -> Iterator[subprocess.Popen[str]]:
    """A server process on a free port; python: arguments to run instead of the module."""
    command = [sys.executable, *(python or ("-m", "api")), "serve", "--bundle", str(bundle), "--port", "0"]
    with subprocess.Popen(
        [*command, "--device", "cpu", "--ocr", "off"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def port_of(process: subprocess.Popen[str]) -> int:
    """The port that it prints."""
    assert process.stdout
    line = process.stdout.readline()
    found = re.fullmatch(r"serving tested [0-9a-f]{12} on http://127\.0\.0\.1:(\d+)\n", line)
    assert found, line
    return int(found[1])


def log_line(process: subprocess.Popen[str], start: str) -> dict[str, Any]:
    """The next log line whose message has this start."""
    assert process.stderr
    return next(entry for line in process.stderr if (entry := json.loads(line))["message"].startswith(start))


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


def test_the_server_answers_reloads_and_stops_on_sigterm_with_exit_0(trained: Trained, tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    latest.symlink_to(trained.folder)
    with started(latest) as process:
        port = port_of(process)
        first = ask(port, "GET", "/readyz")[1]
        assert first["status"] == "ready"
        body = json.dumps({"image": base64.b64encode(picture()).decode()}).encode()
        status, answer = ask(port, "POST", "/predict", body, Content_Type="application/json")
        assert status == 200 and answer["model"] == first["model"]
        status, problem = ask(port, "POST", "/predict", b"x" * 25_000_000, Content_Type="application/json")
        assert status == problem["status"] == 413 and "send a smaller" in problem["detail"]
        # waitress's own refusal, which it would word otherwise and call 501
        status, problem = ask(port, "POST", "/predict", b"x", Transfer_Encoding="gzip")
        assert status == problem["status"] == 400 and "not valid HTTP" in problem["detail"]
        point_to(latest, rewritten(trained, tmp_path / "next", lambda config: config.update(version="next")))
        process.send_signal(signal.SIGHUP)
        taken = log_line(process, "reload")["message"]
        assert re.fullmatch(r"reloaded: tested next is in use, before it was tested [0-9a-f]{12}", taken)
        # some of the demo's memes are other memes, of which the log told at the start, too
        assert ask(port, "GET", "/readyz")[1]["model"] == {"name": "tested", "version": "next", "notice": NOTICE}
        point_to(latest, rewritten(trained, tmp_path / "broken", lambda config: config.pop("threshold")))
        process.send_signal(signal.SIGHUP)
        refused = log_line(process, "reload")
        assert refused["level"] == "ERROR"
        assert refused["message"].startswith("reload failed, tested next stays") and "threshold" in refused["message"]
        assert ask(port, "GET", "/readyz")[1]["model"]["version"] == "next"
        status, answer = ask(port, "POST", "/predict", body, Content_Type="application/json")
        assert status == 200 and answer["model"]["version"] == "next"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def point_to(link: Path, target: Path) -> None:
    """As `make tune` moves `latest`."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


# A model that is still at work when the process is told to end: at once with the second signal, or while it loads.
_BUSY = """
import runpy, torch
from api.model.classifier import MemeClassifier
def busy(*_):
    print("busy", flush=True)
    while True:
        torch.ones(700, 700) @ torch.ones(700, 700)
MemeClassifier.warm_up = lambda *_: None
MemeClassifier.{} = busy
runpy.run_module("api", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("method", ["warm_up", "encode_images"])
def test_the_exit_code_is_0_while_the_model_runs(trained: Trained, method: str) -> None:
    with started(trained.folder, "-c", _BUSY.format(method)) as process, ExitStack() as cleanup:
        if method == "encode_images":
            client = http.client.HTTPConnection("127.0.0.1", port_of(process), timeout=PATIENCE)
            cleanup.callback(client.close)
            body = json.dumps({"image": base64.b64encode(picture()).decode()})
            client.request("POST", "/predict", body, {"Content-Type": "application/json"})
        assert process.stdout and process.stdout.readline() == "busy\n"

        def ended() -> bool:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)  # signals that come at once are one
            return process.poll() is not None

        until(ended)
        assert process.returncode == 0
