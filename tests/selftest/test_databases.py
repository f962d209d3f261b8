"""The databases of a run: never another's, never forgotten, and no password in a message."""

import contextlib
import io
import os
import signal
import threading
import traceback
import unittest
from unittest import mock

import psycopg2
from docker.errors import APIError, ImageNotFound

from tests import binding
from tests.harness import postgres
from tests.harness.databases import Databases, DatabaseUrl, UnreadableUrlError
from tests.harness.postgres import current_url, databases, point_at, server, setUpModule, tearDownModule

PASSWORD = "s3cr3t/%@"


class UrlTest(unittest.TestCase):
    """Connection URLs and strings in all their forms."""

    def test_every_form_names_another_database_of_the_same_server(self):
        for given, expected in {
            "postgresql://u@h/postgres": "postgresql://u@h/other",
            "postgres://u:p%40@h:5433": "postgresql://u:p%40@h:5433/other",
            "postgresql://u@[::1]:5432/a?sslmode=require": "postgresql://u@[::1]:5432/other?sslmode=require",
            "postgresql://u@/postgres?host=/run/precious": "postgresql://u@/other?host=/run/precious",
            "postgresql:///postgres?host=/run/precious": "postgresql:///other?host=/run/precious",
            "host=/run/precious dbname=postgres user=u": "postgresql://u@/other?host=/run/precious",
            "host=h dbname=postgres password='a b'": "postgresql://:a%20b@h/other",
            "postgresql://a:1,b:2/x": "postgresql:///other?host=a%2Cb&port=1%2C2",
            "": "postgresql:///other",
        }.items():
            with self.subTest(given):
                self.assertEqual(expected, DatabaseUrl.read(given).with_database("other"))

    def test_a_url_means_the_same_after_reading(self):
        parameters = {"user": "ü/@", "password": PASSWORD, "host": "db.example", "port": "1", "dbname": "a b?/é"}
        self.assertEqual(parameters, DatabaseUrl.of(parameters).parameters)

    def test_no_representation_shows_the_password(self):
        url = DatabaseUrl.of({"user": "u", "password": "secret", "host": "h", "dbname": "d"})
        self.assertEqual("'postgresql://u:%2A%2A%2A@h/d'", repr(url))
        self.assertIn("secret", url)

    def test_what_is_no_url_is_refused_without_its_text(self):
        for given in ("mysql://u:secret@h/d", "postgresql://u:secret@[h/d", "nonsense", "postgresql://u:se@cret@h/d"):
            with self.subTest(given):
                with self.assertRaises(UnreadableUrlError) as caught:
                    DatabaseUrl.read(given)
                self.assertNotIn("cret", str(caught.exception))


class VariableTest(unittest.TestCase):
    """What a run says of the variable that names its server."""

    def said(self, url):
        """Return the message and the traceback, with local variables, of a run with this URL."""
        environment = {postgres.URL: url, postgres.SERVER: ""}
        with mock.patch.dict(os.environ, environment), self.assertRaises(postgres.NoServerError) as caught:
            postgres._find()
        shown = traceback.TracebackException.from_exception(caught.exception, capture_locals=True)
        return str(caught.exception), "".join(shown.format())

    def test_it_is_named_and_no_password_is_shown(self):
        for url in (
            "postgresql://u:hunter2@127.0.0.1:1/d",
            "postgresql://u:hunter2@[::1/d",
            "postgresql://u:hun@ter2@127.0.0.1:1/d",
            "postgresql://u:hunter2/x@127.0.0.1:1/d",
            "postgresql://u:hunter2#@127.0.0.1:1/d",
            "host=127.0.0.1 port=1 password=hunter2",
            "host=127.0.0.1 port=1 password='hunter2",
            "mysql://u:hunter2@h/d",
        ):
            with self.subTest(url):
                message, shown = self.said(url)
                self.assertTrue(message.startswith(f"{binding.PREFIX}DATABASE_URL: "), message)
                self.assertNotRegex(message + shown, "hunter2|ter2@")

    def test_an_image_that_cannot_be_pulled_is_a_short_sentence(self):
        engine = mock.MagicMock()
        engine.images.get.side_effect = ImageNotFound("no such image")
        engine.images.pull.side_effect = APIError("registry: " + "a very long story " * 20)
        variables = {postgres.SERVER: "container", postgres.IMAGE: "some/image:1"}
        with (
            mock.patch("docker.from_env", return_value=engine),
            mock.patch.dict(os.environ, variables),
            contextlib.redirect_stderr(io.StringIO()),
            self.assertRaises(postgres.NoServerError) as caught,
        ):
            postgres._find()
        self.assertEqual("Docker cannot pull the image some/image:1", str(caught.exception))

    def test_a_role_that_may_not_create_databases_is_named(self):
        with mock.patch("psycopg2.connect") as connect:
            connect.return_value.cursor.return_value.__enter__.return_value.fetchall.return_value = [(False, "reader")]
            message, _ = self.said("postgresql://reader@h/d")
        self.assertEqual(f"{postgres.URL}: the role reader may not create databases (ALTER ROLE … CREATEDB)", message)


