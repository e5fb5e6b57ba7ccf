"""The vectors that a command works on, from its arguments; imports no torch, to refuse them at once."""

import argparse
from pathlib import Path

from cache import DEMO_DATA, FEATURES, LONG_TEXTS, DatasetRequest, Parser, chosen_model


def data_options() -> Parser:
    """The options of the data set and its vectors, as a parent of a command's parser."""
    parser = Parser(prog="python -m head", add_help=False, allow_abbrev=False)
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
