"""Two checkouts that are served side by side each have data of their own."""

import os
import re
import shutil
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from tests.harness.live import ROOT, Connection, temporary_directory
from tests.support.live import LiveShop

ACCOUNT = {"name": "Ada", "email": "ada@example.com", "password": "correct horse"}


class CheckoutsTest(unittest.TestCase):
    def test_two_checkouts_served_side_by_side_share_no_data(self) -> None:
        base = temporary_directory()
        self.addCleanup(shutil.rmtree, base)
        checkouts = [self.clone(base / name / "shop checkout") for name in ("first", "second")]
        with ExitStack() as running:
            shops = [running.enter_context(closing(self.shop(checkout))) for checkout in checkouts]
            with ThreadPoolExecutor() as threads:
                list(threads.map(LiveShop.start, shops))
            clients = [running.enter_context(Connection(shop.url)) for shop in shops]
            # The same account is new in both.
            self.assertEqual([201, 201], [client.post("/users", ACCOUNT).status for client in clients])
        said = ["\n".join(shop.stdout) for shop in shops]
        homes = [Path(re.search("^shop: data in (.*)$", lines, re.MULTILINE)[1]) for lines in said]
        for checkout, home in zip(checkouts, homes, strict=True):
            self.addCleanup(self.remove, home)
            # Root's is elsewhere, because the account that runs root's database may not be able to enter a checkout.
            self.assertIn(home.parent, (checkout, Path("/var/lib/shop")))
        self.assertNotEqual(*homes)

    def clone(self, place: Path) -> Path:
        """Copy what makes a checkout to `place`; a virtual environment of its own would take a minute."""
        shutil.copytree(ROOT / "shop", place / "shop")
        (place / "scripts").mkdir()
        shutil.copy(ROOT / "scripts/serve", place / "scripts")
        return place

    def shop(self, checkout: Path) -> LiveShop:
        # The safe path keeps the working directory, which is this checkout, off the module path.
        settings = {"SHOP_WORKERS": "1", "SHOP_ARGON2_MEMORY_COST": "8"}
        path = os.pathsep.join([str(checkout), *filter(None, sys.path)])
        return LiveShop(environment=settings | {"PYTHONSAFEPATH": "1", "PYTHONPATH": path}, measured=False)

    def remove(self, home: Path) -> None:
        """Remove a data home, and its parent if nothing else is in it."""
        shutil.rmtree(home)
        with suppress(OSError):
            home.parent.rmdir()
