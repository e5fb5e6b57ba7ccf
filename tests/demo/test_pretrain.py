"""The demo encoder: what its pretraining may know, that it trains, and that open_clip loads what ships."""

import ast
import math
import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from demo.captions import LOOKS, describe, scribble
from demo.pretrain import Pretraining, draw_scene, pretrain, save_encoder
from demo.scenes import BACKGROUNDS, Style, draw_picture
from demo.subjects import SUBJECTS

DEMO = Path(__file__).parents[2] / "demo"


def test_pretraining_imports_no_label() -> None:
    seen, todo = set(), ["pretrain"]
    while todo:
        module = todo.pop()
        seen.add(module)
        source = (DEMO / f"{module}.py").read_text(encoding="utf-8")
        imported = [node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
        todo += [name.removeprefix("demo.") for name in imported if name.startswith("demo.") and name[5:] not in seen]
    assert seen == {"pretrain", "captions", "words", "scenes", "subjects", "pen"}  # neither `plan` nor `draw`
    for module in seen - {"pretrain"}:
        assert "offensiv" not in (DEMO / f"{module}.py").read_text(encoding="utf-8").lower()


def test_captions_never_hold_a_label_word() -> None:
    rng = random.Random(1)
    texts = [
        describe(rng.choice(list(SUBJECTS)), rng.choice(list(BACKGROUNDS)), rng.random() < 0.5, rng)
        for _ in range(3000)
    ] + [scribble(rng) for _ in range(500)]
    for word in ("offensiv", "hate", "label", "{", "}"):
        assert not [text for text in texts if word in text]


def test_each_subject_has_describing_words() -> None:
    assert set(LOOKS) == set(SUBJECTS)


def test_scene_is_the_same_for_the_same_numbers() -> None:
    (first, pixels), (second, again), (_, other) = draw_scene(1, 5), draw_scene(1, 5), draw_scene(1, 6)
    assert first == second
    assert pixels.shape == (3, 72, 72)
    assert pixels.dtype == np.uint8
    assert (pixels == again).all()
    assert (pixels != other).any()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"pictures": 10}, {"batch_size": 1}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        Pretraining(**wrong)


def test_two_steps_give_finite_losses_and_an_encoder_that_loads(tmp_path: Path) -> None:
    scenes, pixels = zip(*(draw_scene(1, i) for i in range(8)), strict=True)
    settings = Pretraining(steps=2, pictures=8, batch_size=4)
    model, losses = pretrain(settings, list(scenes), torch.from_numpy(np.stack(pixels)))
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    save_encoder(model, tmp_path)
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name].half().float()), name
    with pytest.raises(ValueError, match="8 scenes but 7 pictures"):
        pretrain(settings, list(scenes), torch.from_numpy(np.stack(pixels[:7])))


def test_shipped_encoder_is_small_and_loads_through_open_clip() -> None:
    folder = DEMO / "encoder"
    assert {path.name for path in folder.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10e6
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    picture = draw_picture("rose", "blue", Style((90, 70)), random.Random(1))
    texts = ["this reminds me of you", "", "an 😀 unknown wörd " * 60]
    tokens = tokenizer(texts)
    assert tokens.shape == (3, 77)
    assert model.context_length == 77
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(picture).unsqueeze(0))
        text = model.encode_text(tokens)
    assert image.shape == (1, 64)
    assert text.shape == (3, 64)
    assert torch.isfinite(image).all()
    assert torch.isfinite(text).all()
