"""Changes the code in small ways, one at a time, and lists the changes that no fast test notices.

cosmic-ray makes the mutants in a copy of the checkout; the first use installs it. A mutant meets the tests of its
file first, and those that survive meet all fast tests. `scripts/mutants.toml` names files, tests, and survivors that
change nothing. Exit status: 0 if every survivor has a reason there, else 1.

A file takes from ten minutes to an hour or more; `--quick` leaves out the second step. After Ctrl-C the script lists
the survivors so far.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "scripts/mutants.toml").read_text("utf-8"))
TOOL = "cosmic-ray>=8.3,<9"
# Seconds for one mutant. The fast tests need about twenty; a mutant may make them wait.
PATIENCE = 300.0
TEST = "{python} -W error -m tests.harness.runner --keep-server --failfast --limit 20"
CONFIGURATION = """\
[cosmic-ray]
module-path = {file}
timeout = {patience}
excluded-modules = []
test-command = {command}
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_"]
"""


def main() -> int:
    """Run the mutants and print the survivors; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(SETTINGS['tests'])}; default: all")
    parser.add_argument("--quick", action="store_true", help="run only the tests of the file, not all fast tests")
    arguments = parser.parse_args()
    files = arguments.files or list(SETTINGS["tests"])
    for file in files:
        if file not in SETTINGS["tests"]:
            parser.error(f"scripts/mutants.toml names no tests for {file}")
    if importlib.util.find_spec("cosmic_ray") is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", TOOL], check=True)
    remaining = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder, "copy")
        ignored = shutil.ignore_patterns(".git", ".venv", ".shop", "build", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for file in files:
            remaining += report(file, list(outcomes(copy, file, is_quick=arguments.quick)))
    return int(remaining > 0)


def outcomes(copy: Path, file: str, *, is_quick: bool) -> Iterator[tuple[str, str]]:
    """Yield the outcome and the diff of each mutant of a file."""
    test = TEST.format(python=sys.executable)
    command = f"{test} {' '.join(SETTINGS['tests'][file])}"
    if not is_quick:
        # Most mutants are found by the first command, so the second seldom runs.
        command = f"sh -c '{command} && {test} --parallel'"
    configuration, session = copy.with_name("settings.toml"), copy.with_name("session.sqlite")
    configuration.write_text(
        CONFIGURATION.format(file=json.dumps(file), patience=PATIENCE, command=json.dumps(command)), "utf-8"
    )
    session.unlink(missing_ok=True)
    run_tool(copy, "cosmic-ray", "init", configuration, session)
    # Here `|` joins types and dictionaries, so its mutants fail at import.
    run_tool(copy, "cr-filter-operators", session, configuration)
    run_tool(copy, "cosmic-ray", "baseline", configuration)
    with suppress(KeyboardInterrupt):
        run_tool(copy, "cosmic-ray", "exec", configuration, session)
    for line in run_tool(copy, "cosmic-ray", "dump", session).splitlines():
        _, result = json.loads(line)
        if result is not None and result["test_outcome"]:
            yield str(result["test_outcome"]), result["diff"] or ""


def run_tool(copy: Path, name: str, *arguments: object) -> str:
    """Run a command of cosmic-ray in the copy and return what it prints."""
    command = [Path(sys.executable).with_name(name), *map(str, arguments)]
    ended = subprocess.run(command, cwd=copy, stdout=subprocess.PIPE, text=True)
    if ended.returncode and arguments[0] == "baseline":
        sys.exit("scripts/mutants: the fast tests fail without a mutant, too; run scripts/test")
    if ended.returncode:
        sys.exit(f"{name} {arguments[0]} ended with status {ended.returncode}\n{ended.stdout}")
    return ended.stdout


def report(file: str, found: list[tuple[str, str]]) -> int:
    """Print the survivors of a file without a reason, and return their number."""
    # Others were killed; or the tool failed to make them, as it does for `except module.Error`.
    survivors = [diff for outcome, diff in found if outcome == "survived"]
    unexplained = [diff for diff in survivors if not reason(file, diff)]
    explained = len(survivors) - len(unexplained)
    print(f"{file}: {len(found)} mutants, {len(unexplained)} survive, {explained} more change nothing", flush=True)
    for diff in unexplained:
        print(diff, flush=True)
    return len(unexplained)


def reason(file: str, diff: str) -> str:
    """Return the reason why a mutant changes nothing, if there is one."""
    lines = diff.splitlines()
    removed = [line[1:].strip() for line in lines if line.startswith("-") and not line.startswith("---")]
    added = [line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++")]
    if added == [line.replace("*,", "/,") for line in removed]:
        return "The tool takes the star of a signature for a multiplication; callers pass the same arguments."
    listed = (each for each in SETTINGS.get("equivalent", ()) if each["file"] == file)
    return next((each["reason"] for each in listed if each["change"] in added), "")


if __name__ == "__main__":
    sys.exit(main())
