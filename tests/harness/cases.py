"""Base classes of the tests.

`ApiTestCase` is the one to take: each test runs in a transaction that is rolled back. `CommittedApiTestCase` is for
what needs real commits, such as races between threads; its rows are deleted afterwards. `LiveServerTestCase` is for
what only a connection to the real server shows. Each has `setUpTestData`.
"""

import copy
import os
import random
import sys
import tempfile
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from inspect import getattr_static
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tests import binding
from tests.harness import driver, statements
from tests.harness.client import ApiClient, forget_exchange, last_exchange
from tests.harness.findings import findings
from tests.harness.guard import Guard, check_outside, watch
from tests.harness.live import Connection, LiveServer, free_port
from tests.harness.order import order_options
from tests.harness.parity import ClonedDatabase, DeletedRows
from tests.harness.postgres import clone, current_url, drop, point_at
from tests.harness.results import PROGRAM, SEED
from tests.harness.sandbox import Sandbox

T = TypeVar("T")
Isolation = Sandbox | ClonedDatabase | DeletedRows
# To unittest the frames of this module are its own: a traceback ends in the test, not in an assertion's insides.
__unittest = True


statements.watch()
driver.install(watch.connect)


@cache
def run_seed() -> str:
    """Return the seed of the factories in this run: that of the variable `…SEED`, else a new one, printed."""
    seed = os.environ.get(SEED) or str(random.SystemRandom().randrange(10**6))
    print(f"factory seed {seed} (repeat with {SEED}={seed})", file=sys.stderr)
    return seed


def make_client(**overrides: Any) -> ApiClient:
    """Return a client of an application of its own; `overrides` go to `binding.make_app`."""
    return ApiClient(binding.make_app(current_url(), **overrides))


@cache
def _shared(make: Callable[[], ApiClient]) -> ApiClient:
    return make()


