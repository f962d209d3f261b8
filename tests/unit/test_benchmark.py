"""`scripts/bench`: it knows the service's statements, and needs a new value when a statement gets a new parameter."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = {"--baseline", "--storm", "--scale", "--soak", "--rolling", "--chaos", "--suite"}


class BenchmarkTest(unittest.TestCase):
    """The command, without a measurement."""

    def test_each_statement_of_the_service_has_all_its_values(self):
        # The scripts for pgbench are made when the modules are imported.
        helped = subprocess.run(
            [sys.executable, "-m", "benchmark", "--help"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f".{os.pathsep}scripts"},
            capture_output=True,
            text=True,
        )
        self.assertEqual((0, ""), (helped.returncode, helped.stderr))
        for option in KEPT:
            self.assertIn(option, helped.stdout)
