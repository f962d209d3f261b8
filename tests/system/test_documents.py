"""The commands in the documents run as printed, in a copy of the checkout; those that cannot are listed with a reason.

A command is a line of a ```sh block, or a code span that begins like one. A new command is run unless `NOT_RUN` has it.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness.live import LIMIT, ROOT
from tests.harness.postgres import clone, setUpModule, tearDownModule
from tests.support.live import inherited
from tests.support.settings import SECRET_KEY

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(f"docs/{page.name}" for page in ROOT.glob("docs/*.md")))
# By the beginning of the block.
BLOCKS_NOT_RUN = {
    "api=http://127.0.0.1:8000": "needs a service; tests.system.test_tour pastes it",
    'pg_dump --format=custom --file=shop.dump "$SHOP_DATABASE_URL"': "scripts/test-scale -k Backup does it",
    "home=.shop": "needs a service with an embedded database in .shop",
    "export SHOP_WEBHOOK_ALLOW_HTTP=1": "needs two terminals; tests.system.test_webhooks",
    "# On db2, as postgres.": "needs two machines",
}
# By the words that the command begins with.
NOT_RUN = {
    "scripts/serve": "runs until it is stopped; tests.system.test_serve",
    "shop serve": "runs until it is stopped; tests.system.test_serve",
    "SHOP_DATABASE_URL=postgresql://shop@pgbouncer:6432/shop": "needs a PgBouncer; scripts/test-scale starts one",
    "scripts/test": "this is what runs here",
    "scripts/report": "runs all tests; tests.system.test_report_page",
    "scripts/lint": "takes a minute; .ci/run runs it",
    "scripts/bench": "takes minutes, and measures nothing on a busy machine",
    "scripts/fuzz": "takes minutes",
    "scripts/mutants": "takes ten minutes or more for each file",
    "scripts/test-image": "needs a Docker engine; .ci/run runs it where there is one",
    "scripts/test-scale": "takes minutes, and needs PgBouncer",
    "scripts/seed_demo.py": "tests.system.test_seed_demo runs it",
    "python scripts/seed_demo.py": "tests.system.test_seed_demo runs it",
    "scripts/copy-harness DEST": "names no folder; `scripts/copy-harness ../library` is run",
    "docker": "needs a Docker engine; tests.system.image",
    ".ci/run": "runs this test",
    "pre-commit install": "needs pre-commit, and changes the repository's hooks",
    "pipx": "needs a network",
    "pip install": "needs a network",
    "apt install": "changes the machine",
    "shop deliver": "runs until it is stopped; tests.system.test_webhooks",
    "shop webhooks rotate ENDPOINT": "names no endpoint; tests.system.test_webhooks",
    "shop webhooks remove ENDPOINT": "names no endpoint; tests.system.test_webhooks",
    "shop webhooks replay EVENT": "names no event; tests.system.test_webhooks",
    "python -m unittest": "runs all tests",
    "python -m tests.harness.runner": "runs all tests; tests.system.test_copy_harness",
    "python -m tests.harness.report": "runs all tests; tests.system.test_copy_harness",
}
# Names of commands, in a sentence, without the arguments that they need.
NAMES = {"scripts/mutants.toml", "shop staff", "shop staff add", "shop export", "shop webhooks add"}
# What may be missing where these tests run.
TOOLS = ("jq", "openssl")
SPAN = re.compile(
    r"`((?:scripts/[a-z]|shop [a-z]|python |pip |pipx |docker |pre-commit |openssl |apt |\.ci/|\. ?\.venv)[^`]*)`"
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def begins(command: str, words: str) -> bool:
    return f"{command} ".startswith(f"{words} ")


def is_complete(command: str) -> bool:
    return subprocess.run(["sh", "-n"], input=command, text=True, stderr=subprocess.DEVNULL).returncode == 0


def is_listed(command: str) -> bool:
    return command in NAMES or any(begins(command, words) for words in NOT_RUN)


def statements(block: str) -> Iterator[str]:
    """Split a block into its commands, without comments; a command ends where the shell can read it."""
    command = ""
    for line in block.splitlines():
        command += re.sub(r"(^|\s{2,})# .*", "", line) + "\n"
        if not command.strip():
            command = ""
        elif not command.endswith("\\\n") and is_complete(command):
            yield command.strip()
            command = ""


def blocks() -> Iterator[tuple[str, str]]:
    """Yield each ```sh block of the pages, with the name of its page."""
    for page in PAGES:
        for fence in FENCE.finditer((ROOT / page).read_text("utf-8")):
            if fence[2] == "sh":
                yield page, textwrap.dedent(fence[3])


def commands() -> dict[str, str]:
    """Return each command outside `BLOCKS_NOT_RUN`, with the first page that has it."""
    found: dict[str, str] = {}
    for page, block in blocks():
        if not block.startswith(tuple(BLOCKS_NOT_RUN)):
            for command in statements(block):
                found.setdefault(command, page)
    for page in PAGES:
        for span in SPAN.finditer(FENCE.sub("", (ROOT / page).read_text("utf-8"))):
            if "…" not in span[1]:
                found.setdefault(" ".join(span[1].split()), page)
    return found


class Checkout:
    """A copy of this checkout, beside an empty folder `library`, with this Python's virtual environment."""

    def __init__(self, base: Path) -> None:
        self.root = base / "shop"
        leave = shutil.ignore_patterns(".git", ".venv", ".shop", "build", "*.egg-info", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, self.root, ignore=leave)
        for folder in ("library", "home"):
            (base / folder).mkdir()
        environment = self.root / ".venv"
        environment.mkdir()
        for name in ("bin", "include", "lib", "lib64", "pyvenv.cfg"):
            if (Path(sys.prefix) / name).exists():
                (environment / name).symlink_to(Path(sys.prefix) / name)
        # The packages are there, so scripts/in-venv installs nothing.
        in_venv = runpy.run_path(str(self.root / "scripts/in_venv.py"))
        for kind in in_venv["REQUIREMENTS"]:
            in_venv["note"](kind).write_text(in_venv["fingerprint"]())
        self.environment = inherited() | {
            "HOME": str(base / "home"),
            "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
            # If it did install, it would change the environment that these tests run in.
            "PIP_DRY_RUN": "1",
        }

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as if pasted at the root of the checkout."""
        return subprocess.run(
            ["sh", "-eu", "-c", command],
            cwd=self.root,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )


@unittest.skipIf(sys.prefix == sys.base_prefix, "the copy of the checkout needs a virtual environment")
class DocumentsTest(unittest.TestCase):
    """Every command of the documents."""

    # About thirty processes, one after the other: a busy machine takes longer than the usual limit.
    time_limit = 180

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.checkout = Checkout(Path(cls.enterClassContext(tempfile.TemporaryDirectory())))
        cls.commands = commands()

    def test_each_command_runs_as_printed_or_is_listed(self) -> None:
        log = (ROOT / "docs/operations.md").read_text("utf-8")
        (self.checkout.root / "shop.log").write_text(re.search(r'^{"time".*\n', log, re.MULTILINE)[0])
        settings = {"SHOP_DATABASE_URL": str(clone("documents").url), "SHOP_SECRET_KEY": SECRET_KEY}
        for command, page in self.commands.items():
            if is_listed(command):
                continue
            with self.subTest(command, page=page):
                for tool in TOOLS:
                    if re.search(rf"\b{tool} ", command) and not shutil.which(tool):
                        self.skipTest(f"{tool} is not installed")
                done = self.checkout.run(command, **settings)
                self.assertEqual(0, done.returncode, done.stdout)
        # Commands that write a page of the documents leave it as it is.
        for page in PAGES:
            self.assertEqual((ROOT / page).read_text("utf-8"), (self.checkout.root / page).read_text("utf-8"), page)

    def test_each_option_of_our_commands_exists(self) -> None:
        shown: dict[str, set[str]] = {}
        for command in self.commands:
            for name, options in self.options(command):
                shown.setdefault(name, set()).update(options)
        self.assertLessEqual({"scripts/test", "scripts/bench", "scripts/seed_demo.py", "shop export orders"}, {*shown})
        with ThreadPoolExecutor(2) as threads:
            helps = dict(zip(shown, threads.map(lambda name: self.checkout.run(f"{name} --help"), shown), strict=True))
        for name, options in shown.items():
            with self.subTest(name):
                self.assertEqual(0, helps[name].returncode, helps[name].stdout)
                known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", helps[name].stdout))
                self.assertEqual(set(), options - known)

    @staticmethod
    def options(command: str) -> Iterator[tuple[str, set[str]]]:
        """Yield each command of ours in a command line that has options, with these."""
        ours = (
            r"(?:^|\s)((?:scripts/[\w.-]+|python -m tests\.harness\.\w+|(?<!shop )shop(?: [a-z]+)+))((?: [^|;&<>]+)?)"
        )
        for name, rest in re.findall(ours, command):
            options = {word.split("=")[0] for word in shlex.split(rest) if re.match("--?[a-z]", word)}
            if options:
                yield name, options - {"--help"}

    def test_each_reason_is_for_a_command_that_is_there(self) -> None:
        unused = [words for words in NOT_RUN if not any(begins(command, words) for command in self.commands)]
        unused += [start for start in BLOCKS_NOT_RUN if not any(block.startswith(start) for _, block in blocks())]
        self.assertEqual([], [*unused, *(NAMES - self.commands.keys())])
