"""What PostgreSQL does for each statement of the service: it finds rows by an index, and never sorts a whole history.

The tables have enough rows, and statistics, that the planner has a choice; the service's connections discourage sorts,
which helps nothing where there is no index with the order. Each statement is planned for given values and for any,
since a prepared one is run either way. A new statement joins by itself.

A page of one status comes from the index of the whole history, other statuses left out on the way: paging through reads
each order once. An index with the status in it would make the page of a rare status cheaper, and each change of any
status more expensive. A change touches no index (HOT) while an earlier event of the order waits for `shop deliver`.
Otherwise it sets `untaken_since`, which the partial index of the outbox contains, and PostgreSQL writes to all indexes.
"""

import unittest

import psycopg2
from pydantic import SecretStr

from shop.domain.orders import STATUSES
from shop.storage.database import Database
from tests.harness.postgres import clone, drop, setUpModule, tearDownModule
from tests.support.cases import make_settings
from tests.support.statements import ID, PLAN_MODES, Node, plan, statements

# Statements that may read a table from end to end, each with its reason.
READS_ALL = {
    "shop.domain.webhooks._LIST": "all endpoints are wanted, and there are few",
    "shop.domain.webhooks._FAILED": "run by hand, `shop webhooks failed`",
    "shop.domain.accounts._LIST_STAFF": "run by hand, `shop staff list`; an index on a column that is nearly always "
    "the same would cost every registration",
}
# Five hundred users with ten orders each, one of them with a thousand, hardly any of which are pending.
ROWS = f"""
INSERT INTO users
SELECT CASE i WHEN 1 THEN '{ID}' ELSE gen_random_uuid() END, 'Name', 'user-' || i || '@example.com', 'hash',
       CASE WHEN i % 100 = 0 THEN 'staff' ELSE 'customer' END, '2024-06-01', 'user-' || i || '@example.com'
FROM generate_series(1, 500) i;
INSERT INTO orders
SELECT users.id, gen_random_uuid(), to_jsonb(repeat('as long as real ones ', 20)), 1,
       CASE WHEN i = 1000 THEN 'pending' WHEN i % 25 = 0 THEN 'shipped' WHEN i % 2 = 0 THEN 'confirmed'
            ELSE 'delivered' END,
       '{{}}', CASE WHEN i % 2 = 0 THEN 'key-' || i END, 'digest', '2024-06-01'::timestamptz + i * interval '1 hour'
FROM users CROSS JOIN LATERAL generate_series(1, 1000, CASE users.id WHEN '{ID}' THEN 1 ELSE 100 END) i
ORDER BY i;
INSERT INTO login_failures
SELECT sha256(i::text::bytea), 1, '2025-06-01'::timestamptz - i * interval '1 second' FROM generate_series(1, 1000) i;
INSERT INTO webhook_endpoints
SELECT CASE i WHEN 1 THEN '{ID}' ELSE gen_random_uuid() END, 'https://example.com/' || i, '[]', 'whsec_', NULL, NULL,
       '2025-06-01' FROM generate_series(1, 20) i;
INSERT INTO webhook_deliveries
SELECT gen_random_uuid(), gen_random_uuid(), id, 0, gen_random_uuid(), '{{}}', '2025-06-01', 'pending', 0, '2025-06-01'
FROM webhook_endpoints, generate_series(1, 200);
ANALYZE
"""
# How the first page is asked for.
FIRST_PAGE = {"created_at": "infinity", "id": "ffffffff-ffff-ffff-ffff-ffffffffffff"}
PAGES = ("shop.domain.orders._LIST_ALL", "shop.domain.orders._LIST_BY_STATUS")
# How rows may be read, and what says that an index has found them.
BY_INDEX = {"Index Scan": "Index Cond", "Index Only Scan": "Index Cond", "Bitmap Heap Scan": "Recheck Cond"}


