"""Hostile input: whatever the client sends, the response is a documented one.

Every field, id, parameter and header of every operation gets every hostile value. The route table lists the operations,
so new ones are tested, too. The rule: the operation documents the status and code, an error is a problem, there is no
500, and a refused request writes nothing.
"""

import json
import time
import unicodedata
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webtest import TestResponse

from shop.demo.factories import OrderFactory, UserFactory
from shop.storage.database import database
from tests.harness.findings import findings
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase
from tests.support.operations import Operation, documented, example, fields, operations

# JSON values, as the client sends them.
LITERALS = (
    *("null", "true", "false", "[]", "{}", "[[]]", '[""]', '{"": ""}', '""', '" "'),
    *(
        "1e400",
        "-1e400",
        "1e99999999999999999999",
        "1e999999999",
        "1e-400",
        "-0",
        "-1",
        "0",
        "1e3",
    ),
    *(
        "1.9",
        "0.1000000000000000055511151231257827",
        "9" * 400,
        "-" + "9" * 5000,
    ),
    *('"5"', '"true"', '"null"', '"NaN"', '"1e400"', '"\\u0000"', '"a\\u0000b"', '"\\ud800"'),
    *('"\\udc00\\ud800"', '"\\uffff"', '"\\u001b[31m"', '"\\u202e\\u2066"', '"\U0001f600"', '"\\u200b"'),
    *('"e\u0301"', '"\u0130"', '"\ufb01"', '"\'; DROP TABLE users; --"', '"%s %(id)s %"', '"{0} {x}"', '"${x}"'),
    *('"<script>alert(1)</script>"', '"../../etc/passwd"', '"' + "x" * 100_000 + '"', '"' + "\u00e9" * 300 + '"'),
    *("[" * 33 + "]" * 33, '{"a":' * 33 + "1" + "}" * 33, '{"a": 1, "a": 2}'),
)
# The parser refuses a document with one of these, whichever field has it.
MALFORMED = (
    *("NaN", "Infinity", "-Infinity", "0x10", "01", "+1", ".5", "1.", "1_000", "'x'", '"', '"\\', '"\x01"'),
    *("[" * 5000, "1, 2", "}", "/* */ 1"),
)
RAW_BODIES = (
    *(b"", b" ", b"\0", b"null", b"[]", b'"x"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"{", b"}", b"{}{}", b'{"\xff": 1}'),
    *(b'{"a": "\xed\xa0\x80"}', b"[" * 100_000, b'{"":' * 1000, b'{"\\u0000": 1}', b'{"__class__": 1}', b"x" * 1000),
    *("{}".encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8-sig")),
)
IDS = (
    *(
        "0",
        "-1",
        "null",
        "undefined",
        "x" * 5000,
        "%00",
        "a%00b",
        "%ff",
        "%c3%28",
        "%zz",
        "%",
    ),
    *("0199e0c1-0000-7000-8000-00000000000g", "{0199e0c1-0000-7000-8000-000000000001}", "'%20OR%201=1", "%F0%9F%98%80"),
    *(
        "%D9%A1",
        "0199e0c1000070008000000000000001",
        "urn:uuid:0199e0c1-0000-7000-8000-000000000001",
        "%0a",
        "%09",
        "%20",
    ),
)
QUERY_VALUES = ("%00", "%ff", "%zz", *IDS, "", "1,2", "1&limit=2", "5" * 400)
# Header values that WSGI allows: Latin-1, including control characters.
HEADER_VALUES = (
    *(
        "",
        " ",
        "x",
        "x" * 10_000,
        "\0",
        "a\0b",
        "\x01",
        "\x7f",
        "\xe9",
        "\xff\xfe",
        "a\tb",
        "a,b",
        "\r\n",
        '"',
        "\\",
        "%00",
    ),
    *("Bearer", "Bearer ", "Bearer a.b.c", "Bearer \xe9", "bearer " + "x" * 9000, "Basic YTpi", "Bearer a b", "null"),
    *(
        "application/json",
        "application/json; charset=utf-16",
        "multipart/form-data",
        "text/plain",
        ";",
        "/",
        "*/*",
        "gzip",
    ),
    *("-1", "1e3", "99999999999999999999", "chunked", "GET"),
)
READ_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID")
UNREAD_HEADERS = (
    *("Accept", "Accept-Encoding", "Range", "Cookie", "X-HTTP-Method-Override", "X-Forwarded-For", "If-None-Match"),
    *("Content-Encoding", "Expect"),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=4),
    max_leaves=12,
)


class OneRuleTestCase(ApiTestCase):
    """Sends requests and checks that every response is documented."""

    def setUp(self):
        super().setUp()
        self.user = UserFactory.create()
        self.order = OrderFactory.create(user=self.user)
        self.before = self.rows()
        self.undo = self.enterContext(self.isolation.undone())

    def rows(self) -> tuple[Any, ...]:
        """Return the stored rows, without failed logins: they are always written."""
        return database.execute_sql(
            "SELECT count(*), max(users::text), max(orders::text) FROM users LEFT JOIN orders ON user_id = users.id"
        ).fetchone()

    def body(self, operation: Operation) -> dict[str, Any]:
        """Return a valid body of `operation`, for the user who sends it."""
        document = example(operation.declared.body) if operation.declared.body else {}
        return document | ({"userId": str(self.user.id)} if "userId" in document else {})

    def send(self, operation: Operation, body: bytes = b"", path: str | None = None, **headers: str) -> None:
        """Send a request, check the response, and roll back what an accepted request has written."""
        where = path or operation.path(user_id=str(self.user.id), order_id=str(self.order.id))
        before = findings.statements
        try:
            response = self.client.request(operation.method, where, body, user=self.user, status="*", **headers)
            self.assertDocumented(operation, response)
            if response.status_int >= 400 and findings.statements > before:
                self.assertEqual(self.before, self.rows(), "a request that was refused has written something")
        finally:
            # Most requests are refused before their first statement, so there is nothing to roll back.
            if findings.statements > before:
                self.undo()

    def assertDocumented(self, operation: Operation, response: TestResponse) -> None:
        """Fail unless the operation documents this response."""
        if response.status_int < 400:
            self.assertIn(response.status_int, (200, 201))
            return
        answer = (response.status_int, response.json["code"])
        self.assertIn(answer, documented(operation))
        self.assertNotEqual(500, response.status_int)
        self.assertProblem(response, *answer)


class HostileTest(OneRuleTestCase):
    """Every hostile value in every field, id, parameter and header of every operation."""

    def test_every_field_of_every_body(self):
        for operation in operations():
            if operation.declared.body is None:
                continue
            for number, field in enumerate(fields(operation.declared.body)):
                for literal in LITERALS if number else (*LITERALS, *MALFORMED):
                    with self.subTest(operation=str(operation), field=field, literal=literal[:40]):
                        self.send(operation, spliced(self.body(operation), field, literal))

    def test_every_operation_with_bodies_that_are_none(self):
        for operation in operations():
            for body in RAW_BODIES:
                with self.subTest(operation=str(operation), body=body[:40]):
                    self.send(operation, body)

    def test_every_id_in_a_path(self):
        for operation in operations():
            for parameter in operation.parameters:
                for value in IDS:
                    with self.subTest(operation=str(operation), parameter=parameter, value=value[:40]):
                        body = json.dumps(self.body(operation)).encode() if operation.declared.body else b""
                        self.send(operation, body, operation.path(**{parameter: value}))

    def test_every_parameter_of_every_query(self):
        for operation in operations():
            names = [*(str(path[0]) for path in fields(operation.declared.query))] if operation.declared.query else []
            for name in (*names, "unheard-of", "%00", ""):
                for value in QUERY_VALUES if name in names else QUERY_VALUES[:3]:
                    with self.subTest(operation=str(operation), name=name, value=value[:40]):
                        where = operation.path(user_id=str(self.user.id), order_id=str(self.order.id))
                        self.send(operation, path=f"{where}?{name}={value}")

    def test_every_header(self):
        for operation in operations():
            body = json.dumps(self.body(operation)).encode() if operation.declared.body else b""
            for name in (*READ_HEADERS, *UNREAD_HEADERS):
                for value in HEADER_VALUES if reads(operation, name) else ("", "x"):
                    with self.subTest(operation=str(operation), header=name, value=value[:40]):
                        self.send(operation, body, **{name: value})


def reads(operation: Operation, header: str) -> bool:
    """Return whether the operation gets all values of the header: it reads it, in a way of its own."""
    declared = operation.declared
    # All operations read Authorization and X-Request-ID in the same way, so one operation gets all values of each.
    return {
        "Authorization": declared.id == "getUser",
        "Content-Type": declared.body is not None,
        "Idempotency-Key": declared.headers is not None,
        "X-Request-ID": declared.id == "isAlive",
    }.get(header, False)


class ArbitraryTest(OneRuleTestCase):
    """Random JSON documents."""

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_arbitrary_json_anywhere_in_any_body(self, data):
        operation = data.draw(st.sampled_from([operation for operation in operations() if operation.declared.body]))
        value = json.dumps(data.draw(JSON_VALUES))
        places = [(), *fields(operation.declared.body)]
        for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=5)):
            self.send(operation, spliced(self.body(operation), place, value))


