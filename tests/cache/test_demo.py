"""Which model a command takes for a data set, and when the notice about the demo's encoder is due."""

from pathlib import Path
from typing import Any

import pytest

from cache import NOTICE, chosen_model, content_key, content_of, demo_notice, file_digest, required_model
from cache.demo import DEMO_MODEL, ModelNotChosen

WEIGHTS = file_digest(Path("demo/encoder/open_clip_model.safetensors"))
DEMO: dict[str, Any] = {"weights_sha256": WEIGHTS}


@pytest.fixture(scope="module")
def demo_keys() -> list[str]:
    pictures = [path for path in Path("demo/memes/Labelled Images").iterdir() if path.is_file()]
    return [content_key(path.read_bytes()) for path in pictures]


def test_the_demos_encoder_and_data_are_recognised(demo_keys: list[str]) -> None:
    assert demo_notice(DEMO, content_of([*demo_keys, demo_keys[0], ""])) == ""
    assert demo_notice(DEMO, content_of(demo_keys[1:])) == NOTICE
    assert demo_notice(DEMO, "") == demo_notice({**DEMO, "delta_sha256": "ab"}, "") == NOTICE
    assert demo_notice({"weights_sha256": "ab"}, "") == demo_notice({"imported": "ab"}, "") == ""


def test_a_model_is_needed_but_for_the_demos_data(tmp_path: Path) -> None:
    assert chosen_model(str(tmp_path), "ViT-B-32") == "ViT-B-32"
    assert chosen_model(str(tmp_path), "demo") == chosen_model("demo/memes", "") == DEMO_MODEL
    assert chosen_model("./demo/memes/Split Dataset", None) == DEMO_MODEL
    assert chosen_model("demo/memes", "ViT-B-32") == "ViT-B-32"
    (tmp_path / "linked").symlink_to(Path("demo/memes").resolve())
    assert chosen_model(str(tmp_path / "linked"), None) == DEMO_MODEL
    for data in (str(tmp_path), "demo", "demo/memes-of-mine"):
        assert chosen_model(data, None) == ""
        with pytest.raises(ModelNotChosen, match="MODEL=demo"):
            required_model(data, "")


def test_the_models_that_are_suggested_are_documented() -> None:
    """And the command can be typed as it stands, also for a folder with spaces."""
    with pytest.raises(ModelNotChosen) as refused:
        required_model("my memes", None)
    assert str(refused.value).startswith("my memes: no model was chosen; `make embed DATA='my memes' MODEL=ViT-B-32")
    page = Path("docs/models.md").read_text("utf-8")
    for model in ("ViT-B-32", "ViT-L-14"):
        assert f"MODEL={model} PRETRAINED=openai" in str(refused.value) and f"MODEL={model} PRETRAINED=openai" in NOTICE
        assert f"| `{model}` | `openai` |" in page
    assert NOTICE in page
    assert NOTICE.count(".") == 1 and "`" not in NOTICE
