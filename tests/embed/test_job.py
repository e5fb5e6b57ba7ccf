"""The embedding job with a fake encoder: nothing twice, nothing lost, everything counted."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeEncoder, memes, picture, write_multioff
from machine import PATIENCE, until

import embed.clip.encoder
import embed.engines.writing
import embed.job
import embed.pictures.hashing
import embed.plan.wanted
from cache import VectorStore, read_index, text_key
from embed.__main__ import main
from embed.base.text import clean_text
from embed.clip.options import EncoderOptions
from embed.clip.prompts import PROMPTS
from embed.engines.local import LocalEngine
from embed.job import NothingReadable, Summary, embed_dataset
from embed.plan.settings import EmbedSettings

N_PROMPTS = sum(map(len, PROMPTS.values()))
Run = Callable[..., Summary]


@pytest.fixture
def loads() -> list[FakeEncoder]:
    """Every encoder that was loaded."""
    return []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[FakeEncoder]) -> Run:
    """Embed tmp_path/data with the fake encoder."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"w")

    def load(*_: object) -> FakeEncoder:
        loads.append(FakeEncoder(weights))
        return loads[-1]

    monkeypatch.setattr(embed.clip.encoder, "load_encoder", load)

    def run(**changes: object) -> Summary:
        settings = {"data": str(tmp_path / "data"), "model": "fake", "artifacts": tmp_path / "artifacts"}
        return embed_dataset(EmbedSettings(**{**settings, **changes}), say=lambda note: None)

    return run


