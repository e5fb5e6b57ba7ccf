"""The server's settings: each field is a flag `--field` and an environment variable `API_FIELD`."""

import re
from dataclasses import dataclass
from pathlib import Path

from embed.clip.options import DEVICES

_ORIGIN = re.compile(r"https?://[^/\s]+")


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the server and the commands. Raises ValueError for a value out of range.

    model, pretrained: open_clip encoder, "": as in the bundle's config; artifacts: folder of the training index, for
    explanations; port 0: any free one; queue: most memes in progress, decoding included; batch: most memes in one call
    of the model; wait_ms: how long a batch that is not full waits for memes that are being decoded; cache: most
    embeddings of pictures, and of texts, that are kept in memory; ocr_lang: of the OCR model, "": as the training memes
    were read; keys_file, pid_file, cors_origin: "": none.
    """

    bundle: Path = Path("artifacts/bundles/latest")
    model: str = ""
    pretrained: str = ""
    artifacts: Path = Path("artifacts")
    device: str = "auto"
    # Local connections only, by default.
    host: str = "127.0.0.1"
    port: int = 8080
    # ViT-B-32 takes 1.5 s for them on two cores; further requests get 503 rather than wait longer.
    queue: int = 32
    # 16 are no faster on a CPU, and each meme waits for its whole batch.
    batch: int = 8
    # Enough for memes that are nearly decoded; a single meme never waits.
    wait_ms: float = 2.0
    # 40 MB for ViT-B-32, 72 MB for ViT-L-14.
    cache: int = 10_000
    ocr: str = "on"
    ocr_lang: str = ""
    keys_file: str = ""
    pid_file: str = ""
    cors_origin: str = ""
    # Private by default.
    log_content: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("device", DEVICES), ("ocr", ("on", "off"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        # sockets take a port modulo 65536
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