class KitTestCase(unittest.TestCase):
    """A test with repeatable values, whose failure shows the last request and how to run it again."""

    @classmethod
    def setUpTestData(cls) -> None:
        """Make what all tests of the class share, and put it on the class; see the base class that you take."""

    def setUp(self) -> None:
        super().setUp()
        # Each test has a seed of its own, so that it gets the same values alone and in the whole run.
        binding.factories().reseed(f"{run_seed()} {self.id()}")

    def directory(self) -> Path:
        """Return a new temporary directory, which is removed when the test ends. The report counts the files in it."""
        made = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.addCleanup(lambda: findings.files.update(path.suffix or "others" for path in made.iterdir()))
        return made

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test, as unittest does; also after Ctrl-C, which unittest lets skip all cleanups."""
        forget_exchange()
        # unittest needs a part of the result's methods, and those are there.
        telling: Any = _Telling(result, self.id()) if result is not None else None
        try:
            return super().run(telling)
        except BaseException:
            self.doCleanups()
            self.doClassCleanups()
            raise

    def subTest(self, *args: Any, **kwargs: Any) -> AbstractContextManager[None]:
        forget_exchange()
        return super().subTest(*args, **kwargs)

    @classmethod
    def _has_test_data(cls) -> bool:
        return _overrides(cls, "setUpTestData", KitTestCase)

    @classmethod
    def _make_test_data(cls) -> None:
        """Call `setUpTestData`, and have each test get a copy of what it puts on the class."""
        binding.factories().reseed(f"{run_seed()} {cls.__qualname__}")
        forget_exchange()
        before = dict(vars(cls))
        _telling(cls, cls.setUpTestData)
        for name, value in list(vars(cls).items()):
            if before.get(name) is not value and not isinstance(value, _ClassData):
                setattr(cls, name, _ClassData(name, value))

    @contextmanager
    def assertQueries(self, count: int) -> Iterator[None]:
        """Fail unless the block runs exactly `count` statements; the failure lists them."""
        with statements.noted() as events:
            yield
        listed = "\n".join(["", *(statements.text_of(event.sql) for event in events)]) if events else " none"
        self.assertEqual(count, len(events), f"{count} statements were expected; there were{listed}")


class _Telling:
    """A result that adds to each failure the last request, what it did to the database, and how to run the test again.

    Everything else goes to `result`.
    """

    def __init__(self, result: unittest.TestResult, name: str) -> None:
        self._result, self._name = result, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        _tell(err[1], self._name)
        self._result.addError(test, err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        _tell(err[1], self._name)
        self._result.addFailure(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            _tell(err[1], self._name)
        self._result.addSubTest(test, subtest, err)


def _tell(error: BaseException, name: str) -> None:
    words = filter(None, [f"{SEED}={run_seed()}", PROGRAM, order_options(), name])
    error.add_note(f"{last_exchange()}\nrerun: {' '.join(words)}")


def _telling(cls: type, action: Callable[[], object]) -> None:
    """Do what belongs to a whole class; its failure says how to run the class again."""
    try:
        action()
    except unittest.SkipTest:
        raise
    except Exception as error:
        _tell(error, f"{cls.__module__}.{cls.__qualname__}")
        raise


def _overrides(cls: type, name: str, base: type) -> bool:
    return getattr_static(cls, name) is not getattr_static(base, name)


class _ClassData:
    """What `setUpTestData` put on a class: each test gets a copy, made at its first look, with references kept."""

    def __init__(self, name: str, value: object) -> None:
        self._name, self._value = name, value

    def __get__(self, test: KitTestCase | None, owner: type) -> object:
        if test is None:
            return self._value
        # One memo for the test: two attributes that refer to one object go on referring to one copy.
        memo = test.__dict__.setdefault("_copies", {})
        try:
            copied = test.__dict__[self._name] = copy.deepcopy(self._value, memo)
        except Exception as error:
            what = f"{owner.__qualname__}.{self._name}, which setUpTestData made, cannot be copied for each test"
            raise TypeError(f"{what} ({error}); make it in setUp") from error
        return copied


class _ClientTestCase(KitTestCase):
    """A test with a client, which may be used from any thread. The class fails if it leaves rows outside its tests."""

    client: ApiClient
    # Makes the client that the tests share; a project may have another one.
    make_client: ClassVar[Callable[[], ApiClient]] = staticmethod(make_client)

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        _shared(cls.make_client)
        check_outside(binding.database())
        cls.addClassCleanup(_telling, cls, lambda: check_outside(binding.database()))

    def setUp(self) -> None:
        super().setUp()
        self.client = _shared(type(self).make_client)


class ApiTestCase(_ClientTestCase):
    """A test of the API in a sandbox: its rows are rolled back, and no other connection ever sees them.

    Override `setUpTestData` to make rows once for all tests of a class. Each test sees them in a savepoint of its own,
    and gets its own copy of each value on the class.
    """

    # Keeps the test from others; `with self.isolation.undone():` undoes a part of a test.
    isolation: Isolation
    # The reason why the class means nothing outside a sandbox, empty when it does.
    not_in_parity_because = ""
    _class_isolation: ClassVar[Isolation | None] = None

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls._class_isolation = None
        # Also for a class whose own setUpClass makes rows.
        if cls._has_test_data() or _overrides(cls, "setUpClass", ApiTestCase):
            isolation = _isolation()
            isolation.enter()
            cls.addClassCleanup(_telling, cls, isolation.leave)
            cls._make_test_data()
            cls._class_isolation = isolation

    def setUp(self) -> None:
        super().setUp()
        if self._class_isolation is None:
            check_outside(binding.database())
        self.isolation = _isolation(self._class_isolation)
        self.isolation.enter()
        self.addCleanup(self.isolation.leave)


# A sandbox; real commits on a clone of the database for each test; real commits, and the rows are deleted afterwards.
ISOLATIONS: dict[str, Any] = {"sandbox": Sandbox, "commit": ClonedDatabase, "delete": DeletedRows}
_kind: Any = Sandbox


def use_isolation(mode: str) -> None:
    """Choose which of `ISOLATIONS` the tests that begin from now on have."""
    global _kind  # noqa: PLW0603 - the runner's switch for a whole pass.
    _kind = ISOLATIONS[mode]


def _isolation(of_class: Isolation | None = None) -> Isolation:
    made: Isolation = _kind(binding.database(), of_class)
    return made


class CommittedApiTestCase(_ClientTestCase):
    """A test of the API with real commits and as many connections as it has threads; its rows are deleted afterwards.

    `setUpTestData` runs before each test, because the rows of each test are deleted.
    """

    def setUp(self) -> None:
        guard = Guard(binding.database())
        guard.enter()
        self.addCleanup(guard.leave)
        if self._has_test_data():
            self._make_test_data()
        super().setUp()

    def at_once(self, *calls: Callable[[], T]) -> list[T]:
        """Make all calls at the same time, each in a thread of its own, and return their results in order."""

        def call(made: Callable[[], T]) -> T:
            try:
                return made()
            finally:
                binding.database().close()

        with ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(call, calls))


class LiveServerTestCase(KitTestCase):
    """A test of the real server over TCP, for what only a connection shows. One server for the class.

    The class has a database of its own, which factories use as well; its tests share the rows.
    """

    environment: ClassVar[dict[str, str]] = {}  # further variables for the server
    server: ClassVar[LiveServer]
    database_url: ClassVar[str]
    connection: Connection  # is kept alive; `connect` opens more

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        database = clone("live")
        cls.database_url = database.url
        cls.addClassCleanup(drop, database)
        cls.addClassCleanup(point_at, current_url())
        point_at(cls.database_url)
        if cls._has_test_data():
            cls._make_test_data()
        cls.server = cls.enterClassContext(cls.make_server(cls.database_url))

    @classmethod
    def make_server(cls, url: str) -> LiveServer:
        """Return the server of the class, not yet started, on the database at `url`."""
        port = free_port()
        served = binding.serve(url, port)
        if served is None:
            raise unittest.SkipTest("the project has no command that serves (binding.serve)")
        command, environment, ready = served
        return LiveServer(command, environment | cls.environment, ready, port)

    def setUp(self) -> None:
        super().setUp()
        self.connection = self.connect()

    def connect(self) -> Connection:
        """Return another connection to the server, closed when the test ends."""
        return self.enterContext(Connection(self.server.url))
