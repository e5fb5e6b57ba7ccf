"""The server's settings: each field is a flag `--field` and an environment variable `API_FIELD`."""

import re
from dataclasses import dataclass
from pathlib import Path

from embed.clip.options import DEVICES

_ORIGIN = re.compile(r"https?://[^/\s]+")


@dataclass(frozen=True)
class ServeSettings:
    """What is served, where, and how much at a time. Raises ValueError for what cannot be served.

    model, pretrained: where the bundle's encoder is now, "" for where it was; port 0: any free one; queue: memes under
    way at once, decoding included; batch: memes in one call of the model; wait_ms: how long a batch waits for memes
    that are being decoded; cache: vectors kept of pictures, and of texts; keys_file, cors_origin: "" for none.
    """

    bundle: Path = Path("artifacts/bundles/latest")
    model: str = ""
    pretrained: str = ""
    # where the training index is, for explanations
    artifacts: Path = Path("artifacts")
    device: str = "auto"
    # Only this machine, until somebody decides otherwise.
    host: str = "127.0.0.1"
    port: int = 8080
    # One and a half seconds' work of ViT-B-32 on two cores: what would wait longer is better told to come again.
    queue: int = 32
    # Measured: 16 are no faster on a CPU, and everyone in a batch waits for all of it.
    batch: int = 8
    # Enough for those that are nearly decoded; a meme alone never waits.
    wait_ms: float = 2.0
    # 10,000 vectors of each side are 40 MB for ViT-B-32, 72 MB for ViT-L-14.
    cache: int = 10_000
    ocr: str = "on"
    keys_file: str = ""
    cors_origin: str = ""
    # What people post is nobody's business in a log, until somebody decides otherwise.
    log_content: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("device", DEVICES), ("ocr", ("on", "off"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        # a socket would take a port modulo 65536
        for name, least, most in (("port", 0, 65535), ("queue", 1, 1000), ("batch", 1, 1024), ("cache", 0, 10**8)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected {least} to {most}, got {getattr(self, name)}")
        if not 0 <= self.wait_ms <= 1000:
            raise ValueError(f"wait_ms: expected 0 to 1000, got {self.wait_ms}")
        if self.cors_origin and not _ORIGIN.fullmatch(self.cors_origin):
            raise ValueError(
                f"cors_origin: expected an origin such as https://example.org, without a path, got {self.cors_origin!r}; "
                "`*` is refused, since any page could then use this server through its visitors"
            )
