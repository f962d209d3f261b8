"""`shop.exports`: formats that keep each value, selections, and files that are complete or absent."""

import csv
import io
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest import mock

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain import exports
from shop.domain.exports import Selection
from shop.exports.files import CannotWrite
from shop.exports.formats import HEADER
from shop.exports.run import export_orders
from tests.harness.postgres import current_url, point_at, setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, CommittedApiTestCase, rfc3339
from tests.support.commands import call_shop

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
EVERYTHING = Selection()


class ExportTestCase(ApiTestCase):
    """A directory for the files of the test."""

    def setUp(self):
        super().setUp()
        self.folder = self.directory()
        self.target = self.folder / "orders.csv"

    def export(self, selection=EVERYTHING, format_="csv"):
        """Export to the target and return its text."""
        export_orders(selection, format_=format_, target=str(self.target))
        return self.target.read_bytes().decode()

    def rows(self, selection=EVERYTHING):
        """Return the rows of an export as CSV."""
        return list(csv.DictReader(io.StringIO(self.export(selection), newline="")))


class FormatTest(ExportTestCase):
    """CSV and JSON Lines."""

    def test_a_csv_row_has_each_value_of_the_order(self):
        order = OrderFactory.create(
            items=[OrderFactory.item(productId="tea-1", name='Tea "é"', price=Decimal("29.90"), quantity=2)],
            shipping_address={"street": "1 Main St", "city": "London"},
            created_at=NOON,
        )
        (row,) = self.rows()
        self.assertEqual(
            {
                "id": str(order.id),
                "userId": str(order.user.id),
                "createdAt": rfc3339(NOON),
                "status": "confirmed",
                "total": "59.80",
                "street": "1 Main St",
                "city": "London",
                "state": "",
                "zipCode": "",
                "country": "",
                "items": '[{"name":"Tea \\"é\\"","price":29.90,"quantity":2,"productId":"tea-1"}]',
            },
            row,
        )

    def test_a_json_line_is_the_order_as_the_api_shows_it(self):
        order = OrderFactory.create("large")
        shown = self.client.get(f"/orders/{order.id}", user=order.user)
        (line,) = self.export(format_="jsonl").splitlines()
        document = json.loads(shown.text, parse_float=Decimal)
        del document["user"]
        self.assertEqual(document, json.loads(line, parse_float=Decimal))

    def test_amounts_keep_their_digits(self):
        for total in ("0.00", "0.10", "99999999.99"):
            OrderFactory.create(total=Decimal(total))
        self.assertEqual({"0.00", "0.10", "99999999.99"}, {row["total"] for row in self.rows()})
        for total in ("0.00", "0.10", "99999999.99"):
            self.assertIn(f'"total":{total},', self.export(format_="jsonl"))

    def test_no_cell_is_a_formula(self):
        for first in ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"):
            with self.subTest(first), self.isolation.undone():
                OrderFactory.create(shipping_address={"street": f'{first}HYPERLINK("http://a")', "city": "a=b"})
                (row,) = self.rows()
                self.assertEqual((f'\'{first}HYPERLINK("http://a")', "a=b"), (row["street"], row["city"]))

    def test_commas_quotes_and_line_ends_stay_in_their_cell(self):
        street = '1, "Main" St\r\nback door'
        OrderFactory.create(shipping_address={"street": street})
        self.assertEqual([street], [row["street"] for row in self.rows()])

    def test_without_orders_csv_has_a_header_and_json_lines_nothing(self):
        self.assertEqual(",".join(HEADER) + "\r\n", self.export())
        self.assertEqual("", self.export(format_="jsonl"))

    def test_batches_follow_each_other_without_gap_or_second_header(self):
        orders = OrderFactory.create_batch(7)
        with mock.patch.object(exports, "BATCH", 3):
            ids = [row["id"] for row in self.rows()]
        self.assertEqual(sorted(str(order.id) for order in orders), ids)


