"""`shop export orders` as a process: its output, its failures, its memory and its progress."""

import contextlib
import csv
import os
import pty
import resource
import subprocess
import sys
import unittest

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order
from shop.storage.database import database
from tests.harness.gates import unmeasured
from tests.harness.live import ROOT
from tests.harness.postgres import run_database_url, setUpModule, tearDownModule
from tests.support.cases import CommittedApiTestCase
from tests.support.live import inherited

LINUX = sys.platform == "linux"
# Orders whose text would be noticed in the memory of the process: each is about half a kilobyte.
MANY = 20_000
# How much more memory they may take, in KiB: a few batches of the cursor.
MORE = 9_000


class ExportCommandTest(CommittedApiTestCase):
    """The command."""

    def setUp(self):
        super().setUp()
        self.folder = self.directory()
        self.target = self.folder / "orders.csv"

    def start(self, *arguments, **options):
        """Start the command."""
        return subprocess.Popen(
            [sys.executable, "-m", "shop", "export", "orders", *map(str, arguments)],
            env=inherited() | {"SHOP_DATABASE_URL": str(run_database_url())},
            cwd=ROOT,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
        )

    def run_export(self, *arguments, **options):
        """Run the command to its end and return its status, stdout and stderr."""
        with self.start(*arguments, **options) as process:
            stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    def assertFails(self, sentence, status, *arguments, **options):
        """Fail unless the command ends with this status and this sentence, and leaves no file."""
        found, _, stderr = self.run_export(*arguments, **options)
        self.assertEqual((status, f"shop: {sentence}\n"), (found, stderr))
        self.assertEqual([], os.listdir(self.folder))

    def test_orders_go_to_stdout_or_to_a_file(self):
        OrderFactory.create_batch(3)
        status, stdout, stderr = self.run_export()
        self.assertEqual((0, "", 3), (status, stderr, len(list(csv.DictReader(stdout.splitlines())))))
        status, stdout, stderr = self.run_export("--output", self.target)
        self.assertEqual((0, f"shop: wrote 3 orders to {self.target}\n", ""), (status, stdout, stderr))
        self.assertEqual(4, len(self.target.read_text().splitlines()))

    def test_a_closed_pipe_is_one_sentence_and_status_1(self):
        OrderFactory.create()
        reading, writing = os.pipe()
        os.close(reading)
        try:
            self.assertFails("cannot write to stdout: Broken pipe", 1, stdout=writing)
        finally:
            os.close(writing)

    @unittest.skipUnless(LINUX, "only Linux has /dev/full")
    def test_a_full_disk_behind_stdout_is_one_sentence_and_status_1(self):
        OrderFactory.create()
        with open("/dev/full", "wb") as full:
            self.assertFails("cannot write to stdout: No space left on device", 1, stdout=full)

    def test_a_file_that_cannot_grow_is_one_sentence_and_leaves_none(self):
        OrderFactory.create_batch(30)

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        sentence = f"cannot write {self.target}: File too large"
        # coverage.py could not write its file either.
        with unmeasured():
            self.assertFails(sentence, 1, "--output", self.target, preexec_fn=limit)

    def test_memory_stays_constant(self):
        user = UserFactory.create()
        OrderFactory.create(user=user)
        few = self.memory()
        database.execute_sql(
            "INSERT INTO orders SELECT user_id, gen_random_uuid(), items, total, status, shipping_address, NULL, NULL, "
            f"created_at FROM orders, generate_series(2, {MANY})"
        )
        self.assertEqual(MANY, Order.select().count())
        many = self.memory()
        self.assertEqual(MANY + 1, len(self.target.read_bytes().splitlines()))
        self.assertLess(many - few, MORE, "KiB")

    def memory(self):
        """Return the most memory that the command took, in KiB."""
        process = self.start("--output", self.target, stdout=subprocess.DEVNULL, stderr=None)
        # `wait` of subprocess does not return what the process used.
        _, process.returncode, usage = os.wait4(process.pid, 0)
        self.assertEqual(0, process.returncode)
        return usage.ru_maxrss // (1 if LINUX else 1024)

    def test_a_terminal_sees_a_bar_and_a_rate(self):
        OrderFactory.create_batch(5)
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        try:
            status, _, _ = self.run_export("--output", self.target, stderr=theirs)
        finally:
            os.close(theirs)
        seen = b""
        # Linux ends the output of a terminal that its processes have closed with an error.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65_536):
                seen += piece
        self.assertEqual(0, status)
        self.assertRegex(seen.decode(), r"orders .*5/5.* [\d,]+/s")
