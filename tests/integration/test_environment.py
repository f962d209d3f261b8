"""No PG* variable, and no setting of a database or a role, changes what a client sees."""

import os
import re
from unittest import mock

from shop.demo.factories import UserFactory
from shop.storage.database import database
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import CommittedApiTestCase, make_settings

# libpq reads these.
VARIABLES = {
    "PGTZ": "Asia/Tokyo",
    "PGDATESTYLE": "German",
    "PGCLIENTENCODING": "LATIN1",
    "PGOPTIONS": "-c timezone=Asia/Tokyo -c datestyle=German -c bytea_output=escape",
    "PGGEQO": "off",
    "PGAPPNAME": "another",
}
# An operator may set these for a database or a role, for other programs.
SETTINGS = {
    "datestyle": "'SQL, DMY'",
    "timezone": "'Asia/Tokyo'",
    "intervalstyle": "'sql_standard'",
    "client_encoding": "'LATIN1'",
    "bytea_output": "'escape'",
    "standard_conforming_strings": "off",
    "extra_float_digits": "0",
    "default_transaction_isolation": "'serializable'",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "statement_timeout": "1",
    "lock_timeout": "1",
}
# Ids, times, tokens and cursors differ from one run to the next; their form does not.
_CHANGING = re.compile(
    r'[0-9a-f]{8}-[0-9a-f-]{27}|eyJ[\w.-]+|(?<=\dT)\d\d:\d\d:\d\d\.\d{6}|\d{4}-\d\d-\d\dT|(?<="nextCursor":")[^"]+'
)


class EnvironmentTest(CommittedApiTestCase):
    """The same requests with and without each variable or setting, on new connections."""

    def setUp(self):
        super().setUp()
        self.addCleanup(database.close_all)
        self.expected = self.walk("expected@example.com")

    def walk(self, email):
        """Register, log in, order twice with one key, read and cancel; return the responses without what changes."""
        database.close_all()
        password = "analytical engine \\ 'é€"
        user = {"name": "Ada Łovelace \\ 'é€", "email": email, "password": password}
        address = {"street": "1 Main St \\ ' é€"}
        items = [{"productId": "tea", "name": "Tea €", "price": 0.1, "quantity": 3}]
        responses = [self.client.post("/users", user)]
        responses.append(self.client.post("/users/login", {"email": email, "password": password}, status=200))
        token = {"Authorization": f"Bearer {responses[-1].json['token']}"}
        user_id = responses[0].json["id"]
        order = {"userId": user_id, "items": items, "shippingAddress": address}
        for _ in range(2):
            responses.append(self.client.post("/orders", order, Idempotency_Key="key", **token))
        order_id = responses[-1].json["id"]
        self.assertEqual(responses[-2].json["id"], order_id)
        responses.append(self.client.post("/orders", order, **token))
        responses.append(self.client.get(f"/orders/{order_id}", **token))
        responses.append(self.client.get(f"/users/{user_id}/orders?limit=1", **token))
        cancel = self.client.request("PATCH", f"/orders/{order_id}", b'{"status": "cancelled"}', status=200, **token)
        return [_CHANGING.sub("…", response.text).replace(email, "EMAIL") for response in (*responses, cancel)]

    def test_no_variable_of_libpq_changes_a_response(self):
        for number, (name, value) in enumerate(VARIABLES.items()):
            with self.subTest(name), mock.patch.dict(os.environ, {name: value}):
                self.assertEqual(self.expected, self.walk(f"user{number}@example.com"))

    def test_no_setting_of_the_database_or_the_role_changes_a_response(self):
        (name, role) = database.execute_sql("SELECT current_database(), current_user").fetchone()
        for whose in (f'DATABASE "{name}"', f'ROLE "{role}" IN DATABASE "{name}"'):
            for number, (setting, value) in enumerate(SETTINGS.items()):
                with self.subTest(whose=whose.split(" ")[0], setting=setting):
                    database.execute_sql(f"ALTER {whose} SET {setting} = {value}")
                    try:
                        self.assertEqual(self.expected, self.walk(f"{whose[0]}{number}@example.com"))
                    finally:
                        database.execute_sql(f"ALTER {whose} RESET {setting}")

    def test_times_in_the_database_are_those_of_the_responses(self):
        with mock.patch.dict(os.environ, {"PGTZ": "Asia/Tokyo", "PGDATESTYLE": "German"}):
            database.close_all()
            user = UserFactory.create()
            shown = self.client.get(f"/users/{user.id}", user=user).json["createdAt"]
        database.close_all()
        form = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
        stored = f"SELECT to_char(created_at AT TIME ZONE 'UTC', '{form}') FROM users WHERE id = %s"
        self.assertEqual((shown,), database.execute_sql(stored, (user.id,)).fetchone())

    def test_connections_have_the_time_limits_of_the_settings(self):
        limits = dict(
            database.execute_sql(
                "SELECT name, setting::int FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout')"
            ).fetchall()
        )
        settings = make_settings()
        expected = {"statement_timeout": settings.statement_timeout, "lock_timeout": settings.lock_timeout}
        self.assertEqual({name: 1000 * seconds for name, seconds in expected.items()}, limits)