class SelectionTest(ExportTestCase):
    """Which orders are exported."""

    @classmethod
    def setUpTestData(cls):
        user = UserFactory.create()
        cls.ids = {
            hours: str(OrderFactory.create(status, user=user, created_at=NOON + timedelta(hours=hours)).id)
            for hours, status in ((-1, "shipped"), (0, "shipped"), (1, "delivered"))
        }

    def assertExported(self, hours, **selection):
        """Fail unless the orders placed at these hours are exported."""
        found = {row["id"] for row in self.rows(Selection(**selection))}
        self.assertEqual({self.ids[hour] for hour in hours}, found)

    def test_since_includes_its_moment_and_until_excludes_it(self):
        self.assertExported({-1, 0, 1})
        self.assertExported({0, 1}, since=NOON)
        self.assertExported({-1}, until=NOON)
        self.assertExported({0}, since=NOON, until=NOON + timedelta(hours=1))

    def test_orders_of_one_status(self):
        self.assertExported({-1, 0}, status="shipped")
        self.assertExported({0}, status="shipped", since=NOON)
        self.assertExported(set(), status="pending")


class FileTest(ExportTestCase):
    """The file is complete or absent."""

    def assertLeft(self, *names):
        """Fail unless the directory has exactly these files."""
        self.assertEqual(sorted(names), sorted(os.listdir(self.folder)))

    def failing(self):
        """Return a patch that makes the second batch fail."""
        return mock.patch("shop.exports.formats.responses.order", side_effect=[{}, OSError(28, "No space left")])

    def test_the_file_replaces_one_that_was_there_and_only_its_owner_reads_it(self):
        self.target.write_text("old")
        OrderFactory.create()
        self.assertNotIn("old", self.export())
        self.assertEqual(0o600, stat.S_IMODE(self.target.stat().st_mode))
        self.assertLeft("orders.csv")

    def test_a_failure_leaves_no_file(self):
        OrderFactory.create_batch(2)
        with self.failing(), self.assertRaisesRegex(CannotWrite, f"^cannot write {self.target}: No space left$"):
            self.export(format_="jsonl")
        self.assertLeft()

    def test_a_failure_keeps_the_file_from_before(self):
        self.target.write_text("old")
        OrderFactory.create_batch(2)
        with self.failing(), self.assertRaises(CannotWrite):
            self.export(format_="jsonl")
        self.assertLeft("orders.csv")
        self.assertEqual("old", self.target.read_text())

    def test_a_link_stays_a_link(self):
        (self.folder / "link").symlink_to(self.target)
        export_orders(EVERYTHING, format_="csv", target=str(self.folder / "link"))
        self.assertTrue((self.folder / "link").is_symlink())
        self.assertTrue(self.target.exists())

    def test_what_is_no_file_is_refused(self):
        os.mkfifo(self.target)
        for target, reason in (
            (self.target, "it is not a regular file"),
            (self.folder, "it is not a regular file"),
            (self.folder / "missing" / "orders", "No such file or directory"),
        ):
            with self.subTest(target), self.assertRaisesRegex(CannotWrite, reason):
                export_orders(EVERYTHING, format_="csv", target=str(target))
        self.assertLeft("orders.csv")


class CommandTest(CommittedApiTestCase):
    """`shop export orders` in this process; `tests.system.test_export` has it in a process of its own."""

    def setUp(self):
        super().setUp()
        # The command has connected the service's database object with its own options.
        self.addCleanup(point_at, current_url())
        self.target = self.directory() / "orders"

    def export(self, *options):
        """Run the command; return its status and what it printed on stderr."""
        arguments = ("export", "orders", "--output", str(self.target), *options)
        status, _, err = call_shop(*arguments, SHOP_DATABASE_URL=current_url())
        return status, err

    def test_options_choose_orders_and_format(self):
        OrderFactory.create("shipped")
        OrderFactory.create()
        for options, count in (
            (("--status", "shipped"), 1),
            (("--since", "2000-01-01", "--until", "2100-01-01T00:00+01:00"), 2),
            (("--since", "2100-01-01"), 0),
        ):
            with self.subTest(options):
                status, _ = self.export("--format", "jsonl", *options)
                self.assertEqual((0, count), (status, len(self.target.read_text("utf-8").splitlines())))

    def test_wrong_options_are_refused_with_status_2(self):
        status, err = self.export("--since", "yesterday")
        self.assertEqual(2, status)
        self.assertIn("'yesterday' is not a date or time", err)
        statuses = "pending, confirmed, shipped, delivered, cancelled"
        self.assertEqual((2, f"shop: --status must be one of {statuses}\n"), self.export("--status", "lost"))
        self.assertFalse(self.target.exists())
