"""The storage of a study: a URL for any path, and no password in what is said of it."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from head.search.config import StudyConfig, sqlite_url


@pytest.mark.parametrize("name", ["what?now", "a#b", "a b", "100%41", "{x}", "ä", "a@b", "a:b"])
def test_a_database_lies_in_its_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    engine = create_engine(sqlite_url(folder / "studies.sqlite3"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["studies.sqlite3"] and len(list(tmp_path.iterdir())) == 1
    assert StudyConfig(sqlite_url(folder / "studies.sqlite3"), "memes").place.startswith("sqlite:///")


@pytest.mark.parametrize(
    ("storage", "place"),
    [
        ("postgresql://u:hunter2@host/d", "postgresql://u:***@host/d"),
        ("postgresql+psycopg://u:hun:ter2/x?y@host:5432/d", "postgresql+psycopg://u:***@host:5432/d"),
        ("postgresql://u:hunter2%40x@host/d", "postgresql://u:***@host/d"),
        ("postgresql://u@host/d", "postgresql://u@host/d"),
        ("postgresql://host/d?user=u&password=hunter2", "postgresql://host/d"),
        ("sqlite:////tmp/studies.sqlite3", "sqlite:////tmp/studies.sqlite3"),
    ],
)
def test_what_is_said_of_a_storage_holds_no_password(storage: str, place: str) -> None:
    assert StudyConfig(storage, "memes").place == place


@pytest.mark.parametrize("storage", ["postgresql://u:p@hunter2@host/d", "postgresql://u:hunter2@x@y@host/d"])
def test_a_password_with_an_at_is_refused_with_what_to_do(storage: str) -> None:
    with pytest.raises(
        ValueError, match=r"got postgresql://u:\*\*\*@host/d, whose password has an @: percent-encode"
    ) as caught:
        StudyConfig(storage, "memes")
    assert "hunter2" not in str(caught.value)
