"""Hugging Face tokenizers: open_clip's own ids, from all cores at once. `tokenizers` makes one here, without a network."""

import json
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from cache import cores
from embed.clip.tokenizer import load_tokenizer

LENGTH = 12
WORDS = ["a", "meme", "&amp;", "many", "Words,", "", "nobody", "reads", "字", "😂", "</s>", "[SEP]"]
TEXTS = ["", " ", "x" * 300, *(" ".join(random.Random(n).choices(WORDS, k=n % 40)) for n in range(797))]


def trained(
    model: Any, trainer: Callable[..., Any], pre_tokenizer: Any, special: list[str], **options: Any
) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizer
    tokenizer.train_from_iterator(
        TEXTS, trainer(vocab_size=200, special_tokens=special, show_progress=False, **options)
    )
    return tokenizer


def bert() -> tokenizers.Tokenizer:
    """[CLS] text [SEP], as multilingual models have."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    model = models.WordPiece(unk_token="[UNK]")
    tokenizer = trained(model, trainers.WordPieceTrainer, pre_tokenizers.BertPreTokenizer(), special)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def siglip() -> tokenizers.Tokenizer:
    """text </s>, padded with </s>."""
    special = ["</s>", "<unk>"]
    tokenizer = trained(
        models.Unigram(), trainers.UnigramTrainer, pre_tokenizers.Metaspace(), special, unk_token="<unk>"
    )
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 0)])
    return tokenizer


class FastTokenizer:
    """As transformers' wrapper of `tokenizers`, which switches truncation and padding of the one that it wraps."""

    is_fast, split_special_tokens, pad_token_id = True, False, 0

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        self.padding_side, self.truncation_side = settings["padding_side"], settings["truncation_side"]
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        sep = settings.get("sep_token")
        self.sep_token_id = self.backend_tokenizer.token_to_id(sep) if sep else None

    def __call__(self, texts: list[str], *, max_length: int, **options: Any) -> Any:
        assert options == {"return_tensors": "pt", "padding": "max_length", "truncation": True}
        self.backend_tokenizer.enable_truncation(max_length, direction=self.truncation_side)
        self.backend_tokenizer.enable_padding(
            length=max_length, direction=self.padding_side, pad_id=0, pad_token=self.backend_tokenizer.id_to_token(0)
        )
        return SimpleNamespace(
            input_ids=torch.tensor([found.ids for found in self.backend_tokenizer.encode_batch(texts)])
        )

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab()


@pytest.fixture(params=["stand-in", "transformers"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers, which the project does not install, or what it does with `tokenizers`."""
    if request.param == "transformers":
        pytest.importorskip("transformers", reason="no transformers (docs/models.md)")
    else:
        auto = SimpleNamespace(from_pretrained=lambda folder, **_: FastTokenizer(Path(folder)))
        monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=auto))


@pytest.mark.parametrize("cut", ["left", "right"])
@pytest.mark.parametrize(
    ("make", "pad", "options"),
    [
        (bert, "right", {"strip_sep_token": True}),
        (bert, "left", {"clean": "lower"}),
        (siglip, "right", {"clean": "canonicalize"}),
    ],
)
@pytest.mark.usefixtures("installed")
def test_all_cores_at_once_get_the_rows_and_counts_of_open_clip_alone(
    make: Callable[[], tokenizers.Tokenizer], pad: str, options: dict[str, Any], cut: str, tmp_path: Path
) -> None:
    tokens = {"pad_token": "[PAD]", "sep_token": "[SEP]"} if make is bert else {"pad_token": "</s>"}
    make().save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": pad, "truncation_side": cut, **tokens}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    text = {"context_length": LENGTH, "hf_tokenizer_name": "someone/tokenizer", "tokenizer_kwargs": options}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))

    ours, stock = load_tokenizer(f"local-dir:{tmp_path}"), open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    with ThreadPoolExecutor(max(4, cores())) as pool:
        found = list(pool.map(lambda text: (ours.rows(text), ours.count(text)), TEXTS))
    expected = stock(TEXTS)
    whole = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert torch.equal(torch.cat([rows for rows, _ in found]), expected)
    assert [count for _, count in found] == [len(whole.encode(stock.clean_fn(text))) for text in TEXTS]
    assert max(count for _, count in found) > LENGTH
