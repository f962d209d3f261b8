"""The OpenAPI document: it is valid and complete, and agrees with the service."""

import contextlib
import gzip
import io
import json
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

from falcon.testing import create_environ
from jsonschema_rs import Draft202012Validator
from pydantic import BaseModel, ValidationError

from shop import cli, exactjson
from shop.api import schemas
from shop.api.openapi.markdown import render
from shop.app import create_app
from shop.demo.factories import UserFactory
from tests.harness import contract
from tests.harness.client import TestResponse
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, make_settings
from tests.support.operations import example, operations

ROOT = Path(__file__).resolve().parents[2]


class DescriptionTest(ApiTestCase):
    """``/openapi.json``."""

    def setUp(self):
        super().setUp()
        self.described = self.client.get("/openapi.json").json

    def test_document_is_valid_openapi_3_1(self):
        self.assertEqual("3.1.0", self.described["openapi"])
        import openapi_spec_validator  # noqa: PLC0415 - It takes a while, and only this test needs it.

        openapi_spec_validator.validate(self.described)

    def test_document_is_what_the_command_prints(self):
        out = io.StringIO()
        with mock.patch.dict(os.environ, clear=True), contextlib.redirect_stdout(out):
            self.assertEqual(0, cli.main(["openapi"]))
        self.assertEqual(self.described, json.loads(out.getvalue()))

    def test_markdown_page_keeps_its_text_if_rendering_fails(self):
        page = Path(self.enterContext(tempfile.TemporaryDirectory()), "api.md")
        with mock.patch.dict(os.environ, clear=True):
            self.assertEqual(0, cli.main(["openapi", "--markdown", "--output", str(page)]))
            self.assertEqual(render(self.described), page.read_text("utf-8"))
            with (
                mock.patch("shop.api.openapi.markdown.render", side_effect=ZeroDivisionError),
                self.assertRaises(ZeroDivisionError),
            ):
                cli.main(["openapi", "--markdown", "--output", str(page)])
        self.assertEqual(render(self.described), page.read_text("utf-8"))

    def test_markdown_page_is_current(self):
        page = (ROOT / "docs" / "api.md").read_text("utf-8")
        self.assertEqual(render(self.described), page, "shop openapi --markdown --output docs/api.md writes it again")

    def test_every_route_is_documented_under_a_unique_operation_id(self):
        named = {
            f"{method.upper()} {path}": operation["operationId"]
            for path, methods in self.described["paths"].items()
            for method, operation in methods.items()
        }
        self.assertEqual({str(operation): operation.declared.id for operation in operations()}, named)
        self.assertEqual(len(named), len(set(named.values())))
        for name in named.values():
            self.assertRegex(name, r"^[a-z]+([A-Z][a-z]+)*$")

    def test_components_have_readable_names(self):
        names = set(self.described["components"]["schemas"])
        self.assertLessEqual({"Order", "User", "Problem", "NewOrder", "Registration", "OrderPage"}, names)
        for name in names:
            self.assertRegex(name, r"^([A-Z][a-z]+)+$")

    def test_every_documented_error_is_a_problem(self):
        for path, methods in self.described["paths"].items():
            for method, operation in methods.items():
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        with self.subTest(f"{method} {path} {status}"):
                            schema = response["content"]["application/problem+json"]["schema"]
                            self.assertEqual({"$ref": "#/components/schemas/Problem"}, schema["allOf"][0])
                            self.assertTrue(schema["allOf"][1]["properties"]["code"]["enum"])

    def test_documented_text_limits_equal_the_enforced_ones(self):
        texts = ["", " ", "\t\n", "a", " a ", "ab", " a b ", "\0", "a\0b", "abc\0", " " * 90 + "x" * 20, "x" * 300]
        for schema in (schemas.Registration, schemas.LineItem, schemas.NewShippingAddress):
            described = self.described["components"]["schemas"][schema.__name__]["properties"]
            valid = example(schema)
            for name in valid.keys() - {"email", "price", "quantity"}:
                validator = Draft202012Validator(described[name])
                for text in texts:
                    with self.subTest(f"{schema.__name__}.{name}", text=text):
                        document = exactjson.loads(json.dumps(valid | {name: text}).encode())
                        self.assertEqual(is_valid(schema, document), validator.is_valid(text))

    def test_api_accepts_its_own_examples(self):
        user_id = self.client.post("/users", self.example("Registration")).json["id"]
        session = self.client.post("/users/login", self.example("Login"), status=200).json
        self.assertEqual(user_id, session["id"])
        known = {"Authorization": f"Bearer {session['token']}"}
        # An example cannot contain the id of a new user.
        order = self.client.post("/orders", self.example("NewOrder") | {"userId": user_id}, **known).json
        change = exactjson.dumps(self.example("StatusChange"))
        self.client.request("PATCH", f"/orders/{order['id']}", change, status=200, **known)

    def test_every_example_is_valid_for_its_field(self):
        for name, schema in self.described["components"]["schemas"].items():
            for field, described in schema["properties"].items():
                for value in described.get("examples", []):
                    with self.subTest(f"{name}.{field}"):
                        self.assertEqual([], list(Draft202012Validator(described).iter_errors(value)))

    def example(self, name):
        """Return a JSON document of the examples of a schema, with all optional fields."""
        document = {}
        for field, described in self.described["components"]["schemas"][name]["properties"].items():
            reference = described.get("$ref") or described.get("items", {}).get("$ref")
            if reference:
                inner = self.example(reference.rpartition("/")[2])
                document[field] = [inner] if "items" in described else inner
            else:
                document[field] = described["examples"][0]
        return document

    def test_operations_are_tagged_by_subject(self):
        listed: dict[str, list[str]] = {tag["name"]: [] for tag in self.described["tags"]}
        for methods in self.described["paths"].values():
            for operation in methods.values():
                (tag,) = operation["tags"]
                listed[tag].append(operation["operationId"])
        self.assertEqual(["registerUser", "logIn", "getUser"], listed["users"][:3])
        self.assertLessEqual({"listOrders", "placeOrder", "getOrder", "changeOrderStatus"}, set(listed["orders"]))
        self.assertEqual(["users", "orders", "service"], list(listed))

    def test_operations_that_need_a_token_document_it(self):
        for operation in operations():
            described = self.described["paths"][operation.template][operation.method.lower()]
            self.assertEqual([] if operation.declared.is_public else [{"bearer": []}], described["security"])


