"""Tests of the kit itself: sandbox, guard, runner and report."""
