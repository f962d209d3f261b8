"""Tests of real processes: the command, its servers, a browser. They run with `--all`, or by name."""

from tests.harness import tiers

load_tests = tiers.slow(__name__, __path__)