class PlanTest(unittest.TestCase):
    """Plans on tables with rows and statistics."""

    @classmethod
    def setUpClass(cls):
        database = clone("plans")
        # With the service's own options, which are part of how it plans.
        service = Database(None)
        service.configure(make_settings(database_url=SecretStr(database.url)))
        cls.addClassCleanup(drop, database)
        cls.connection = psycopg2.connect(service.database, **service.connect_params)
        cls.addClassCleanup(cls.connection.close)
        cls.connection.autocommit = True
        with cls.connection.cursor() as cursor:
            cursor.execute(ROWS)
            cursor.execute("""
                SELECT indexrelid::regclass::text, array_agg(pg_get_indexdef(indexrelid, number, true))
                FROM pg_index CROSS JOIN LATERAL generate_series(1, indnkeyatts) number
                WHERE indisunique GROUP BY indexrelid
            """)
            cls.keys = dict(cursor.fetchall())
            cursor.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indpred IS NOT NULL")
            cls.partial = {name for (name,) in cursor.fetchall()}

    def faults(self, nodes: list[Node]) -> list[str]:
        """Return, in words, what is wrong with a plan."""
        found = []
        for node in nodes:
            if node.facts.get("Index Name") in self.partial:
                continue  # It has only the rows that are wanted.
            if node.table and "Scan" in node.kind and BY_INDEX.get(node.kind) not in node.facts:
                found.append(f"{node.kind} on {node.table}")
            unbounded = [below.table for below in nodes if node in below.above and self.may_find_many(below, node)]
            if "Sort" in node.kind and unbounded:
                found.append(f"{node.kind} of any number of rows of {unbounded[0]}")
        return found

    def may_find_many(self, scan: Node, sort: Node) -> bool:
        """Tell whether `scan` hands on to `sort` more rows than a page, or one row that a key has found."""
        if not scan.table or "Scan" not in scan.kind:
            return False
        key = self.keys.get(scan.facts.get("Index Name"))
        if key and all(column in scan.facts.get("Index Cond", "") for column in key):
            return False
        between = scan.above[scan.above.index(sort) :]
        return "Limit" not in [node.kind for node in between]

    def test_every_statement_finds_its_rows_by_an_index(self):
        self.assertLess(set(PAGES), set(statements()))
        for name, statement in statements().items():
            for mode in PLAN_MODES:
                with self.subTest(name, mode=mode):
                    faults = self.faults(plan(self.connection, statement, mode))
                    if name in READS_ALL:
                        self.assertNotEqual([], faults, "it needs no exception any more")
                    else:
                        self.assertEqual([], faults)

    def test_a_page_comes_from_the_order_of_an_index(self):
        for name in PAGES:
            for mode in PLAN_MODES:
                for status in STATUSES:
                    for position in ({}, FIRST_PAGE):
                        with self.subTest(name, mode=mode, status=status, position=position):
                            nodes = plan(self.connection, statements()[name], mode, status=status, **position)
                            self.assertEqual([], self.faults(nodes))
                            (scan,) = [node for node in nodes if node.table == "orders"]
                            self.assertRegex(scan.facts["Index Cond"], r"user_id = .*ROW\(created_at, id\) < ROW\(")
                            self.assertEqual("Limit", scan.above[-1].kind)

    def test_a_plan_is_told_apart_from_a_bad_one(self):
        with self.connection.cursor() as cursor:
            cursor.execute("BEGIN; DROP INDEX orders_history_idx, users_email_key_idx")
            try:
                for name, fault in (
                    ("shop.domain.orders._LIST_ALL", "Sort of any number of rows of orders"),
                    ("shop.domain.orders._LIST_BY_STATUS", "Sort of any number of rows of orders"),
                    ("shop.domain.accounts._FIND_CREDENTIALS", "Seq Scan on users"),
                ):
                    with self.subTest(name):
                        nodes = plan(self.connection, statements()[name], "force_generic_plan")
                        self.assertIn(fault, self.faults(nodes))
            finally:
                cursor.execute("ROLLBACK")
