"""What is decided once is kept; what is broken is named."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from flows.stack import postgres
from flows.stack.environment import exports
from flows.stack.installation import LOOPBACK, Installation
from flows.stack.ports import check_free
from flows.stack.postgres import Postgres
from flows.stack.record import alone, read_record, stop, write_record
from flows.stack.server import clean_environment
from jpu.errors import DataError, SettingsError
from jpu.files import write_json


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation.make(tmp_path / "services")


def test_ports_and_credentials_are_drawn_once(installation: Installation, tmp_path: Path) -> None:
    assert Installation.make(installation.folder) == installation
    other = Installation.make(tmp_path / "other")
    assert not {*other.credentials.secrets()} & {*installation.credentials.secrets()}
    assert len({*installation.credentials.secrets()}) == 15
    assert min(map(len, installation.credentials.secrets())) >= 32


def test_only_the_owner_may_read_them(installation: Installation) -> None:
    file = installation.private / "credentials.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(installation.private.stat().st_mode) == 0o700
    # Root's PostgreSQL, another user, has to pass through, and may list nothing.
    assert stat.S_IMODE(installation.folder.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)


def test_no_password_shows_where_credentials_are_printed(installation: Installation) -> None:
    shown = repr(installation)
    assert "admin" in shown
    assert installation.credentials.redacted(shown) == shown


@pytest.mark.parametrize("file", ["private/credentials.json", "ports.json"])
@pytest.mark.parametrize("text", ["{}", "[1]", '{"postgres": ', '{"postgres": {"user": "x"}}'])
def test_a_broken_file_is_named(file: str, text: str, installation: Installation) -> None:
    (installation.folder / file).write_text(text)
    with pytest.raises(DataError, match=Path(file).name):
        Installation.make(installation.folder)


def test_there_is_nothing_to_read_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no services were ever started here"):
        Installation.read(tmp_path)


def test_a_port_that_is_taken_is_named(installation: Installation) -> None:
    port, note = installation.ports["mlflow"], installation.folder / "ports.json"
    taken = pytest.raises(SettingsError, match=rf"port {port} \(mlflow\) is taken")
    with socket.create_server((LOOPBACK, port)), taken:
        check_free(installation.ports, note)
    check_free(installation.ports, note)


def test_a_folder_has_one_supervisor(installation: Installation) -> None:
    with alone(installation.folder):
        write_record(installation.folder, [])
        with pytest.raises(SettingsError, match=rf"run already \(process {os.getpid()}\)"), alone(installation.folder):
            pass
    with alone(installation.folder):
        pass


def test_what_a_killed_supervisor_noted_counts_no_more(installation: Installation) -> None:
    gone = {"host": socket.gethostname(), "pid": "4194303", "started": "1.0"}
    write_json(installation.folder / "running.json", {"supervisor": gone, "servers": []})
    assert read_record(installation.folder) == []
    assert stop(installation.folder) is False


def test_a_server_gets_none_of_the_user_s_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PGPASSWORD", "WEED_JWT"):
        monkeypatch.setenv(name, "mine")
    environment = clean_environment()
    assert "mine" not in environment.values()
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_exports_survive_a_shell() -> None:
    assert exports({"A": "b c'd", "E": "$(f)"}) == """export A='b c'"'"'d'\nexport E='$(f)'"""


def test_postgresql_takes_no_other_program_for_itself(installation: Installation) -> None:
    server = Postgres(installation)
    server.data.mkdir()
    (server.data / "PG_VERSION").touch()
    note = server.data / "postmaster.pid"
    note.write_text(f"{os.getpid()}\n")
    server.prepare()
    assert not note.exists()


def test_root_is_told_which_folder_postgresql_cannot_pass(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's folders are closed to others: PostgreSQL, who will not be root, would fail inside with less to say.
    import pwd

    monkeypatch.setattr(postgres, "_unprivileged", lambda: pwd.getpwuid(os.getuid()))
    with pytest.raises(SettingsError, match="cannot pass through this folder") as error:
        Postgres(installation).prepare()
    closed = Path(str(error.value.where))
    assert not closed.stat().st_mode & stat.S_IXOTH
    assert not (installation.folder / ".initdb-password").exists()
