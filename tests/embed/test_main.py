"""The command line of the embedding job: which model it takes, and what it says of the demo's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import write_multioff

from cache import NOTICE
from embed.__main__ import main

ROWS = [(f"m{number}.png", f"words {number}", "offensive") for number in range(3)]


def test_a_data_set_without_a_model_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    write_multioff(tmp_path / "my memes", ROWS)
    code = (
        "import sys; from embed.__main__ import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; "
        "sys.exit(code)"
    )
    arguments = ["--data", str(tmp_path / "my memes"), "--artifacts", str(tmp_path / "artifacts")]
    for more in ([], ["--model", ""], ["--pretrained", "openai"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        assert f"make embed DATA='{tmp_path}/my memes' MODEL=ViT-B-32 PRETRAINED=openai" in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_the_demo_encoder_says_that_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_multioff(tmp_path / "memes", ROWS)
    arguments = ["--data", str(tmp_path / "memes"), "--artifacts", str(tmp_path / "artifacts")]
    assert main([*arguments, "--model=demo"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{NOTICE}\n")
    # both names are of one index
    assert main([*arguments, "--model=local-dir:demo/encoder", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notice"] == NOTICE and told["cached"] == {"image": 3, "text": 3}
    assert [str(path) for path in (tmp_path / "artifacts" / "datasets").iterdir()] == [told["index"]]