def load_with_spec(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    """From now on, encoders come with these fields of their spec changed."""
    load = embed.clip.encoder.load_encoder

    def changed(*arguments: object) -> FakeEncoder:
        encoder = load(*arguments)
        encoder.spec = {**encoder.spec, **changes}
        return encoder

    monkeypatch.setattr(embed.clip.encoder, "load_encoder", changed)


def test_first_run_embeds_and_the_second_loads_no_model(tmp_path: Path, run: Run, loads: list[FakeEncoder]) -> None:
    write_multioff(tmp_path / "data", memes(50))
    first = run()
    assert first.work.distinct == first.work.embedded == {"image": 50, "text": 50}
    assert first.work.cached == {"image": 0, "text": 0} and not first.skipped
    second = run()
    assert second.work.embedded == {"image": 0, "text": 0} and second.work.cached == {"image": 50, "text": 50}
    assert len(loads) == 1


def test_only_what_is_new_is_embedded(tmp_path: Path, run: Run) -> None:
    write_multioff(tmp_path / "data", memes(10))
    run()
    write_multioff(tmp_path / "data", memes(60))
    assert run().work.embedded == {"image": 50, "text": 50}
    (tmp_path / "data" / "Labelled Images" / "m3.png").write_bytes(picture(99))
    assert run().work.embedded == {"image": 1, "text": 0}


def test_a_copy_is_embedded_once_and_both_rows_have_its_key(tmp_path: Path, run: Run) -> None:
    write_multioff(tmp_path / "data", [("a.png", "same", "1"), ("b.png", "same", "0")])
    folder = tmp_path / "data" / "Labelled Images"
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    assert run().work.embedded == {"image": 1, "text": 1}
    index = read_index(EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts").index)
    assert len(set(index.image_keys)) == len(set(index.text_keys)) == 1 and index.labels == [1, 0]


def test_the_index_leads_to_the_vectors_of_each_row(tmp_path: Path, run: Run, loads: list[FakeEncoder]) -> None:
    write_multioff(tmp_path / "data", memes(70))
    summary = run()
    index = read_index(EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts").index)
    stored = VectorStore(tmp_path / "artifacts" / "vectors", index.spec)
    image = stored.read("image", index.image_keys)
    for row, path in enumerate(index.images):
        pixels = loads[0].pixels((tmp_path / "data" / path).read_bytes())
        assert np.array_equal(image[row], pixels.flatten().numpy())
    assert stored.token_counts(index.text_keys).tolist() == [4] * 70
    assert summary.store.spec == index.spec


def test_bad_pictures_are_skipped_counted_and_not_tried_again(
    tmp_path: Path, run: Run, loads: list[FakeEncoder]
) -> None:
    write_multioff(tmp_path / "data", memes(6))
    folder = tmp_path / "data" / "Labelled Images"
    (folder / "m0.png").unlink()
    (folder / "m1.png").write_bytes(b"")
    (folder / "m2.png").write_bytes(picture(size=(64, 64))[:-2000])
    (folder / "m3.png").write_bytes(b"no image")
    for summary in (run(), run()):
        reasons = {name: reason for name, _, reason in summary.skipped}
        assert list(reasons) == ["m0.png", "m1.png", "m2.png", "m3.png"]
        assert "no such file" in reasons["m0.png"] and "empty" in reasons["m1.png"]
        assert "cut off" in reasons["m2.png"] and "not an image" in reasons["m3.png"]
    assert len(loads) == 1
    assert run(retry_failed=True).work.embedded["image"] == 0 and len(loads) == 2
    index = read_index(EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts").index)
    assert len(index) == 6 and [bool(s) for s in index.skipped] == [True] * 4 + [False] * 2


def test_nothing_readable_is_an_error(tmp_path: Path, run: Run) -> None:
    write_multioff(tmp_path / "data", memes(2))
    for path in (tmp_path / "data" / "Labelled Images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(NothingReadable, match="none of its 2 memes can be used. m0.png"):
        run()


def test_texts_of_every_kind(tmp_path: Path, run: Run) -> None:
    texts = ["", "word " * 300, "🤷‍♀️ 😀", "Привет 你好 مرحبا", "tab\tand\nnewline"]
    write_multioff(tmp_path / "data", [(f"{i}.png", text, "1") for i, text in enumerate(texts)])
    summary = run()
    assert summary.work.distinct["text"] == 5 and summary.too_long == 1 and not summary.skipped


def test_another_model_stands_beside_the_first(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_multioff(tmp_path / "data", memes(3))
    first = run()
    load_with_spec(monkeypatch, model="other")
    second = run(model="other")
    assert second.work.embedded == {"image": 3, "text": 3} and second.store.folder != first.store.folder
    assert run().work.embedded == {"image": 0, "text": 0}


def test_changed_weights_are_another_spec(tmp_path: Path, run: Run, loads: list[FakeEncoder]) -> None:
    write_multioff(tmp_path / "data", memes(3))
    run()
    (tmp_path / "weights").write_bytes(b"other weights")
    run()
    assert len(loads) == 2  # the remembered spec was not trusted


def test_weights_that_changed_unseen_do_not_mix_with_the_old_vectors(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", memes(3))
    first = run()
    load_with_spec(monkeypatch, weights="others, in a file of the same size and times")
    write_multioff(tmp_path / "data", memes(4))
    second = run()
    assert second.store.folder != first.store.folder and second.work.embedded == {"image": 4, "text": 4}
    assert len(VectorStore(tmp_path / "artifacts" / "vectors", first.store.spec).known("image")) == 3


@pytest.fixture
def tiny_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed.engines.writing, "_SEGMENT_SECONDS", 0.0)


def test_ctrl_c_keeps_what_is_encoded(
    tmp_path: Path, run: Run, loads: list[FakeEncoder], monkeypatch: pytest.MonkeyPatch, tiny_segments: None
) -> None:
    data = write_multioff(tmp_path / "data", memes(80))
    encode = FakeEncoder.image_features
    # of the fifth batch, by what is in it: threads take batches in no fixed order
    last = FakeEncoder(tmp_path).pixels((data / "Labelled Images" / "m32.png").read_bytes())

    def interrupted(encoder: FakeEncoder, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        if any(torch.equal(one, last) for one in pixels):
            raise KeyboardInterrupt
        return encode(encoder, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEncoder, "image_features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert 4 * 8 <= run().work.cached["image"] < 80


@pytest.mark.parametrize(("side", "said"), [("image", "its vector has NaN"), ("text", "its text: its vector has NaN")])
def test_a_meme_whose_vector_is_not_finite_is_skipped_and_blocks_nothing(
    tmp_path: Path, run: Run, loads: list[FakeEncoder], monkeypatch: pytest.MonkeyPatch, side: str, said: str
) -> None:
    write_multioff(tmp_path / "data", memes(20))
    encode = getattr(FakeEncoder, f"{side}_features")
    whole = run(artifacts=tmp_path / "whole")
    index = read_index(EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "whole").index)
    key = index.image_keys[7] if side == "image" else index.text_keys[7]
    odd = torch.tensor(whole.store.read(side, [key])[0])

    def with_nan(encoder: FakeEncoder, items: Sequence[torch.Tensor]) -> torch.Tensor:
        vectors = encode(encoder, items)
        vectors[(vectors == odd).all(dim=1)] = torch.nan
        return vectors

    monkeypatch.setattr(FakeEncoder, f"{side}_features", with_nan)
    for _ in range(2):
        summary = run()
        ((name, _, reason),) = summary.skipped
        assert name == "m7.png" and reason.startswith(said)
    assert summary.work.embedded == {"image": 0, "text": 0} and len(loads) == 2  # the whole run's and the first


def test_the_segments_of_many_small_runs_are_merged(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.store.compaction.MANY", 3)
    counts = []
    for count in (3, 6, 9):
        write_multioff(tmp_path / "data", memes(count))
        summary = run()
        counts.append(len(list(summary.store.folder.glob("image-*.h5"))))
    assert counts == [1, 2, 1]
    again = run()
    assert again.work.embedded == {"image": 0, "text": 0} and again.work.cached["image"] == 9


def test_a_prompt_whose_vector_is_not_finite_is_left_out_of_the_index(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", memes(3))
    (first, *others), other_label = PROMPTS["offensive"], list(PROMPTS["non-offensive"])
    odd = torch.tensor(run(artifacts=tmp_path / "whole").store.read("text", [text_key(first)])[0])
    encode = FakeEncoder.text_features

    def with_nan(encoder: FakeEncoder, items: Sequence[torch.Tensor]) -> torch.Tensor:
        vectors = encode(encoder, items)
        vectors[(vectors == odd).all(dim=1)] = torch.nan
        return vectors

    monkeypatch.setattr(FakeEncoder, "text_features", with_nan)
    run()
    (index,) = (tmp_path / "artifacts" / "datasets").glob("*.h5")
    assert read_index(index).prompts == {"offensive": others, "non-offensive": other_label}


def test_an_encoder_whose_weights_are_elsewhere_is_asked_for_its_spec_once(
    tmp_path: Path, run: Run, loads: list[FakeEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", memes(3))
    asked: list[None] = []

    class Elsewhere(LocalEngine):
        def load(self) -> tuple[dict[str, object], Path]:
            asked.append(None)
            return super().load()[0], tmp_path / "on" / "a" / "worker"

    monkeypatch.setattr(embed.job, "LocalEngine", Elsewhere)
    for embedded in (3, 0):  # its spec is not remembered
        asked.clear()
        assert run().work.embedded == {"image": embedded, "text": embedded}
        assert len(asked) == 1 + 2 * bool(embedded)  # and before each fill, when it is loaded


def test_two_jobs_at_once_share_the_work(
    tmp_path: Path, run: Run, loads: list[FakeEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_multioff(tmp_path / "data", memes(60))
    settings = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts")
    both_planned = threading.Barrier(2)
    load = embed.clip.encoder.load_encoder

    def load_together(*arguments: object) -> FakeEncoder:
        both_planned.wait(timeout=PATIENCE)  # now both have found everything missing
        return load(*arguments)

    monkeypatch.setattr(embed.clip.encoder, "load_encoder", load_together)
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        jobs = list(pool.map(lambda _: embed_dataset(settings, said.append), range(2)))
    for kind in ("image", "text"):
        assert sorted(job.work.embedded[kind] for job in jobs) == [0, 60]
        assert sorted(job.work.cached[kind] for job in jobs) == [0, 60]
    rows = [json.loads(line)["rows"] for line in (jobs[0].store.folder / "manifest.jsonl").read_text().splitlines()]
    assert sum(rows) == 120 + N_PROMPTS and not run().store.damaged
    assert said.count("another job is filling this cache; waiting for it") == 1


def test_unchanged_pictures_are_not_read_again(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_multioff(tmp_path / "data", memes(9))
    read: list[Path] = []

    def noted(path: Path) -> bytes:
        read.append(path)
        return path.read_bytes()

    monkeypatch.setattr(embed.pictures.hashing, "read_picture", noted)
    run()
    assert len(read) == 9
    run()
    assert len(read) == 9
    (tmp_path / "data" / "Labelled Images" / "m3.png").write_bytes(picture(99))
    assert run().work.embedded["image"] == 1 and len(read) == 10
    assert run(rehash=True).work.embedded["image"] == 0 and len(read) == 19


def test_rehash_distrusts_sizes_and_times(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_multioff(tmp_path / "data", memes(3))
    monkeypatch.setattr(embed.pictures.hashing, "_stamp", lambda path: "as a file system without times would say")
    run()
    (tmp_path / "data" / "Labelled Images" / "m1.png").write_bytes(picture(99))
    assert run().work.embedded["image"] == 0
    assert run(rehash=True).work.embedded["image"] == 1


def test_the_index_says_which_texts_were_cut(tmp_path: Path, run: Run) -> None:
    texts = ["short", "six words and two ends fit", "seven words and two ends do not"]
    write_multioff(tmp_path / "data", [(f"{i}.png", text, "1") for i, text in enumerate(texts)])
    run()
    index = read_index(EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts").index)
    assert index.text_tokens == [3, 8, 9] and index.text_cut == [0, 0, 1]
    run(options=EncoderOptions(long_text="chunk"))
    chunked = EmbedSettings(
        str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts", options=EncoderOptions(long_text="chunk")
    ).index
    assert read_index(chunked).text_cut == [0, 0, 0]


def test_the_prompts_are_embedded_as_any_text(tmp_path: Path, run: Run, loads: list[FakeEncoder]) -> None:
    data = write_multioff(tmp_path / "data", memes(5))
    summary = run()
    index = read_index(EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts").index)
    assert index.prompts == {label: list(texts) for label, texts in PROMPTS.items()}
    for texts in index.prompts.values():
        vectors = summary.store.read("text", [text_key(text) for text in texts])
        assert vectors.tolist() == [loads[0].tokens(text)[0].tolist() for text in texts]
    longest = max(loads[0].token_count(text) for texts in PROMPTS.values() for text in texts)
    assert longest > 8 and summary.too_long == 0  # which counts memes' texts


def test_prompts_that_an_older_cache_lacks_are_all_that_is_made(
    tmp_path: Path, run: Run, loads: list[FakeEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_multioff(tmp_path / "data", memes(5))
    with monkeypatch.context() as patch:
        patch.setattr(embed.plan.wanted, "PROMPTS", {})
        assert not any(run().work.prompts.values())
    second, third = run(), run()
    assert second.work.embedded == {"image": 0, "text": 0}
    assert sorted(loads[1].encoded) == sorted([8, N_PROMPTS - 8])  # two threads: either batch may be first
    assert second.work.prompts == {"distinct": N_PROMPTS, "cached": 0, "embedded": N_PROMPTS}
    assert third.work.prompts == {"distinct": N_PROMPTS, "cached": N_PROMPTS, "embedded": 0} and len(loads) == 2


def test_a_meme_that_says_what_a_prompt_says_counts_as_a_text(tmp_path: Path, run: Run) -> None:
    write_multioff(tmp_path / "data", [("a.png", PROMPTS["offensive"][0], "1")])
    summary = run()
    assert summary.work.embedded == {"image": 1, "text": 1} and summary.work.prompts["embedded"] == N_PROMPTS - 1


def test_the_prompts_are_plain_texts_in_step() -> None:
    texts = [text for group in PROMPTS.values() for text in group]
    assert PROMPTS.keys() == {"offensive", "non-offensive"} and len(set(texts)) == len(texts)
    assert 5 <= len(PROMPTS["offensive"]) == len(PROMPTS["non-offensive"]) <= 8
    assert all(text == clean_text(text) and not {"not", "no"} & set(text.split()) for text in texts)


def test_the_index_has_the_groups_that_the_table_names(tmp_path: Path, run: Run) -> None:
    write_multioff(tmp_path / "data", memes(2))
    for path in (tmp_path / "data" / "Split Dataset").iterdir():
        path.unlink()
    rows = "m0.png,a,1,women\nm1.png,b,0,\n"
    (tmp_path / "data" / "memes.csv").write_text(f"image,text,label,group\n{rows}", "utf-8")
    run()
    assert read_index(EmbedSettings(str(tmp_path / "data"), "fake", artifacts=tmp_path / "artifacts").index).groups == [
        "women",
        "",
    ]


_KILLED = """
import itertools, sys, time
from pathlib import Path
import embed.base.threads, embed.clip.encoder, embed.engines.writing
from fakes import FakeEncoder
from embed.job import embed_dataset
from embed.plan.settings import EmbedSettings
embed.base.threads.cores = lambda: 1
embed.engines.writing._SEGMENT_SECONDS = 0.0
data, artifacts, weights = map(Path, sys.argv[1:])
number = itertools.count()
encode = lambda: time.sleep(0 if next(number) < 10 else 1000)  # until it is killed
embed.clip.encoder.load_encoder = lambda *_: FakeEncoder(weights, on_encode=encode)
embed_dataset(EmbedSettings(str(data), "fake", artifacts=artifacts), say=print)
"""


def test_kill_9_loses_the_segment_in_hand_and_nothing_else(tmp_path: Path, run: Run, loads: list[FakeEncoder]) -> None:
    data = write_multioff(tmp_path / "data", memes(320))
    undisturbed = run(artifacts=tmp_path / "undisturbed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests"])}
    command = [sys.executable, "-c", _KILLED, str(data), str(tmp_path / "artifacts"), str(tmp_path / "weights")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: len(list(tmp_path.glob("artifacts/vectors/*/image-*.h5"))) >= 3)
        finally:
            process.kill()
    resumed = run()
    assert 3 * 8 <= resumed.work.cached["image"] < 320
    assert resumed.work.embedded["image"] == 320 - resumed.work.cached["image"]
    for kind in ("image", "text"):
        keys = sorted(undisturbed.store.known(kind))
        assert keys == sorted(resumed.store.known(kind))
        assert np.array_equal(undisturbed.store.read(kind, keys), resumed.store.read(kind, keys))


_FULL_DISK = """
import resource, sys
from pathlib import Path
import embed.clip.encoder, embed.engines.writing
from embed.__main__ import main
from fakes import FakeEncoder
embed.engines.writing._SEGMENT_SECONDS = 0.0
data, artifacts, weights = sys.argv[1:]
embed.clip.encoder.load_encoder = lambda *_: FakeEncoder(Path(weights))
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
sys.exit(main(["--data", data, "--model", "fake", "--artifacts", artifacts]))
"""


def test_a_full_disk_is_a_sentence_and_the_cache_still_opens(tmp_path: Path, run: Run) -> None:
    data = write_multioff(tmp_path / "data", memes(200))
    command = [sys.executable, "-c", _FULL_DISK, str(data), str(tmp_path / "artifacts"), str(tmp_path / "weights")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests"])}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and "finished work there is kept" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert not list(tmp_path.glob("artifacts/**/*.tmp"))
    assert not run().store.damaged and run().work.embedded == {"image": 0, "text": 0}


def test_a_damaged_segment_is_said_and_made_again(tmp_path: Path, run: Run) -> None:
    write_multioff(tmp_path / "data", memes(5))
    segment = next(run().store.folder.glob("image-*.h5"))
    segment.write_bytes(segment.read_bytes()[:-1])
    assert run().work.embedded == {"image": 5, "text": 0}
    assert run().work.embedded == {"image": 0, "text": 0}


def test_the_command_prints_a_summary(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_multioff(tmp_path / "data", memes(4))
    (tmp_path / "data" / "Labelled Images" / "m1.png").unlink()
    arguments = ["--data", str(tmp_path / "data"), "--model", "fake", "--artifacts", str(tmp_path / "artifacts")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    for expected in (
        "memes      4 (4 train)",
        "images     3 distinct: 0 already cached, 3 newly embedded",
        "texts      4 distinct: 0 already cached, 4 newly embedded; 0 longer than 8 tokens, cut",
        f"prompts    {N_PROMPTS} distinct: 0 already cached, {N_PROMPTS} newly embedded; for zero-shot CLIP",
        "skipped    1 meme\n           m1.png (Training_meme_dataset.csv, row 3): no such file",
        "on cpu",
        f"vectors/s ({7 + N_PROMPTS} in",
    ):
        assert expected in printed.out
    assert "loading fake on" in printed.err
    assert main(arguments) == 0
    assert "not loaded: nothing to embed" in capsys.readouterr().out


def test_the_summary_as_json(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_multioff(tmp_path / "data", memes(4))
    (tmp_path / "data" / "Labelled Images" / "m1.png").unlink()
    arguments = ["--data", str(tmp_path / "data"), "--model", "fake", "--artifacts", str(tmp_path / "artifacts")]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["memes"] == 4 and told["embedded"] == {"image": 3, "text": 4} and told["device"] == "cpu"
    assert [skipped["id"] for skipped in told["skipped"]] == ["m1.png"]
    assert told["prompts"] == {"distinct": N_PROMPTS, "cached": 0, "embedded": N_PROMPTS}
    assert told["spent"].keys() == {"decode", "tokenise", "model"} and told["seconds"] > 0


def test_a_long_list_of_skipped_memes_is_cut(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_multioff(tmp_path / "data", [*memes(30), ("odd\nname.png", "x", "1")])
    for path in (tmp_path / "data" / "Labelled Images").glob("*.png"):
        if path.name != "m9.png":
            path.unlink()
    assert main(["--data", str(tmp_path / "data"), "--model", "fake", "--artifacts", str(tmp_path / "artifacts")]) == 0
    printed = capsys.readouterr().out
    assert "skipped    30 memes" in printed and "and 10 more" in printed
    assert printed.count("no such file") == 20


def test_user_errors_are_a_sentence_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nowhere"), "--artifacts", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "no such folder" in error and "Traceback" not in error


def said_of(settings: EmbedSettings) -> str:
    said: list[str] = []
    embed_dataset(settings, said.append)
    return "\n".join(said)


def test_a_changed_encoder_is_announced_with_its_cost_before_anything_is_encoded(
    tmp_path: Path, run: Run, loads: list[FakeEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_multioff(tmp_path / "data", memes(20))
    run()
    load_with_spec(monkeypatch, open_clip="4.0")
    write_multioff(data, memes(21))
    settings = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts")
    encoded: list[int] = []

    def say(line: str) -> None:
        if "another encoder" in line:
            encoded.append(len(loads[-1].encoded))
            assert f"(open_clip: expected None, got '4.0'): {42 + N_PROMPTS} of {42 + N_PROMPTS} vectors" in line

    embed_dataset(settings, say)
    assert encoded == [0]
    embed_dataset(settings, say)
    assert encoded == [0], "said once"


def test_precision_auto_follows_the_index(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_multioff(tmp_path / "data", memes(3))
    settings = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts")
    load, asked = embed.clip.encoder.load_encoder, list[EncoderOptions]()

    def noted(model: str, pretrained: str, device: torch.device, options: EncoderOptions, *more: object) -> FakeEncoder:
        asked.append(options)
        return load(model, pretrained, device, options, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(embed.clip.encoder, "load_encoder", noted)
    with monkeypatch.context() as patch:
        load_with_spec(patch, dtype="bfloat16")
        run()
    assert asked[-1].prefer == ""
    write_multioff(data, memes(4))
    with monkeypatch.context() as patch:
        load_with_spec(patch, dtype="bfloat16")
        assert run().work.embedded == {"image": 1, "text": 1} and asked[-1].prefer == "bf16"
    write_multioff(data, memes(5))
    # as if the model did not run in bf16 here
    assert "dtype: expected 'bfloat16', got 'float32'" in said_of(settings)
    assert run().work.embedded == {"image": 0, "text": 0} and len(asked) == 3


def test_an_index_of_other_pictures_is_replaced_with_a_word(tmp_path: Path, run: Run) -> None:
    data = write_multioff(tmp_path / "data", memes(3))
    run()
    settings = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts", images=str(data / "Labelled Images"))
    assert f"replaced    {settings.index}, made with no IMAGES" in said_of(settings)
    assert "replaced" not in said_of(settings)
