"""The contract check on OpenAPI documents that are unlike ours: no codes, references, ranges, no content."""

import unittest
from collections import Counter
from typing import Any
from unittest import mock

from webtest import TestResponse

from tests import binding
from tests.harness import contract
from tests.harness.findings import findings

THING = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}
DOCUMENT = {
    "paths": {
        "/things": {
            "parameters": [],
            "get": {"responses": {"200": {"$ref": "#/components/responses/Thing"}}},
            "post": {
                "operationId": "make",
                "responses": {
                    "201": {"description": "made"},
                    "4XX": {"description": "refused", "content": {"application/json": {}}},
                },
            },
        },
        "/things/{thing-id}.json": {
            "get": {
                "operationId": "find",
                "responses": {
                    "200": {"headers": {"X-Id": {"required": True}}, "content": {"text/plain": {}}},
                    "404": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}},
                    "default": {"description": "anything else"},
                },
            }
        },
    },
    "components": {
        "schemas": {"Thing": THING, "Problem": {"oneOf": [{"properties": {"code": {"const": "GONE"}}}]}},
        "responses": {"Thing": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
    },
}


def answer(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return TestResponse(body, status, [("Content-Type", content_type), *named.items()])


class ContractTest(unittest.TestCase):
    """Responses against a document."""

    def setUp(self):
        self.describe(DOCUMENT)
        codes = {b'{"code": "GONE"}': "GONE"}
        self.enterContext(mock.patch.object(binding, "code_of", lambda response: codes.get(response.body)))
        self.enterContext(mock.patch.object(findings, "answers", Counter()))

    def describe(self, document: dict[str, Any] | None) -> None:
        self.enterContext(mock.patch.object(binding, "describe", lambda: document))
        for cached in (contract.description, contract.described_answers, contract._patterns, contract._validator):
            cached.cache_clear()
            self.addCleanup(cached.cache_clear)

    def test_described_answers_are_operations_statuses_and_codes(self):
        expected = {("GET /things", 200, None), ("make", 201, None), ("find", 200, None), ("find", 404, "GONE")}
        self.assertEqual(expected, contract.described_answers())

    def test_what_is_described_is_accepted_and_noted(self):
        for method, path, response, noted in (
            ("GET", "/things?x=1", answer(200, b'{"id": 1}'), ("GET /things", 200, None)),
            ("POST", "/things", answer(201), ("make", 201, None)),
            ("POST", "/things", answer(409, b"{}"), ("make", 409, None)),
            ("GET", "/things/1.json", answer(200, b"1", "text/plain", X_Id="1"), ("find", 200, None)),
            ("GET", "/things/1.json", answer(404, b'{"code": "GONE"}'), ("find", 404, "GONE")),
            ("GET", "/things/1.json", answer(500), ("find", 500, None)),
        ):
            with self.subTest(noted):
                contract.check(method, path, response)
                self.assertEqual(1, findings.answers.pop(noted))
        contract.check("HEAD", "/things", answer(200))
        contract.check("OPTIONS", "/nowhere", answer(200))
        self.assertEqual({}, findings.answers)

    def test_what_is_not_described_fails_and_is_named(self):
        for method, path, response, said in (
            ("GET", "/things", answer(200, b'{"id": "1"}'), r"GET /things .*not as described: \$\.id"),
            ("GET", "/things", answer(202), "the status 202 is not described"),
            ("POST", "/things", answer(201, b"{}"), "201 has a body, and none is described"),
            ("GET", "/things/1.json", answer(200, b"1", "text/plain"), "200 lacks the header X-Id"),
            ("GET", "/things/1.json", answer(200, b"1", "text/html", X_Id="1"), "media type text/html"),
            ("DELETE", "/things", answer(200), "200 None is no answer to a path or a method that is not there"),
            ("GET", "/things/1xjson", answer(200), "is no answer to a path"),
        ):
            with self.subTest(said), self.assertRaisesRegex(AssertionError, said):
                contract.check(method, path, response)

    def test_a_writing_operation_is_one_whose_method_may_write(self):
        contract.writing_operations.cache_clear()
        self.addCleanup(contract.writing_operations.cache_clear)
        self.assertEqual({"make"}, contract.writing_operations())

    def test_without_a_document_nothing_is_checked(self):
        self.describe(None)
        contract.check("GET", "/anything", answer(599))
        self.assertEqual(frozenset(), contract.described_answers())
