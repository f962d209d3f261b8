"""A database server to do harm to, and clients that keep ordering and record their responses.

`FaultyDatabase` is a PostgreSQL of its own, whose processes a test may stop, kill or freeze. `Load` is a number of
clients, each on a kept-alive connection, that place and read orders as fast as they are answered; an order that was not
acknowledged is sent again with the same `Idempotency-Key`, as a client should.
"""

import atexit
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import psutil
import psycopg2

from shop.embedded.server import EmbeddedPostgres
from shop.storage import migrations
from tests.harness.live import LIMIT, Answer, Connection, temporary_directory, until
from tests.support.live import LiveShop, copy_of_home

PASSWORD = "correct horse"
TOLD = 12  # outcomes in a failure
LOOK = 0.05  # seconds between two looks of a front at its instances


class FaultyDatabase:
    """A PostgreSQL with the service's schema, for one test class.

    Args:
        options: Settings of the server over the defaults.

    Attributes:
        url: Where it is, also after a restart.
        superuser_url: The same for the superuser, for whom there is always a connection left.
    """

    def __init__(self, **options: str) -> None:
        self._directory = temporary_directory("shop-faults-")
        # What is committed outlives a killed server, though not a crash of the machine.
        options = {"synchronous_commit": "on"} | options
        home = copy_of_home(_template(), self._directory / "home")
        # A test that kills the server knows that it has ended.
        self._embedded = EmbeddedPostgres(home, durable=False, options=options, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        self.start()
        self.url = self._embedded.url
        self.superuser_url = self.url.replace("//shop@", "//postgres@")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self.stop()
        shutil.rmtree(self._directory)

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self._embedded.start()

    def stop(self) -> None:
        """Shut it down in order, and return when it is gone."""
        self._embedded.stop()

    @property
    def main_process(self) -> psutil.Process:
        """The server's main process."""
        return psutil.Process(int((self._directory / "home/data/postmaster.pid").read_text().split("\n")[0]))

    def kill(self) -> None:
        """Kill the main process with SIGKILL, and return when the last process of the server has ended."""
        # If the process has ended already, its watcher may have removed the file with its id.
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            self.main_process.kill()
        self._embedded.stop()

    def freeze(self) -> None:
        """Stop all its processes with SIGSTOP: its sockets stay, and nobody answers."""
        main = self.main_process
        # The main one first, so that it makes no further ones.
        for process in (main, *main.children()):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let frozen processes go on."""
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            main = self.main_process
            for process in (*main.children(), main):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, and return its rows."""
        options = "-c default_transaction_read_only=off"
        with closing(psycopg2.connect(self.superuser_url, options=options)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []

    def service_connections(self) -> int:
        """Return how many connections the service has."""
        return self.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'")[0][0]

    def end_connections(self) -> None:
        """End every connection of the service, and return when they are gone."""
        self.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'shop'")


@cache
def _template() -> Path:
    """Make a data home with the schema, for all databases of this process."""
    directory = temporary_directory("shop-faults-")
    atexit.register(shutil.rmtree, directory)
    with EmbeddedPostgres(directory / "home", durable=False) as embedded:
        migrations.migrate(embedded.url)
    return directory / "home"


@dataclass(frozen=True)
class Outcome:
    """What came of one request.

    Attributes:
        request: ``POST`` or ``GET``.
        began: When it was sent, by `time.monotonic`.
        seconds: How long it took.
        answer: The answer; None when there was none.
        failure: Why there was none.
    """

    request: str
    began: float
    seconds: float
    answer: Answer | None
    failure: str = ""

    @property
    def is_served(self) -> bool:
        """Whether it was done."""
        return self.answer is not None and self.answer.status in (200, 201)


class Load:
    """Clients that order and read until they are told to stop; a context manager.

    Args:
        where: Returns the address to connect to, asked at each connection: a front's choice.
        clients: How many there are.
        pause: How long a client waits after an answer, in seconds.

    Attributes:
        outcomes: What came of each request, in the order of the answers.
        acknowledged: The id of each order by its key.
        token: The token of the user who orders.
    """

    def __init__(self, where: Callable[[], str], *, clients: int = 8, pause: float = 0.002) -> None:
        self.outcomes: list[Outcome] = []
        self.acknowledged: dict[str, str] = {}
        self._where = where
        self._pause = pause
        self._enough = threading.Event()
        self.token, self._user_id = register(where())
        self._threads = [threading.Thread(target=self._order) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until_served(3 * len(self._threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(LIMIT)
        if error is not None:
            error.add_note("the last outcomes:\n" + "\n".join(map(str, self.outcomes[-TOLD:])))

    def until_served(self, number: int) -> None:
        """Return when `number` more requests that begin from now on have been served."""
        self._until(number, lambda outcome: outcome.is_served, "served")

    def until_refused(self, number: int) -> None:
        """Return when `number` more requests that begin from now on have been answered with 503."""
        self._until(number, lambda outcome: not outcome.is_served, "refused")

    def _until(self, number: int, wanted: Callable[[Outcome], bool], what: str) -> None:
        # Earlier outcomes are not looked at again and again: the clients need the time.
        now, known = time.monotonic(), len(self.outcomes)
        until(
            lambda: sum(o.began > now and wanted(o) for o in self.outcomes[known:]) >= number,
            f"{number} requests are {what}",
        )

    def since(self, moment: float) -> list[Outcome]:
        """Return the outcomes of the requests that were sent after `moment`."""
        return [outcome for outcome in self.outcomes.copy() if outcome.began > moment]

    def refusals(self) -> Counter[str]:
        """Return how often requests were not served, by status and code; "no answer" where a connection broke."""
        refused = [outcome.answer for outcome in self.outcomes.copy() if not outcome.is_served]
        return Counter(f"{answer.status} {answer.json['code']}" if answer else "no answer" for answer in refused)

    def _order(self) -> None:
        while not self._enough.is_set():
            # A new one wherever the last one was closed, by either side.
            with Connection(self._where(), self.token) as connection:
                for key in self._keys():
                    while not self._try(connection, key):
                        if self._enough.wait(self._pause):
                            return
                    if self._closed(connection):
                        break

    def _keys(self) -> Iterator[str]:
        for _ in count():
            if self._enough.wait(self._pause):
                return
            yield str(uuid4())

    @staticmethod
    def _closed(connection: Connection) -> bool:
        return connection.local_address is None

    def _try(self, connection: Connection, key: str) -> bool:
        """Place the order `key` and read it back; return whether that is done."""
        placed = self._send("POST", lambda: connection.post("/orders", an_order(self._user_id), Idempotency_Key=key))
        if not placed.is_served or placed.answer is None:
            return False
        self.acknowledged[key] = placed.answer.json["id"]
        self._send("GET", lambda: connection.get(f"/orders/{self.acknowledged[key]}"))
        return True

    def _send(self, request: str, send: Callable[[], Answer]) -> Outcome:
        began = time.monotonic()
        answer, failure = None, ""
        try:
            answer = send()
        except (OSError, HTTPException) as error:
            failure = repr(error)
        outcome = Outcome(request, began, time.monotonic() - began, answer, failure)
        self.outcomes.append(outcome)
        return outcome


def orders_by_key(url: str) -> dict[str, int]:
    """Return how many orders each idempotency key has in the database at `url`."""
    statement = "SELECT idempotency_key, count(*) FROM orders WHERE idempotency_key IS NOT NULL GROUP BY 1"
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return dict(cursor.fetchall())


def register(url: str) -> tuple[str, str]:
    """Register a user at `url` and log in, again until it is done; return the token and the user's id."""
    account = {"name": "Ada", "email": f"{uuid4()}@example.com", "password": PASSWORD}
    answers: list[Answer] = []
    with Connection(url) as connection:

        def is_done(path: str, body: dict[str, str], status: int) -> bool:
            answers.append(connection.post(path, body))
            return answers[-1].status == status

        until(lambda: is_done("/users", account, 201), "a user is registered")
        user_id = answers[-1].json["id"]
        credentials = {"email": account["email"], "password": PASSWORD}
        until(lambda: is_done("/users/login", credentials, 200), "the user is logged in")
        return answers[-1].json["token"], user_id


def an_order(user_id: str) -> dict[str, Any]:
    """Return the body of an order."""
    items = [{"productId": "tea", "name": "Tea", "price": 29.99, "quantity": 2}]
    return {"userId": user_id, "items": items, "shippingAddress": {"street": "1 Main Street"}}


@contextmanager
def roll(
    old: LiveShop, start_new: Callable[[], LiveShop]
) -> Iterator[tuple[Callable[[], str], Callable[[], LiveShop]]]:
    """Yield a front of `old`, and a function that replaces what is behind it by a new instance, which it returns.

    The front is what a load balancer is to its clients' connections: it asks every instance for its readiness, again
    and again, and names one that is ready.

    Args:
        old: An instance that serves, and drains for longer than the front takes from one look to the next.
        start_new: Starts another one, on the same database.
    """
    instances = [old]
    ready = [old.url]
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            ready[:] = [shop.url for shop in instances.copy() if _is_ready(shop.url)] or ready

    def replace() -> LiveShop:
        (leaving,) = instances
        new = start_new()
        instances.append(new)
        until(lambda: new.url in ready, "the front knows the new instance")
        leaving.terminate()
        leaving.wait()
        instances.remove(leaving)
        return new

    front = threading.Thread(target=look)
    front.start()
    try:
        yield lambda: ready[-1], replace
    finally:
        over.set()
        front.join(LIMIT)


def _is_ready(url: str) -> bool:
    with suppress(OSError, HTTPException), Connection(url) as connection:
        return connection.get("/readyz").status == 200
    return False
