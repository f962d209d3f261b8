"""The embedded PostgreSQL starts on any path, is shared by all processes of a user, and says why it cannot start.

Everything here is done to real processes.
"""

import contextlib
import os
import stat
import subprocess
import unittest
from pathlib import Path
from typing import ClassVar
from unittest import mock

import psycopg2
from psycopg2.extensions import parse_dsn

from shop.embedded import home as embedded_home
from shop.embedded.server import AlreadyRunning, EmbeddedPostgres, default_home
from tests.harness.live import still_running, until
from tests.support import homes
from tests.support.homes import ROOT, EmbeddedTestCase, answers, family, kill, run_sql, setUpModule  # noqa: F401


class RunningServerTest(EmbeddedTestCase):
    """What is true of a server that runs."""

    VARIABLES: ClassVar = {
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGDATA": "/nowhere",
        "PGUSER": "me",
        "SHOP_SECRET_KEY": "x",
    }

    @classmethod
    def setUpClass(cls) -> None:
        cls.running = EmbeddedPostgres(homes.made)
        cls.enterClassContext(mock.patch.dict(os.environ, cls.VARIABLES))
        cls.enterClassContext(cls.running)

    def test_the_role_owns_its_database_makes_others_and_is_no_superuser(self) -> None:
        facts = (
            "SELECT current_user::text, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        )
        self.assertEqual([("shop", False, True, False)], run_sql(self.running.url, facts))
        run_sql(self.running.url, "CREATE DATABASE another TEMPLATE shop")
        self.addCleanup(run_sql, self.running.url, "DROP DATABASE another")
        run_sql(self.running.url, "CREATE TABLE public.here ()")
        admin = self.running.url.replace("shop@", "postgres@")
        self.assertEqual([("on",)], run_sql(admin, "SHOW is_superuser"))

    def test_text_is_utf8_in_an_order_that_no_c_library_decides(self) -> None:
        facts = "SELECT DISTINCT pg_encoding_to_char(encoding), datlocprovider::text, datlocale FROM pg_database"
        self.assertEqual([("UTF8", "b", "C.UTF-8")], run_sql(self.running.url, facts))

    def test_only_the_owner_of_the_home_reaches_the_server(self) -> None:
        _, postgres, _ = family(os.getpid())
        for folder in (homes.made / "socket", homes.made / "data"):
            self.assertEqual(0o700, stat.S_IMODE(folder.stat().st_mode), folder)
        self.assertEqual([("",)], run_sql(self.running.url, "SHOW listen_addresses"))
        self.assertEqual([], postgres.net_connections("inet"))
        rules = (homes.made / "data/pg_hba.conf").read_text().splitlines()
        self.assertEqual({"reject"}, {rule.split()[-1] for rule in rules if rule.startswith("host")})

    def test_the_environment_of_the_service_is_not_passed_on(self) -> None:
        _, postgres, _ = family(os.getpid())
        self.assertEqual(set(), self.VARIABLES.items() & postgres.environ().items())

    def test_what_is_committed_is_synced_to_disk(self) -> None:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self.assertEqual([("on",)], run_sql(self.running.url, f"SHOW {setting}"), setting)

    def test_what_customers_send_is_not_in_the_log(self) -> None:
        with self.assertRaises(psycopg2.DataError):
            run_sql(self.running.url, "SELECT 'jane@example.org'::integer")
        self.assertNotIn("jane@", (homes.made / "postgres.log").read_text())

    def test_a_second_start_is_refused_with_the_pid_or_joins(self) -> None:
        with self.assertRaises(AlreadyRunning) as caught:
            self.server(homes.made).start()
        self.assertIn(str(homes.made), str(caught.exception))
        self.assertIn(str(os.getpid()), str(caught.exception))
        other = self.server(homes.made)
        other.start(join=True)
        self.assertTrue(other.joined)
        self.assertEqual(self.running.url, other.url)
        other.stop()
        self.assertFalse(other.joined)
        self.assertTrue(answers(self.running.url), "stop() must not stop a server that was joined")


class StartAndStopTest(EmbeddedTestCase):
    def test_stop_leaves_no_process_and_the_next_start_finds_the_rows(self) -> None:
        home = self.filled_home()
        server = self.server(home)
        with self.assertRefused("not been started"):
            self.fail(server.url)
        server.start()
        url = server.url
        server.start()
        self.assertEqual(url, server.url)
        run_sql(url, "CREATE TABLE kept AS SELECT 1")
        _, _, everyone = family(os.getpid())
        server.stop()
        server.stop()
        self.assertEqual([], still_running(everyone))
        self.assertFalse((home / "data/postmaster.pid").exists())
        self.assertFalse(answers(url))
        server.start()
        self.assertEqual([(1,)], run_sql(server.url, "TABLE kept"))

    def test_a_server_that_does_not_start_says_why_and_its_log_is_kept(self) -> None:
        home = self.filled_home()
        with self.assertRefused("does not start", "shared_buffers", str(home / "postgres.log")):
            self.server(home, options={"shared_buffers": "plenty"}).start()
        self.server(home, options={"work_mem": "5MB"}).start()
        self.assertIn("shared_buffers", (home / "postgres.log.1").read_text())

    def test_without_posix_the_setting_to_use_is_named(self) -> None:
        server = self.server(self.home())
        with mock.patch.object(os, "name", "nt"), self.assertRefused("SHOP_DATABASE_URL"):
            server.start()


class PathTest(EmbeddedTestCase):
    def test_a_home_may_have_any_name(self) -> None:
        filled = self.filled_home()
        name = "a'b\" $X`x`\\ %ü本"  # short, so that a socket fits in, whatever the directory for temporary files
        # Only a comma needs a socket elsewhere.
        for home, inside in ((filled.with_name(f"a, {name}"), False), (filled.with_name(name), True)):
            filled.rename(home)
            with self.subTest(home=home):
                if any(homes.made.glob("programs-*")):
                    # The home gets a copy of the programs, whose path initdb hands to a shell.
                    with self.assertRefused("to a shell"):
                        self.server(home).start()
                else:
                    with EmbeddedPostgres(home, durable=False) as server:
                        self.assertTrue(answers(server.url))
                        self.assertEqual(inside, (home / "socket/.s.PGSQL.5432").exists())
            home.rename(filled)

    def test_a_long_path_gets_a_private_socket_elsewhere(self) -> None:
        home = self.filled_home("long" * 50)
        server = self.server(home)
        server.start()
        sockets = Path(parse_dsn(server.url)["host"])
        self.assertFalse(sockets.is_relative_to(home))
        self.assertEqual(0o700, stat.S_IMODE(sockets.stat().st_mode))
        other = self.server(home)
        other.start(join=True)
        self.assertEqual(server.url, other.url)
        server.stop()
        self.assertFalse(sockets.exists())

    def test_what_is_not_a_database_is_left_alone(self) -> None:
        home = self.home()
        (home / "data").mkdir(parents=True)
        (home / "data/thesis.txt").write_text("years of work")
        with self.assertRefused("not a data directory"):
            self.server(home).start()
        self.assertEqual("years of work", (home / "data/thesis.txt").read_text())

    def test_the_data_of_another_major_version_is_refused_with_the_way_out(self) -> None:
        home = self.filled_home()
        version = home / "data/PG_VERSION"
        self.addCleanup(version.write_text, version.read_text())
        version.write_text("17\n")
        with self.assertRefused("PostgreSQL 17", "PostgreSQL 18", "pg_dump", "pg_restore"):
            self.server(home).start()


class UnusablePathTest(EmbeddedTestCase):
    """A data directory that cannot be used: the error says what is there and which setting chooses another one."""

    def test_what_is_in_the_way_of_a_directory_is_named(self) -> None:
        for make in (Path.touch, lambda path: path.symlink_to("nowhere")):
            thing = self.home("thing")
            make(thing)
            with_data = self.home()
            with_data.mkdir()
            make(with_data / "data")
            for home, culprit in ((thing, thing), (thing / "sub/home", thing), (with_data, with_data / "data")):
                with self.subTest(home=home), self.assertRefused(str(culprit)):
                    self.server(home).start()

    def test_a_circle_of_links_is_refused(self) -> None:
        link = self.home("link")
        link.symlink_to(link)
        with self.assertRefused(str(link), "SHOP_DATA_DIR"):
            self.server(link / "home").start()

    @unittest.skipIf(ROOT, "nothing is forbidden to root")
    def test_a_directory_that_the_user_may_not_use_is_named(self) -> None:
        for mode in (0o500, 0o000):
            parent = self.home("private")
            parent.mkdir()
            parent.chmod(mode)
            self.addCleanup(parent.chmod, 0o700)
            with self.subTest(mode=oct(mode)), self.assertRefused(str(parent), "Permission denied", "SHOP_DATA_DIR"):
                self.server(parent / "home").start()

    @unittest.skipUnless(ROOT, "only root may mount file systems")
    def test_a_full_and_a_read_only_file_system_are_named(self) -> None:
        for options, words in (
            ("size=1m,mode=711", ["No space left on device"]),
            ("ro", ["Read-only file system", "SHOP_DATA_DIR"]),
        ):
            with self.subTest(options=options):
                place = self.mounted(options)
                with self.assertRefused(str(place), *words):
                    self.server(place / "home").start()
                self.assertFalse((place / "home/data").exists())
                self.assertFalse((place / "home/data.new").exists())

    @unittest.skipUnless(ROOT, "only root may mount file systems")
    def test_a_file_system_that_became_full_is_named(self) -> None:
        home = self.mounted("size=256m,mode=711") / "home"
        home.mkdir(mode=0o711)
        subprocess.run(["cp", "-Rp", homes.made / "data", home], check=True)
        with contextlib.suppress(OSError), (home / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(65536)):
                pass
        with self.assertRefused(str(home), "No space left on device"):
            self.server(home).start()

    def mounted(self, options: str) -> Path:
        """Return a folder on a file system of its own, in memory."""
        place = self.home("mounted")
        place.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], stderr=subprocess.PIPE)
        if mount.returncode:
            self.skipTest(f"this system does not let root mount: {mount.stderr.decode()}")
        self.addCleanup(subprocess.run, ["umount", place], check=True)
        return place


