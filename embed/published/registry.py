"""Known facts about the published data sets: sources, terms, row counts, hashes.

`embed.published.check` compares a folder with them. None means unknown. This project downloads none of the links, and
they have not been tested.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedSplit:
    """One table and its pictures. table: POSIX path in the folder; missing: pictures named but never published.

    The hashes are SHA-256 of the table's bytes, its rows and its pictures, see `embed.published.check`.
    """

    name: str
    table: str
    rows: int
    offensive: int | None = None
    missing: tuple[str, ...] | None = None
    table_hash: str | None = None
    rows_hash: str | None = None
    pictures_hash: str | None = None
    needed: bool = True


@dataclass(frozen=True)
class Published:
    """A data set. archives: SHA-256 of the published zip files; remark: note for the user of the data."""

    name: str
    what: str
    where: tuple[str, ...]
    terms: str
    layout: tuple[str, ...]
    splits: tuple[PublishedSplit, ...]
    remark: str
    archives: tuple[str, ...] = ()


# Train and validation were measured on the published files; for test, only the paper's counts are known.
MULTIOFF = Published(
    name="MultiOFF",
    what="743 memes of the 2016 US presidential election, offensive or not (Suryawanshi et al., TRAC 2020)",
    where=(
        "https://github.com/bharathichezhiyan/Multimodal-Meme-Classification-Identifying-Offensive-Content-in-Image-and-Text",
        "whose README links https://drive.google.com/drive/folders/1hKLOtpVmF45IoBmJPwojgq6XraLtHmV6",
    ),
    terms="its README states no licence: cite the paper, and ask the authors before you pass anything on",
    layout=("Labelled Images/", "Split Dataset/{Training,Validation,Testing}_meme_dataset.csv"),
    splits=(
        PublishedSplit(
            "train",
            "Split Dataset/Training_meme_dataset.csv",
            rows=445,
            offensive=187,
            missing=(),
            table_hash="2108bb6d6910dde72fd7d38ae971fe4a888d21525a1e9d4af6616a43cc0f9d52",
            rows_hash="60659ca7a10fdf60f110f9358c9707f714426c914cc40cdfd1d7b5420164c9bd",
            pictures_hash="a5b1e52cb730b80082dbef49ea4a7656e9d6648eee99fbdb828f9a8e0e790bd5",
        ),
        PublishedSplit(
            "validation",
            "Split Dataset/Validation_meme_dataset.csv",
            rows=149,
            offensive=58,
            missing=("KbTk7Rq.png",),
            table_hash="6843419b5c7a52c237858345b76703bca23766ed24995e8e3f3002f1e6eabe5b",
            rows_hash="18d957f50907f69d510fc1574de7a062295866ac825eb52c9c2424b2aa8b4d1f",
            pictures_hash="ef7133ed99854285b8d8e509a44a08efee2096a3b112671e5119a2d5dab15be6",
        ),
        PublishedSplit("test", "Split Dataset/Testing_meme_dataset.csv", rows=149, offensive=58),
    ),
    remark="KbTk7Rq.png is named by the validation table and was published without a picture: `make embed` skips it",
)

# The release of the NeurIPS 2020 competition, where every row has a picture; copies on hubs lack hundreds.
HATEFUL_MEMES = Published(
    name="Facebook Hateful Memes",
    what="made-up memes, hateful or not, with benign twins (Kiela et al., NeurIPS 2020, arXiv 2005.04790)",
    where=(
        "https://hatefulmemeschallenge.com, and DrivenData's page of the competition; users reported the latter gone in",
        "2022, the former in 2024 (facebookresearch/mmf, issues 1221 and 1332). Passed on as hateful_memes.zip",
    ),
    terms="its own licence, which you have to agree to first",
    layout=("img/", "train.jsonl", "dev_seen.jsonl", "test_seen.jsonl"),  # `data/` of the zip, by mmf's converter
    splits=(
        PublishedSplit("train", "train.jsonl", rows=8500, missing=()),
        PublishedSplit("dev_seen", "dev_seen.jsonl", rows=500, missing=()),
        PublishedSplit("test_seen", "test_seen.jsonl", rows=1000, missing=()),
        PublishedSplit("dev_unseen", "dev_unseen.jsonl", rows=540, missing=(), needed=False),
        PublishedSplit("test_unseen", "test_unseen.jsonl", rows=2000, missing=(), needed=False),
    ),
    remark="move dev_unseen.jsonl and test_unseen.jsonl to a folder unseen/, or they are read as validation and test too",
    # POSSIBLE_CHECKSUMS of mmf_cli/hm_convert.py in facebookresearch/mmf, one per release of the zip
    archives=(
        "d8f1073f5fbf1b08a541cc2325fc8645619ab8ed768091fb1317d5c3a6653a77",
        "a424c003b7d4ea3f3b089168b5f5ea73b90a3ff043df4b8ff4d7ed87c51cb572",
        "6e609b8c230faff02426cf462f0c9528957b7884d68c60ebc26ff83846e5f80f",
        "c1363aae9649c79ae4abfdb151b56d3d170187db77757f3daa80856558ac367c",
    ),
)

PUBLISHED = (MULTIOFF, HATEFUL_MEMES)