class DatabasesTest(unittest.TestCase):
    """Several runs on one server. All of this process have one process id, as runs in containers may have."""

    def run_of(self, url=None):
        """Return the databases of another run."""
        run = Databases(url or server().url)
        self.addCleanup(run.close)
        return run

    def in_fork(self, job, status=0):
        """Run `job` in a fork of this process, which ends with this status."""
        if (child := os.fork()) == 0:
            try:
                job()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        self.assertEqual(status, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "exit status of the fork")

    def names(self):
        return {name for (name,) in databases().execute("SELECT datname FROM pg_database")}

    def test_a_directory_in_the_url_is_no_database_to_drop(self):
        precious = databases().create("precious")
        self.addCleanup(databases().drop, precious)
        url = server().url.of(server().url.parameters | {"application_name": f"/run/{precious.name}"})
        run = self.run_of(url)
        run.drop(run.create("clone"))
        run.create("left")
        run.close()
        self.assertIn(precious.name, self.names())

    def test_two_runs_at_once_have_databases_of_their_own(self):
        first, second = self.run_of(), self.run_of()
        one, other = first.create("test"), second.create("test")
        self.assertNotEqual(one.name, other.name)
        second.close()
        self.assertIn(one.name, self.names())
        self.assertNotIn(other.name, self.names())

    def test_a_run_drops_only_what_it_created(self):
        other = self.run_of().create("test")
        with self.assertRaisesRegex(LookupError, other.name):
            databases().drop(other)
        self.assertIn(other.name, self.names())

    def test_a_new_run_removes_the_databases_of_killed_runs_only(self):
        living, label = self.run_of().create("living"), f"killed{os.urandom(4).hex()}"

        def die():
            Databases(server().url).create(label)
            os.kill(os.getpid(), signal.SIGKILL)

        self.in_fork(die, -signal.SIGKILL)
        self.assertEqual(1, sum(label in name for name in self.names()))
        self.run_of()
        self.assertEqual(0, sum(label in name for name in self.names()))
        self.assertIn(living.name, self.names())

    def test_the_server_does_not_end_the_session_that_proves_a_run_to_live(self):
        hasty = databases().create("hasty")
        self.addCleanup(databases().drop, hasty)
        databases().execute(f'ALTER DATABASE "{hasty.name}" SET idle_session_timeout = 5000')
        with self.run_of(hasty.url)._keeper.cursor() as cursor:
            cursor.execute("SHOW idle_session_timeout")
            self.assertEqual(("0",), cursor.fetchone())

    def test_databases_without_a_comment_of_ours_stay(self):
        other = databases().create("other")
        self.addCleanup(databases().drop, other)
        for comment in ("", "a person's", '{"kit": "tests.harness", "project": "another", "key": 1}', '["x"]', "1"):
            databases().execute(f'COMMENT ON DATABASE "{other.name}" IS %s', (comment,))
            with self.subTest(comment):
                self.run_of()
                self.assertIn(other.name, self.names())

    def test_a_comment_says_who_made_a_database(self):
        made = databases().create("told")
        self.addCleanup(databases().drop, made)
        statement = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        ((comment,),) = databases().execute(statement, (made.name,))
        self.assertRegex(comment, rf'"project": "{binding.NAME}".*"pid": {os.getpid()}.*"created": "\d.*UTC"')

    def test_a_fork_of_the_run_drops_nothing(self):
        run = self.run_of()
        made = run.create("forked")
        self.in_fork(run.close)
        self.assertIn(made.name, self.names())

    def test_the_end_of_a_run_drops_the_databases_of_its_forks(self):
        run, label = self.run_of(), f"fork{os.urandom(4).hex()}"
        self.in_fork(lambda: run.create(label))
        self.assertEqual(1, sum(label in name for name in self.names()))
        run.close()
        self.assertEqual(0, sum(label in name for name in self.names()))

    def test_a_long_label_still_gives_a_name_that_postgresql_keeps(self):
        made = [databases().create("long" * 30) for _ in range(2)]
        self.assertLessEqual({database.name for database in made}, self.names())
        for database in made:
            databases().drop(database)


class TemplateTest(unittest.TestCase):
    """The schema is made once for all runs."""

    def setUp(self):
        self.addCleanup(point_at, current_url())
        self.fingerprint = f"a schema of this test {os.urandom(4).hex()}"

    def facts(self, name):
        statement = "SELECT datistemplate, datallowconn FROM pg_database WHERE datname = %s"
        return databases().execute(statement, (name,))

    def remove(self, name):
        databases().execute(f'ALTER DATABASE "{name}" IS_TEMPLATE false')
        databases().execute(f'DROP DATABASE "{name}"')

    def test_it_is_a_real_template_and_made_once(self):
        name = databases().template(self.fingerprint)
        self.addCleanup(self.remove, name)
        self.assertEqual([(True, False)], self.facts(name))
        with mock.patch.object(binding, "make_schema", side_effect=AssertionError):
            self.assertEqual(name, databases().template(self.fingerprint))
        with self.assertRaisesRegex(psycopg2.OperationalError, "not currently accepting connections"):
            psycopg2.connect(server().url.with_database(name))

    def test_another_fingerprint_is_another_template(self):
        names = {databases().template(f"{self.fingerprint} {number}") for number in range(2)}
        for name in names:
            self.remove(name)
        self.assertEqual(2, len(names))

    def test_of_two_runs_that_make_it_at_once_one_gives_up_its_draft(self):
        made = threading.Event()

        def make_schema_late():
            if not made.is_set():
                made.set()
                # Another run makes the whole template.
                Databases(server().url).template(self.fingerprint)

        with mock.patch.object(binding, "make_schema", make_schema_late):
            name = databases().template(self.fingerprint)
        self.addCleanup(self.remove, name)
        self.assertEqual([(True, False)], self.facts(name))
        self.assertEqual([], databases().execute("SELECT datname FROM pg_database WHERE datname ~ '_draft_'"))
