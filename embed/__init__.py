"""Reads data sets and pictures, runs CLIP over them and fills the cache.

For Python programs: `embed_dataset` with `EmbedSettings` and `EncoderOptions` (docs/python.md).
"""

from typing import TYPE_CHECKING

from cache import on_first_use

if TYPE_CHECKING:
    from embed.clip.options import EncoderOptions
    from embed.job import Summary, embed_dataset
    from embed.plan.settings import EmbedSettings

__all__ = ["EmbedSettings", "EncoderOptions", "Summary", "embed_dataset"]
__getattr__ = on_first_use(
    __name__,
    {
        "EmbedSettings": "embed.plan.settings",
        "EncoderOptions": "embed.clip.options",
        "Summary": "embed.job",
        "embed_dataset": "embed.job",
    },
)
