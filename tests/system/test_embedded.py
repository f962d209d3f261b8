"""The embedded PostgreSQL starts anywhere, is shared by all processes of a user, and says why where it cannot start.

Everything here is done to real processes.
"""

import os
import stat
from pathlib import Path
from unittest import mock

import psycopg2
from psycopg2.extensions import parse_dsn

from shop.embedded import server as embedded
from shop.embedded.server import AlreadyRunning, EmbeddedPostgres, default_home
from tests.harness.live import still_running, until
from tests.support import homes
from tests.support.homes import LINUX, EmbeddedTestCase, answers, family, kill, run_sql, setUpModule  # noqa: F401


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
        self.assertEqual([], still_running(everyone))
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
        with self.assertRaises(psycopg2.DataError):
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
                if not inside and any(homes.made.glob("programs-*")):
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
        sockets = Path(parse_dsn(server.url)["host"])
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
        sockets.symlink_to(homes.base)
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
