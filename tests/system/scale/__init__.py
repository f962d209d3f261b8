"""Tests of PgBouncer, a failover and a restore, on servers of their own."""

from tests.harness import tiers

load_tests = tiers.separate(__name__, __path__, "scripts/test-scale")
