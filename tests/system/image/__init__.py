"""Tests of the image and compose.yaml, on containers."""

from tests.harness import tiers

load_tests = tiers.separate(__name__, __path__, "scripts/test-image")
