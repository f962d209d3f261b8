"""Copies the test kit, `tests/harness`, into another project, and says what to do there.

    scripts/copy-harness DEST

DEST is the project's folder. An older copy of the kit is replaced; a `tests/binding.py` that is there stays.
"""

import re
import shutil
import sys
from pathlib import Path
from string import Template

KIT = Path(__file__).resolve().parents[1] / "tests" / "harness"
NEXT = """\
Copied the kit to {harness}.

1. Install what it needs:  pip install -r tests/harness/requirements.txt
2. Describe the project:   {binding_step}
3. Give generated values:  tests/factories.py with `source`, an object with reseed(seed, used=0) and number()
4. Write a first test:     tests/test_first.py
       from tests.harness.cases import ApiTestCase
       from tests.harness.postgres import setUpModule, tearDownModule  # the module's PostgreSQL

       class FirstTest(ApiTestCase):
           def test_the_api_answers(self):
               self.client.get("/", status=404)
5. Run it:                 python -m tests.harness.runner          (PostgreSQL: {prefix}DATABASE_URL, or Docker)
       then with --shuffle --parallel, with --parity, and python -m tests.harness.report --all
"""


def main(arguments: list[str]) -> int:
    """Copy, say what is next, and return the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: scripts/copy-harness DEST", file=sys.stderr)
        return 2
    project = Path(arguments[0]).resolve()
    if not project.is_dir():
        print(f"scripts/copy-harness: {project} is no folder", file=sys.stderr)
        return 2
    harness, binding = project / "tests" / "harness", project / "tests" / "binding.py"
    if harness == KIT:
        print("scripts/copy-harness: this is the project that the kit comes from", file=sys.stderr)
        return 2
    if harness.exists():
        shutil.rmtree(harness)
    shutil.copytree(KIT, harness, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "tests" / "__init__.py").touch()
    name = re.sub(r"\W+", "_", project.name.lower()).strip("_") or "project"
    prefix = f"{name.upper()}_TEST_"
    if binding.exists():
        step = "tests/binding.py was there and is kept; compare it with tests/harness/templates/binding.txt"
        prefix = "the prefix + "
    else:
        template = Template((KIT / "templates" / "binding.txt").read_text("utf-8"))
        binding.write_text(template.substitute(name=name, prefix=prefix), "utf-8")
        step = "fill in tests/binding.py, from top to bottom, where it says CHANGE"
    print(NEXT.format(harness=harness, binding_step=step, prefix=prefix), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
