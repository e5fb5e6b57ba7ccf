"""`python -m api serve` answers over HTTP; `python -m api predict IMAGE [--text ...]` prints the same JSON once.

Exit 0: done or stopped; 2: bad input, said in a sentence on stderr; 130: interrupted.
"""

import argparse
import json
import os
import sys
from dataclasses import fields
from pathlib import Path

from api.prediction import MAX_TEXT_CHARS
from api.server import ServeSettings, load_predictor, serve
from embed.hashing import UnusableFile, read_picture
from embed.pictures import UnreadableImage

_HELP = {
    "bundle": "model bundle to load",
    "model": "where the bundle's encoder is, if it has moved: open_clip model",
    "pretrained": "the same: tag or local checkpoint file",
    "device": "auto, cpu or cuda",
    "host": "address to listen on; 0.0.0.0 for every one",
    "port": "port to listen on; 0 for any free one",
    "threads": "request threads",
}
_PREDICT_FIELDS = ("bundle", "model", "pretrained", "device")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two commands; return the exit code."""
    options = vars(_parser().parse_args(arguments))
    command, image, text = options.pop("command"), options.pop("image", None), options.pop("text", None)
    try:
        settings = ServeSettings(**options)
        if command == "predict":
            print(json.dumps(_predict(settings, image, text), indent=2, ensure_ascii=False))
        else:
            serve(settings, say=lambda note: print(note, flush=True))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while loading; a server that listens ends by it in good order
        return 130
    return 0


def _predict(settings: ServeSettings, image: Path, text: str | None) -> dict[str, object]:
    if text is not None and len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"--text has {len(text):,} characters, the limit is {MAX_TEXT_CHARS:,}")
    try:
        data = read_picture(image)
        return load_predictor(settings).predict(data, text)
    except (UnusableFile, UnreadableImage) as error:
        raise ValueError(f"{image}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m api", description="Classify memes with a tuned bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="answer over HTTP")
    predicting = commands.add_parser("predict", help="classify one picture and print the JSON")
    predicting.add_argument("image", type=Path, help="picture file")
    predicting.add_argument("--text", help="the text on the meme")
    for setting in fields(ServeSettings):
        for command in (serving, predicting) if setting.name in _PREDICT_FIELDS else (serving,):
            variable = f"API_{setting.name.upper()}"
            command.add_argument(
                f"--{setting.name}",
                type=type(setting.default),
                # a string default goes through `type`, so a bad value in the environment is said as one in a flag is
                default=os.environ.get(variable, setting.default),
                help=f"{_HELP[setting.name]} (default: {setting.default}; or {variable})",
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
