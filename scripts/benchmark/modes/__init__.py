"""The kinds of measurement, one module each: a function that takes a plan and returns a report."""
