"""`shop.demo.dataset`, without a database."""

import unittest
from datetime import UTC, datetime
from unittest import mock

from shop.demo import dataset as demo
from shop.demo.dataset import ORDER_COLUMNS, USER_COLUMNS, Dataset

UNTIL = datetime(2025, 6, 1, tzinfo=UTC)


def rows(**overrides):
    """Return the users and the orders of a data set, as lists of values."""
    arguments = {"users": 7, "orders": 80, "seed": "unit", "until": UNTIL, "used": 0, "password_hash": "hash"}
    batches = list(Dataset(**(arguments | overrides)).batches())
    texts = [b"".join(batch.users for batch in batches), b"".join(batch.orders for batch in batches)]
    return [[line.split("\t") for line in text.decode().splitlines()] for text in texts]


class DatasetTest(unittest.TestCase):
    """Rows as they go to PostgreSQL."""

    def test_batches_of_any_size_have_the_requested_rows(self):
        whole = rows()
        self.assertEqual([7, 80], [len(table) for table in whole])
        for size in (1, 3, 80):
            with self.subTest(size=size), mock.patch.object(demo, "BATCH", size):
                self.assertEqual(whole, rows())

    def test_any_numbers_of_users_and_orders_are_valid(self):
        for users, orders in ((1, 0), (1, 9), (2, 1), (250, 99)):
            with self.subTest(users=users, orders=orders):
                self.assertEqual([users, orders], [len(table) for table in rows(users=users, orders=orders)])

    def test_first_user_has_the_most_orders_and_the_second_is_staff(self):
        dataset = Dataset(users=100, orders=3000, seed="unit", until=UNTIL, used=0, password_hash="hash")
        batches = list(dataset.batches())
        self.assertEqual(["customer", "staff", "customer"], [account.role for account in dataset.accounts])
        owners = [line.partition(b"\t")[0] for batch in batches for line in batch.orders.splitlines()]
        first = batches[0].users.partition(b"\t")[0]
        self.assertEqual(max(map(owners.count, set(owners))), owners.count(first))
        self.assertEqual(dataset.accounts[0].orders, owners.count(first))

    def test_existing_rows_change_every_new_id_and_address(self):
        # Id, name, address and its key; owner and id.
        for table, later, columns in zip(rows(), rows(used=7), ((0, 1, 2, 3), (0, 1)), strict=True):
            for column in columns:
                self.assertEqual(set(), {row[column] for row in table} & {row[column] for row in later})

    def test_every_row_has_all_its_columns(self):
        users, orders = rows()
        self.assertEqual({len(USER_COLUMNS)}, {len(row) for row in users})
        self.assertEqual({len(ORDER_COLUMNS)}, {len(row) for row in orders})

    def test_tabs_newlines_and_backslashes_are_escaped(self):
        self.assertEqual("a\\\\b\\tc\\nd\\re", demo._escaped("a\\b\tc\nd\re"))