def is_valid(schema: type[BaseModel], document: object) -> bool:
    """Return whether the service accepts `document`."""
    try:
        schema.model_validate(document)
    except ValidationError:
        return False
    return True


class DocsTest(ApiTestCase):
    """``/docs`` and its assets."""

    def test_page_loads_nothing_from_other_servers(self):
        page = self.client.get("/docs")
        self.assertEqual("text/html", page.content_type)
        self.assertIn("default-src 'none'; script-src 'self'", page.headers["Content-Security-Policy"])
        self.assertEqual([], re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page.text))
        for reference in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
            with self.subTest(reference):
                self.client.get(reference)

    def test_assets_are_compressed_if_the_client_accepts_gzip(self):
        sent = []

        def start(_status, headers):
            sent.append(dict(headers))

        # Not through WebTest, which decompresses responses.
        app = create_app(make_settings())
        plain, packed = (
            b"".join(app(create_environ("/docs/swagger-ui.js", headers=headers), start))
            for headers in ({"Accept-Encoding": "br, gzip;q=0"}, {"Accept-Encoding": "br;q=0, gzip;q=0.5"})
        )
        self.assertEqual([None, "gzip"], [headers.get("content-encoding") for headers in sent])
        self.assertLess(len(packed), len(plain) / 3)
        self.assertEqual(plain, gzip.decompress(packed))

    def test_unknown_assets_are_404(self):
        for asset in ("docs.html", "..%2fapp.py", "redoc.js", "x"):
            self.assertProblem(self.client.get(f"/docs/{asset}", status=404), 404, "NOT_FOUND")


class ContractTest(ApiTestCase):
    """The contract check: an undocumented response fails the test that received it."""

    def checked(self, change, method="GET", path=None):
        """Return the message of the check for a response that `change` has modified."""
        user = UserFactory.create()
        where = path or f"/users/{user.id}"
        response = self.client.get(f"/users/{user.id}", user=user)
        change(response)
        with self.assertRaises(AssertionError) as caught:
            contract.check(method, where, response)
        return str(caught.exception)

    def test_undocumented_status_fails_the_check(self):
        def change(response: TestResponse):
            response.status = 202

        self.assertRegex(self.checked(change), r"^getUser .*: the status 202 is not described")

    def test_renamed_missing_and_added_fields_fail_the_check(self):
        def rename(response: TestResponse):
            response.text = response.text.replace('"createdAt"', '"created"')

        said = self.checked(rename)
        self.assertIn('"createdAt" is a required property', said)
        self.assertIn("'created' was unexpected", said)

    def test_field_of_another_type_fails_the_check(self):
        def change(response: TestResponse):
            response.text = re.sub('"name":"[^"]*"', '"name":5', response.text)

        self.assertIn('$.name: 5 is not of type "string"', self.checked(change))

    def test_missing_header_fails_the_check(self):
        def change(response: TestResponse):
            del response.headers["X-Request-ID"]

        self.assertIn("200 lacks the header X-Request-ID", self.checked(change))

    def test_another_media_type_fails_the_check(self):
        def change(response: TestResponse):
            response.content_type = "text/json"

        self.assertIn("the media type text/json", self.checked(change))

    def test_undocumented_error_fails_the_check(self):
        user = UserFactory.create()
        response = self.client.get(f"/orders/{user.id}", user=user, status=404)
        with self.assertRaisesRegex(AssertionError, r'getUser .*\$.code: "ORDER_NOT_FOUND" is not one of'):
            contract.check("GET", f"/users/{user.id}", response)

    def test_success_at_an_unknown_path_fails_the_check(self):
        self.assertIn(
            "no answer to a path or a method that is not there", self.checked(lambda _: None, path="/nothing")
        )

    def test_documented_responses_that_were_not_seen_are_listed(self):
        missed = {("placeOrder", 422, "IDEMPOTENCY_KEY_REUSED"), ("getUser", 200, None)}
        self.assertLess(missed, contract.described_answers())
        self.assertEqual(missed, set(contract.never_seen(contract.described_answers() - missed)))
