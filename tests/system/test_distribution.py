"""What keeps the way open to a distributed engine, such as Citus with `orders` spread by `user_id` and `users` on all.

There a statement that names no `user_id` asks every node, a unique key without it cannot be enforced, and triggers,
sequences and other foreign keys do not work or not well. Nothing of it is needed here; these tests keep it so.
"""

import ast
import re
import unittest
from contextlib import closing

import psycopg2

from tests.harness.live import ROOT
from tests.harness.postgres import run_database_url, setUpModule, tearDownModule
from tests.support.statements import plan, statements

# Statements that look for orders on all nodes, each with its reason.
ASKS_EVERY_NODE = {
    "shop.domain.orders._FIND_ANY": "staff sees all orders, and knows only an order's id",
    "shop.domain.orders._EVENTS_ANY": "staff sees all events, and knows only an order's id",
    "shop.domain.deliveries._TO_TAKE": "the deliverer and its metric look for new events of all orders, without locks",
    "shop.domain.orders._CHANGE_ANY": "staff moves all orders along, and knows only an order's id",
}
# Where statements may be written as text, with the reason.
TEXT = {
    "database.py": "runs the statements",
    "exports.py": "reads through a cursor, which cannot be prepared",
    "migrations": "changes the schema",
}


class StatementTest(unittest.TestCase):
    """The statements of the service, as PostgreSQL understands them."""

    @classmethod
    def setUpClass(cls):
        cls.connection = cls.enterClassContext(closing(psycopg2.connect(run_database_url())))
        cls.connection.autocommit = True

    def orders_found_by(self, statement):
        """Yield the conditions of each search for orders in a statement."""
        for node in plan(self.connection, statement, "force_generic_plan"):
            if node.table == "orders" and "Scan" in node.kind and node.kind != "Bitmap Index Scan":
                yield node.conditions

    def test_every_search_for_orders_names_their_owner(self):
        searching = 0
        for name, statement in statements().items():
            for conditions in self.orders_found_by(statement):
                searching += 1
                with self.subTest(name, conditions=conditions):
                    names_owner = re.search(r"\(user_id = \$\d+\)", conditions) is not None
                    self.assertEqual(name not in ASKS_EVERY_NODE, names_owner)
        self.assertGreater(searching, len(ASKS_EVERY_NODE))
        self.assertLessEqual(set(ASKS_EVERY_NODE), set(statements()))

    def test_every_new_order_has_its_owner_and_none_changes_it(self):
        inserting = 0
        for name, statement in statements().items():
            with self.subTest(name):
                inserted = re.match(r'INSERT INTO "orders" \((.*?)\)', statement.sql)
                if inserted:
                    inserting += 1
                    self.assertIn('"user_id"', inserted[1])
                changed = re.search(r"\bSET (.*?)(?: WHERE |$)", statement.sql)
                self.assertNotIn('"user_id"', changed[1] if changed else "")
        self.assertGreater(inserting, 0)

    def test_no_statement_is_written_as_text_where_these_tests_do_not_see_it(self):
        for path in (ROOT / "shop").rglob("*.py"):
            if not set(path.relative_to(ROOT / "shop").parts) & set(TEXT):
                names = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if hasattr(node, "attr")}
                with self.subTest(path.name):
                    self.assertEqual(set(), names & {"execute_sql", "raw"})


class SchemaTest(unittest.TestCase):
    """The migrated schema, as the catalogue has it."""

    def asked(self, query):
        """Return the rows of a query."""
        with closing(psycopg2.connect(run_database_url())) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def test_every_unique_key_of_orders_contains_its_owner(self):
        keys = self.asked("""
            SELECT indexrelid::regclass::text, array_agg(attname::text)
            FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
            WHERE indrelid = 'orders'::regclass AND (indisunique OR indisexclusion) GROUP BY indexrelid
        """)
        self.assertIn("orders_pkey", dict(keys))
        for name, columns in keys:
            with self.subTest(name):
                self.assertIn("user_id", columns)

    def test_foreign_keys_are_those_that_citus_keeps(self):
        keys = self.asked("""
            SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'
        """)
        # Both refer to tables that are copied to every node.
        self.assertEqual({("orders", "users"), ("webhook_deliveries", "webhook_endpoints")}, set(keys))

    def test_there_are_no_triggers_and_no_sequences(self):
        # The one that the migrations' own record numbers its rows with stays on one node.
        found = self.asked("""
            SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT evtname::text FROM pg_event_trigger
            UNION ALL SELECT oid::regclass::text FROM pg_class
            WHERE relkind = 'S' AND oid::regclass::text <> 'schema_migration_id_seq'
        """)
        self.assertEqual([], found)
