"""Headers of every response: caching, content sniffing, and the policy of the page /docs."""

from shop.demo.factories import UserFactory
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase
from tests.support.operations import operations


class HeadersTest(ApiTestCase):
    """Responses of every operation, with and without a token, and of unknown paths and methods."""

    @classmethod
    def setUpTestData(cls):
        cls.ada = UserFactory.create()

    def test_only_docs_may_be_cached_and_every_response_has_nosniff(self):
        sent = [(str(o), o.method, o.path(user_id=self.ada.id, order_id=self.ada.id)) for o in operations()]
        sent += [
            ("no path", "GET", "/nothing"),
            ("no method", "DELETE", "/users"),
            ("OPTIONS", "OPTIONS", "/orders"),
            ("HEAD", "HEAD", f"/users/{self.ada.id}"),
        ]
        for name, method, path in sent:
            for user in (self.ada, None):
                with self.subTest(name, user=user):
                    headers = self.client.request(method, path, user=user, status="*").headers
                    kept = "max-age=3600" if path.startswith("/docs") else "no-store"
                    self.assertEqual((kept, "nosniff"), (headers["Cache-Control"], headers["X-Content-Type-Options"]))

    def test_errors_of_docs_assets_are_not_cached(self):
        self.assertEqual("no-store", self.client.get("/docs/nothing.js", status=404).headers["Cache-Control"])

    def test_cached_responses_vary_by_accept_encoding(self):
        for path in ("/docs", "/docs/docs.js"):
            for accepted in ("gzip", "identity"):
                with self.subTest(path, accepted=accepted):
                    answer = self.client.get(path, Accept_Encoding=accepted)
                    self.assertEqual("Accept-Encoding", answer.headers["Vary"])

    def test_docs_page_may_only_run_its_scripts_and_call_this_server(self):
        headers = self.client.get("/docs").headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        self.assertEqual("'none'", policy.pop("default-src"))
        for name in ("base-uri", "form-action", "frame-ancestors"):
            self.assertEqual("'none'", policy.pop(name))
        self.assertEqual(
            {"script-src": "'self'", "style-src": "'self'", "connect-src": "'self'", "img-src": "data:"}, policy
        )
        self.assertEqual("no-referrer", headers["Referrer-Policy"])
