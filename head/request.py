"""The vectors that a command works on, from its arguments; imports no torch, so that it can refuse them at once."""

import argparse
from pathlib import Path

from cache import DEMO_DATA, FEATURES, LONG_TEXTS, DatasetRequest, chosen_model, find_index, refuse


def data_options() -> argparse.ArgumentParser:
    """The options of the data set and its vectors, as a parent of a command's parser."""
    parser = argparse.ArgumentParser(prog="python -m head", add_help=False, allow_abbrev=False)
    parser.add_argument("--data", default=DEMO_DATA, help="data folder, as given to the embedding job, or an index")
    parser.add_argument("--model", default="", help="as given to the embedding job; needed if it ran with several")
    parser.add_argument("--pretrained", default="", help="its checkpoint, as given to the embedding job")
    parser.add_argument("--features", choices=FEATURES, default=FEATURES[0], help="as given to the embedding job")
    parser.add_argument("--long-text", choices=LONG_TEXTS, default=LONG_TEXTS[0], help="as given to the embedding job")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of vectors and results")
    return parser


def request_of(options: argparse.Namespace) -> DatasetRequest:
    """The request of parsed `data_options`."""
    model = chosen_model(options.data, options.model)
    return DatasetRequest(options.data, model, options.pretrained, options.features, options.long_text)


def refused(words: list[str]) -> int:
    """0, or the exit code where the vectors that a command line names do not exist; says so in a sentence."""
    if words[:1] not in (["tune"], ["nested"]) or {"-h", "--help"} & {*words}:
        return 0
    options, _ = data_options().parse_known_args(words[1:])
    try:
        find_index(options.artifacts, request_of(options))
    except (ValueError, OSError) as error:
        return refuse(error)
    return 0