class DefaultHomeTest(unittest.TestCase):
    def home_of(self, checkout: Path, user: int = 1000, **environment: str) -> Path:
        """Return the default home of user number `user` for the code below `checkout`."""
        with (
            mock.patch.object(embedded_home, "CHECKOUT", checkout),
            mock.patch.object(os, "geteuid", return_value=user),
            mock.patch.dict(os.environ, {"HOME": "/home/ada", **environment}),
        ):
            return default_home()

    def test_a_checkout_has_data_of_its_own(self) -> None:
        self.assertEqual(homes.CHECKOUT / ".shop", self.home_of(homes.CHECKOUT))

    def test_two_checkouts_of_root_have_homes_below_var_lib(self) -> None:
        with mock.patch.object(Path, "is_file", return_value=True):
            first, second = (self.home_of(Path(f"/root/{name}/my shop"), user=0) for name in ("a", "b"))
        self.assertNotEqual(first, second)
        for home in (first, second):
            self.assertRegex(str(home), r"^/var/lib/shop/myshop-[0-9a-f]{12}$")

    @unittest.skipUnless(homes.LINUX, "other systems have other places")
    def test_an_installed_shop_uses_the_users_data_directory(self) -> None:
        installed = Path("/usr/lib/python3/site-packages")
        self.assertEqual(Path("/home/ada/.local/share/shop"), self.home_of(installed, XDG_DATA_HOME="not/absolute"))
        self.assertEqual(Path("/somewhere/shop"), self.home_of(installed, XDG_DATA_HOME="/somewhere"))
        self.assertEqual(Path("/var/lib/shop"), self.home_of(installed, user=0))


