"""Tokenize with a Hugging Face tokenizer of open_clip's from many threads at once, with the same ids.

transformers switches truncation and padding of the tokenizer that all threads share, in every call. Here both are off
from the start: a text is encoded whole, and its own encoding is cut and padded. After `freeze` everything only reads.
"""

from typing import Any

import torch
from torch import Tensor


def freeze(wrapped: Any) -> None:
    """Switch off truncation and padding of an open_clip.tokenizer.HFTokenizer, before threads share it."""
    if _is_fast(wrapped):
        backend = wrapped.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = wrapped.tokenizer.split_special_tokens


def encode(wrapped: Any, text: str) -> tuple[Tensor, int]:
    """A text -> its row (context_length,) int64, and its number of tokens before truncation, special ones included."""
    text = wrapped.clean_fn(text)
    if not _is_fast(wrapped) or wrapped.tokenizer_mode:  # these switch nothing
        return wrapped([text])[0], count(wrapped, text)
    tokenizer, backend = wrapped.tokenizer, wrapped.tokenizer.backend_tokenizer
    special = backend.num_special_tokens_to_add(False)
    encoding = backend.encode(text, add_special_tokens=False)
    whole = len(encoding) + special
    encoding.truncate(wrapped.context_length - special, direction=tokenizer.truncation_side)
    encoding = backend.post_process(encoding)  # adds the special tokens
    encoding.pad(wrapped.context_length, direction=tokenizer.padding_side, pad_id=tokenizer.pad_token_id)
    row = torch.tensor(encoding.ids)
    return row.masked_fill(row == tokenizer.sep_token_id, 0) if wrapped.strip_sep_token else row, whole


def count(wrapped: Any, text: str) -> int:
    """Number of tokens of a text that is not cleaned, special ones included."""
    if _is_fast(wrapped):
        return len(wrapped.tokenizer.backend_tokenizer.encode(text))
    return len(wrapped.tokenizer(text)["input_ids"])


def _is_fast(wrapped: Any) -> bool:
    return bool(wrapped.tokenizer.is_fast)
