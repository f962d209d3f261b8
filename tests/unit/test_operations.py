"""`shop.api.operations`: what a declaration does to a responder."""

import unittest
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

from shop.api import parsing, schemas
from shop.api.operations import Success, operation


def declare(**options):
    """Return a responder with a declaration."""

    @operation("placeOrder", success=Success(204, "Nothing", None), **options)
    def on_post(self, *_arguments, **parts):
        """Place an order.

        The rest is for developers.
        """
        self.got = parts

    return on_post


@contextmanager
def slot(_resource):
    """Limit nothing."""
    yield


class OperationTest(unittest.TestCase):
    def test_responder_keeps_its_name_and_docstring(self):
        for options in ({}, {"body": schemas.Login}, {"body": schemas.Login, "slot": slot}):
            with self.subTest(options):
                responder = declare(**options)
                self.assertEqual("on_post", responder.__name__)
                self.assertIn("for developers", responder.__doc__)
                self.assertEqual("Place an order", responder.operation.summary)

    def test_body_is_read_before_the_slot_and_parsed_inside_it(self):
        steps = []

        @contextmanager
        def noted(_resource):
            steps.append("enter")
            yield
            steps.append("leave")

        request, resource = SimpleNamespace(context=SimpleNamespace(body=None)), SimpleNamespace()
        with (
            mock.patch.object(parsing, "read_body", lambda _: steps.append("read") or b"{}"),
            mock.patch.object(parsing, "parse", lambda *_: steps.append("parse") or {"body": "parsed"}),
        ):
            declare(body=schemas.Login, slot=noted)(resource, request, None)
        self.assertEqual(["read", "enter", "parse", "leave"], steps)
        self.assertEqual((b"{}", {"body": "parsed"}), (request.context.body, resource.got))
