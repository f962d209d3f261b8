"""Two whole runs at once on one server, which is given in forms that have no user or are no URL."""

import os
import subprocess
import sys
import unittest

from tests.harness import postgres
from tests.harness.gates import unmeasured
from tests.harness.live import LIMIT, ROOT
from tests.harness.postgres import databases, server, setUpModule, tearDownModule

TESTS = ("tests.integration.test_migrations.MigratingTest", "tests.integration.test_flows")


class TwoRunsTest(unittest.TestCase):
    """Runs that know nothing of each other."""

    # It compares all databases of the server, and tests of other workers create some.
    parallel = False

    time_limit = 5 * LIMIT  # seconds

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(unmeasured())

    def start(self, url: str, **environment: str) -> subprocess.Popen[str]:
        variables = {postgres.SERVER: "", postgres.URL: url}
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.harness.runner", *TESTS],
            cwd=ROOT,
            env=os.environ | variables | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_two_runs_at_once_are_green_and_leave_nothing(self):
        before = databases().execute("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")
        parameters = server().url.parameters
        user = parameters.pop("user")
        runs = [
            self.start(server().url.of(parameters), PGUSER=user),
            self.start(" ".join(f"{key}='{value}'" for key, value in parameters.items()), PGUSER=user),
        ]
        for run in runs:
            said, _ = run.communicate(timeout=4 * LIMIT)
            self.assertEqual(0, run.returncode, said)
            self.assertIn(f"(url: {postgres.URL} is set)", said)
        after = databases().execute("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")
        self.assertEqual(before, after)
