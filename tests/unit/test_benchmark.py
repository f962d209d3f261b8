"""`scripts/bench`: it knows the service's statements, and needs a new value when a statement gets a new parameter."""

import contextlib
import importlib
import io
import sys
import unittest
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
KEPT = {"--baseline", "--storm", "--scale", "--soak", "--rolling", "--chaos", "--suite"}


class BenchmarkTest(unittest.TestCase):
    """The command, without a measurement."""

    def test_each_statement_of_the_service_has_all_its_values(self):
        out = io.StringIO()
        with (
            mock.patch.object(sys, "path", [str(SCRIPTS), *sys.path]),
            mock.patch.object(sys, "argv", ["bench", "--help"]),
            contextlib.redirect_stdout(out),
        ):
            # The scripts for pgbench are made when the modules are imported.
            command = importlib.import_module("benchmark.__main__")
            with self.assertRaises(SystemExit) as ended:
                command.main()
        self.assertEqual(0, ended.exception.code)
        for option in KEPT:
            self.assertIn(option, out.getvalue())