class SharingTest(EmbeddedTestCase):
    def test_of_two_that_start_at_once_one_serves_and_the_other_is_refused(self) -> None:
        home = self.filled_home()
        services = [self.service(home), self.service(home)]
        answers = [service.answer() for service in services]
        self.assertEqual(["AlreadyRunning"], [answer["error"] for answer in answers if "error" in answer])

    def test_of_two_starts_on_a_new_home_one_makes_it_and_the_other_joins(self) -> None:
        home = self.home()
        services = [self.service(home, "join"), self.service(home, "join")]
        both = [service.answer() for service in services]
        self.assertEqual([False, True], sorted(answer["joined"] for answer in both))
        self.assertTrue(answers(both[0]["url"]))
        self.assertEqual(both[0]["url"], both[1]["url"])

    def test_a_start_after_a_killed_service_waits_for_its_server_to_go(self) -> None:
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
        self.assertEqual(str(service.process.pid), (home / "lock").read_text().splitlines()[0])
        # Suspended, it takes its time to shut down.
        postgres.suspend()
        self.addCleanup(kill, postgres)
        service.kill()
        until(lambda: (home / "lock").read_text() == "", "the lock names nobody")
        postgres.resume()
        server = self.server(home)
        server.start()
        self.assertFalse(server.joined)
