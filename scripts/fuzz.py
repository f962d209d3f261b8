"""Lets schemathesis, which knows only the API description, look for requests that service and description disagree on.

It runs against `shop serve` on a free port, with a database that is thrown away: as a customer who must not see another
customer's things, then as staff. All its checks are on, for data that is right and for data that is wrong, one request
at a time and in sequences. Beside the description it uses `fuzz.toml` and `fuzz_hooks.py`. The exit
status is 0 when it found nothing.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.harness.live import LIMIT, Connection, temporary_directory
from tests.support.live import LiveShop, run_shop

HERE = Path(__file__).resolve().parent
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
# Who sends the requests, and for how many seconds; the other user is there to be spied on.
RUNS = {"ada": 40, "staff": 20}
USERS = ("ada", "bob", "staff")
USERS_FILE = "users.json"
PASSWORD = "analytical engine"
SETTINGS = {
    # A client that guesses all day must not be shut out, nor its token expire.
    "SHOP_LOGIN_MAX_FAILURES": "0",
    "SHOP_TOKEN_TTL": "31536000",
    # Hashing is not what is looked at here.
    "SHOP_ARGON2_TIME_COST": "1",
    "SHOP_ARGON2_MEMORY_COST": "8",
}
# Lines of the service's log that are shown when something was found.
SHOWN = 100


def main() -> int:
    """Run, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description=(__doc__ or "").splitlines()[0],
        epilog="Other options go to `schemathesis run`, for instance --seed or --include-operation-id.",
    )
    parser.add_argument(
        "--max-examples",
        metavar="N",
        help=f"N requests for each operation and phase, however long it takes, instead of {sum(RUNS.values())} seconds",
    )
    options, others = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return fuzz(options.max_examples, others)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def fuzz(max_examples: str | None, arguments: Sequence[str]) -> int:
    """Run schemathesis with `arguments` against a service of its own, and return its highest exit status."""
    home = temporary_directory("shop-fuzz-")
    try:
        with LiveShop(home / "data", environment=SETTINGS) as shop:
            ids = _prepared(shop.url, home)
            # From a file: schemathesis leaves out the operation that it has the description from.
            description = home / "openapi.json"
            with Connection(shop.url) as connection:
                description.write_bytes(connection.get("/openapi.json").content)
            statuses = []
            for name, seconds in RUNS.items():
                print(f"\n== as {name}", flush=True)
                bounds = ["--max-examples", max_examples] if max_examples else ["--max-time", str(seconds)]
                environment = {
                    "PYTHONPATH": str(HERE),
                    "FUZZ_USERS": str(home / USERS_FILE),
                    "FUZZ_USER": name,
                    "FUZZ_USER_ID": ids[name],
                }
                # In a directory of its own, where it may leave what it likes.
                statuses.append(_run([description, "--url", shop.url, *bounds, *arguments], environment, home))
            if any(statuses) and shop.stderr:
                print("\n== the end of the service's log", *shop.stderr[-SHOWN:], sep="\n")
        print("\nfuzz:", "something was found, see above" if any(statuses) else "nothing was found")
        return max(statuses)
    finally:
        shutil.rmtree(home)


def _run(arguments: Sequence[str | Path], environment: Mapping[str, str], directory: Path) -> int:
    command = [SCHEMATHESIS, "--config-file", HERE / "fuzz.toml", "run", *arguments]
    with _ended(subprocess.Popen(command, cwd=directory, env=os.environ | environment)) as process:
        return process.wait()


def _prepared(url: str, home: Path) -> dict[str, str]:
    """Register the users, note for schemathesis how to send requests as each of them, and return their ids."""
    ids, entries = {}, []
    for name in USERS:
        credentials = {"email": f"{name}@example.com", "password": PASSWORD}
        with Connection(url) as connection:
            ids[name] = connection.post("/users", {"name": name.title(), **credentials}).json["id"]
            if name == "staff":
                run_shop("staff", "add", credentials["email"], "--data-dir", home / "data")
            token = connection.post("/users/login", credentials).json["token"]
        header = {"name": "Authorization", "value": f"Bearer {token}"}
        entries.append({"name": name, "fixedHeaders": [header]})
    (home / USERS_FILE).write_text(json.dumps({"auth": entries}))
    return ids


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Make sure that `process` has ended at the end of the block, however that comes about."""
    try:
        yield process
    finally:
        if process.poll() is None:
            # After Ctrl-C it has been told already, by the terminal; twice does no harm.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(LIMIT)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
                process.wait()


if __name__ == "__main__":
    sys.exit(main())
