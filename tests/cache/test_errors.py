import numpy as np
import pytest

from cache import raised_here, refuse


def test_our_own_error_is_a_sentence_and_a_librarys_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="jobs") as ours:
        raise ValueError("jobs: expected at least 1")
    assert raised_here(ours.value) and refuse(ours.value, str.upper) == 2
    assert capsys.readouterr().err == "error: JOBS: EXPECTED AT LEAST 1\n"
    with pytest.raises(ValueError, match="negative") as theirs:
        np.pad(np.zeros(3), -1)
    assert not raised_here(theirs.value)
    with pytest.raises(ValueError, match="negative"):
        refuse(theirs.value)


def test_an_error_of_the_system_and_one_of_another_process_are_sentences() -> None:
    with pytest.raises(OSError, match="no-such") as missing:
        np.load("no-such-file.npy")
    assert refuse(missing.value) == 2 and raised_here(ValueError("from afar"))
