"""Commands of the classifier.

    python -m api serve                                   the HTTP server
    python -m api predict IMAGE [--text ...]              the JSON response to one meme, on stdout
    python -m api predict-folder SOURCE [--out FILE.csv]  a CSV row for each meme of a folder or a table
    python -m api export [--out DIR]                      the bundle with its encoder, to serve it without a network
    python -m api reload --pid-file FILE                  let a running server take the version that is now in use

Exit codes: 0 done or stopped; 2 bad input, with a message on stderr, or no meme could be classified; 130 interrupted.
"""

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable
from dataclasses import Field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from cache.edge import Parser, announce, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()
    gc.disable()  # until `trim_memory`: collections while importing and loading take a quarter of the start-up time

from api.settings import ServeSettings
from cache import find_bundle

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
    "pid_file": "file to write the process id to, for `reload`",
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
# Kubernetes sets API_PORT to such a value where a service is called "api".
_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")


@exit_codes()
def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    given = {name: options.pop(name) for name in ("image", "text", "explain", "source", "out") if name in options}
    if command == "reload":
        from api.pid_file import ask_to_reload

        print(ask_to_reload(**options))
        return 0
    settings = _settings(options)
    bundle = find_bundle(settings.bundle, settings.artifacts)  # refused before the seconds of imports
    say = partial(print, file=sys.stderr)
    # each command is imported here: torch takes seconds, and the arguments are judged before
    if command == "serve":
        from api.server import serve  # only this command needs Flask and waitress

        serve(settings, say=partial(print, flush=True))
        return 0
    settings = replace(settings, bundle=bundle)
    announce(command, bundle=settings.bundle, memes=given.get("image") or given.get("source"), out=given.get("out"))
    if command == "predict":
        from api.commands.predict import predict

        print(predict(**given, settings=settings))
    elif command == "predict-folder":
        from api.commands.predict_folder import predict_folder

        return predict_folder(**given, settings=settings, say=say)
    else:
        from api.commands.export import export_bundle

        print(export_bundle(settings, **given, say=say))
    return 0


def _settings(options: dict[str, Any]) -> ServeSettings:
    """The settings from the flags, None where not given, else from the environment. Raises ValueError, naming the variable."""
    values = {name: value for name, value in options.items() if value is not None}
    for setting in fields(ServeSettings):
        word = os.environ.get(_variable(setting.name), "")
        if word and not _OF_KUBERNETES.match(word) and options.get(setting.name, word) is None:
            values[setting.name] = _read(setting, word)
    try:
        return ServeSettings(**values)
    except ValueError as error:
        name, _, reason = str(error).partition(": ")
        if options[name] is not None:
            raise
        raise ValueError(f"{_variable(name)}: {reason}") from error


def _variable(name: str) -> str:
    return f"API_{name.upper()}"


def _parser() -> Parser:
    parser = Parser(prog="python -m api", description="Classify memes with a model bundle.")
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
    reloading = commands.add_parser("reload", help="let a running server load the bundle that is now in use")
    reloading.add_argument("--pid-file", type=Path, required=True, help="as given to `serve`")
    takers = (
        (serving, None),
        (predicting, _PREDICT_FIELDS),
        (classifying, _FOLDER_FIELDS),
        (exporting, _EXPORT_FIELDS),
    )
    for setting in fields(ServeSettings):
        for command in (command for command, names in takers if names is None or setting.name in names):
            command.add_argument(
                f"--{setting.name.replace('_', '-')}",
                type=_type(setting),
                help=f"{_HELP[setting.name]} (default: {setting.default}; or {_variable(setting.name)})",
            )
    return parser


def _type(setting: Field[Any]) -> Callable[[str], Any]:
    return _truth if isinstance(setting.default, bool) else type(setting.default)


def _read(setting: Field[Any], word: str) -> Any:
    try:
        return _type(setting)(word)
    except (ValueError, argparse.ArgumentTypeError) as error:
        expected = {int: "a whole number", float: "a number", bool: "true or false"}[type(setting.default)]
        raise ValueError(f"{_variable(setting.name)}: expected {expected}, got {word!r}") from error


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {word!r}")
    return word.lower() == "true"


if __name__ == "__main__":
    # the interpreter's shutdown aborts (exit 134) while a thread is in torch
    run_as_command(main, at_once=range(256))
