"""The whole of compose.yaml, with the front in it."""

import json
import re
import shutil
import socket
import threading
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import ClassVar
from uuid import uuid4

from tests.harness.live import LIMIT, Connection, free_port, until
from tests.system.image.case import (  # noqa: F401
    DATABASE_PASSWORD,
    DEMO,
    SECRET_KEY,
    SERVICE,
    SHOP_ENVIRONMENT,
    ImageTestCase,
    setUpModule,
)
from tests.system.image.engine import PATIENCE, RUN, EngineError, docker, inspect, run
from tests.system.test_serve import an_order, register

# Clients that send their bodies slowly: several times as many as the service has threads (144).
HANGING = 400
# Normal clients at the same time, their requests, and how long the slowest may take, in seconds.
CLIENTS, REQUESTS, SLOWEST = 8, 400, 2.0
# The longest wait of a request between the front and a thread, in seconds.
QUEUE_TIMEOUT = 3
# How long the front waits for more of a body (client_body_timeout), and some seconds.
BODY_LIMIT = 10 + 5


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
        "SHOP_QUEUE_TIMEOUT": str(QUEUE_TIMEOUT),
        "SHOP_WEBHOOK_ALLOW_HTTP": "1",
        "SHOP_WEBHOOK_ALLOW_PRIVATE": "1",
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

    @classmethod
    def container(cls, service: str) -> str:
        """Return the id of the container of a service, also when it is stopped."""
        labels = f"label=com.docker.compose.project={RUN}", f"label=com.docker.compose.service={service}"
        return docker("ps", "--all", "--quiet", *(word for label in labels for word in ("--filter", label)))

    def test_nothing_starts_without_secrets_and_the_missing_one_is_named(self):
        for name in ("POSTGRES_PASSWORD", "SHOP_SECRET_KEY"):
            with self.subTest(name):
                environment = self.environment | {name: ""}
                refused = run(*compose_command(), "-p", RUN, "config", environment=environment)
                self.assertNotEqual(0, refused.returncode)
                self.assertIn(f"set {name} ", refused.stdout)

    def test_only_the_front_is_reachable_and_only_from_this_machine(self):
        containers = docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={RUN}").split()
        published = [
            ports for each in containers for ports in inspect(each, ".NetworkSettings.Ports").values() if ports
        ]
        self.assertEqual([[{"HostIp": "127.0.0.1", "HostPort": str(self.port)}]], published)

    def test_the_flow_works_through_the_front(self):
        self.assertFlow(self.url)
        self.assertCleanLog(self.compose("logs", "--no-color", "shop", "migrate"))
        self.assertSecretFree(self.compose("logs", "--no-color"))

    def test_events_of_orders_are_sent_by_the_service_deliver(self):
        # The service itself is the receiver: it answers 404, which the deliverer logs.
        docker("exec", self.container("deliver"), "shop", "webhooks", "add", "http://shop:8000/receiver")
        with Connection(self.url) as client:
            client.post("/orders", an_order(register(client)))

        def is_sent() -> bool:
            return '"status":404' in self.compose("logs", "--no-color", "deliver").replace(" ", "")

        until(is_sent, "the event was sent")

    def test_what_the_front_itself_refuses_has_the_one_shape(self):
        with Connection(self.url) as connection:
            self.assertProblem(connection.request("POST", "/users", b" " * 5_000_000), 413, "PAYLOAD_TOO_LARGE")
            self.assertProblem(connection.request("GET", "/" + "a" * 40_000), 400, "BAD_REQUEST")
            self.assertProblem(connection.request("GET", "/", X_Long="a" * 40_000), 400, "BAD_REQUEST")
            self.assertProblem(connection.get("/-problem"), 404, "NOT_FOUND")
        self.assertEqual((b"400", "BAD_REQUEST"), self.refusal(b"NONSENSE\r\n\r\n"))

    def test_the_front_refuses_what_the_service_could_misunderstand(self):
        with Connection(self.url) as connection:
            self.assertProblem(connection.get(f"/users/{uuid4()}%2Forders"), 404, "NOT_FOUND")
            self.assertProblem(connection.get("/orders%2f1"), 404, "NOT_FOUND")
        for hosts in ([], ["a", "b"]):
            lines = ["GET /livez HTTP/1.1", *(f"Host: {host}" for host in hosts), "", ""]
            self.assertEqual((b"400", "BAD_REQUEST"), self.refusal("\r\n".join(lines).encode()))

    def refusal(self, request: bytes) -> tuple[bytes, str]:
        """Send bytes and return the status and the code of the answer, after which the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), LIMIT) as raw:
            raw.sendall(request)
            answer = b"".join(iter(lambda: raw.recv(65_536), b""))
        self.assertIn(b"application/problem+json", answer)
        return answer.split()[1], json.loads(answer.partition(b"\r\n\r\n")[2])["code"]

    def test_a_request_that_waited_too_long_behind_the_front_is_a_503(self):
        shop = self.container("shop")
        with ThreadPoolExecutor(1) as thread, Connection(self.url) as connection:
            docker("pause", shop)
            try:
                sent = time.monotonic()
                waiting = thread.submit(connection.get, "/readyz")
                until(lambda: time.monotonic() > sent + QUEUE_TIMEOUT + 1, "the request has waited too long")
            finally:
                docker("unpause", shop)
            refused = waiting.result()
            self.assertProblem(refused, 503, "SERVICE_UNAVAILABLE")
            self.assertEqual("The service is overloaded", refused.json["error"])
            self.assertEqual(200, connection.get("/readyz").status)

    def test_400_slow_clients_do_not_disturb_eight_normal_ones(self):
        with ThreadPoolExecutor(CLIENTS) as normal, slow_clients(self.port) as silent:
            seconds = sorted(normal.map(self.timed, range(REQUESTS)))
            self.assertLess(seconds[-1], SLOWEST)
            # A client that sends nothing more loses its connection, by a reset or an orderly end.
            silent.settimeout(BODY_LIMIT)
            with suppress(ConnectionResetError):
                self.assertEqual(b"", silent.recv(1))
        told = f"{HANGING} slow clients; of {REQUESTS} requests the slowest took {seconds[-1] * 1000:.0f} ms ... "
        print(told, end="", flush=True)

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
            self.assertEqual(0, inspect(self.container("shop"), ".State.ExitCode"))
        finally:
            self.compose("start", "shop")
            self.await_service()


@contextmanager
def slow_clients(port: int) -> Iterator[socket.socket]:
    """Keep clients that announce a body and send a byte of it each second; yield one more, which sends none."""
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
