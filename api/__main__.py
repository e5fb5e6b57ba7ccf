"""Commands of the classifier.

    python -m api serve                                   the HTTP server
    python -m api predict IMAGE [--text ...]              the JSON response to one meme, on stdout
    python -m api predict-folder SOURCE [--out FILE.csv]  a CSV row for each meme of a folder or a table
    python -m api export [--out DIR]                      the bundle with its encoder, to serve it without a network

Exit codes: 0 done or stopped; 2 bad input, with a message on stderr, or no meme could be classified; 130 interrupted.
"""

import argparse
import gc
import os
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # until `trim_memory`: collections while importing and loading take a quarter of the start-up time

from api.commands.export import export_bundle
from api.commands.predict import predict
from api.commands.predict_folder import predict_folder
from api.settings import ServeSettings
from cache import refuse

_HELP = {
    "bundle": "model bundle to load",
    "artifacts": "folder with the training index, for explanations",
    "queue": "most memes in progress; requests beyond it get 503",
    "batch": "memes in one call of the model",
    "wait_ms": "milliseconds that a batch waits for memes that are being decoded",
    "cache": "most embeddings of pictures, and of texts, kept in memory; 0: none",
    "ocr": "on or off: read the text off pictures that come without one",
    "ocr_lang": "the language that OCR reads, if not the one of the training memes",
    "keys_file": "file with one API key per line; without it, no key is required",
    "cors_origin": "the one origin whose pages may send requests",
    "log_content": "log texts and hashes of pictures",
    "model": "open_clip model of the encoder, if not the one in the bundle",
    "pretrained": "open_clip tag or local checkpoint file, likewise",
    "device": "auto, cpu or cuda",
    "host": "address to listen on; 0.0.0.0 for all",
    "port": "port to listen on; 0 for any free one",
}
_PREDICT_FIELDS = ("bundle", "artifacts", "model", "pretrained", "device", "ocr", "ocr_lang")
_EXPORT_FIELDS = ("bundle", "artifacts", "model", "pretrained")
_FOLDER_FIELDS = (*_PREDICT_FIELDS, "batch")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    given = {name: options.pop(name) for name in ("image", "text", "explain", "source", "out") if name in options}
    say = partial(print, file=sys.stderr)
    try:
        settings = ServeSettings(**options)
        if command == "predict":
            print(predict(**given, settings=settings))
        elif command == "predict-folder":
            return predict_folder(**given, settings=settings, say=say)
        elif command == "export":
            print(export_bundle(settings, **given, say=say))
        else:
            from api.server import serve  # not at the top: only this command needs Flask and waitress

            serve(settings, say=partial(print, flush=True))
    except (ValueError, OSError) as error:
        return refuse(error)
    except KeyboardInterrupt:  # while loading; a listening server handles SIGINT itself
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m api", description="Classify memes with a model bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="answer over HTTP")
    predicting = commands.add_parser("predict", help="classify one picture and print the JSON")
    predicting.add_argument("image", type=Path, help="picture file")
    predicting.add_argument("--text", help="the text on the meme; default: read off the picture")
    predicting.add_argument("--explain", action="store_true", help="add an explanation")
    classifying = commands.add_parser("predict-folder", help="classify a folder or a table of pictures into a CSV")
    classifying.add_argument("source", type=Path, help="folder with pictures, or a .csv or .jsonl that names them")
    classifying.add_argument("--out", type=Path, help="CSV to write or continue; default: standard output")
    exporting = commands.add_parser("export", help="write the bundle with its encoder, to serve it without a network")
    exporting.add_argument(
        "--out", type=Path, help="folder to write; default: exports/<the bundle's name> in --artifacts"
    )
    takers = (
        (serving, None),
        (predicting, _PREDICT_FIELDS),
        (classifying, _FOLDER_FIELDS),
        (exporting, _EXPORT_FIELDS),
    )
    for setting in fields(ServeSettings):
        for command in (command for command, names in takers if names is None or setting.name in names):
            variable = f"API_{setting.name.upper()}"
            command.add_argument(
                f"--{setting.name.replace('_', '-')}",
                type=_truth if isinstance(setting.default, bool) else type(setting.default),
                # argparse passes string defaults through `type`: a bad variable gives the same error as a bad flag
                default=os.environ.get(variable, setting.default),
                help=f"{_HELP[setting.name]} (default: {setting.default}; or {variable})",
            )
    return parser


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {word!r}")
    return word.lower() == "true"


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's shutdown aborts (exit 134) while a thread is in torch