def spliced(document: Any, path: tuple[str | int, ...], literal: str) -> bytes:
    """Return `document` as JSON with `literal`, which may be malformed, at `path`."""
    marker = "here goes the literal"
    if path:
        *way, last = path
        place = document
        for step in way:
            place = place[step]
        place[last] = marker
    else:
        document = marker
    # UTF-8 cannot encode lone surrogates, so they are escaped.
    return json.dumps(document).replace(json.dumps(marker), literal).encode("utf-8", "surrogatepass")


class ExpensiveTextTest(ApiTestCase):
    """Text that is cheap to send and expensive to process."""

    # Not in canonical order: normalizing n of them takes n² steps, and a mebibyte takes minutes.
    ACCENTS = "a" + "\u0301\u0316" * 200_000
    # In seconds. Each of these requests takes about 0.03 seconds.
    LIMIT = 5

    def test_mebibyte_of_accents_is_refused_quickly(self):
        for path, field, status in (
            ("/users", "name", 400),
            ("/users", "email", 400),
            ("/users", "password", 400),
            ("/users/login", "email", 401),
            ("/users/login", "password", 401),
        ):
            with self.subTest(path=path, field=field):
                person = UserFactory.body()
                body = person if path == "/users" else {"email": person["email"], "password": person["password"]}
                text = json.dumps(body | {field: self.ACCENTS}, ensure_ascii=False).encode()
                started = time.monotonic()
                self.client.request("POST", path, text, status=status)
                self.assertLess(time.monotonic() - started, self.LIMIT)

    def test_login_address_may_have_spaces_and_decomposed_accents(self):
        user = UserFactory.create(email="r\u00e9n\u00e9@example.com", password="analytical engine")
        apart = " " * 300 + unicodedata.normalize("NFD", user.email) + " " * 300
        self.client.post("/users/login", {"email": apart, "password": "analytical engine"}, status=200)
