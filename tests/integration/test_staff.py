"""Staff: made by the command line only, and by their next token."""

from shop.demo.factories import UserFactory
from shop.domain.models import User
from tests.harness.postgres import run_database_url, setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, CommittedApiTestCase
from tests.support.commands import call_shop


class NoRequestMakesStaffTest(ApiTestCase):
    """Whatever is sent, a user is a customer."""

    def test_role_in_any_request_is_refused_as_an_unknown_field(self):
        user = UserFactory.create()
        for path, body in (
            ("/users", UserFactory.body()),
            ("/users/login", {"email": user.email, "password": user.password}),
        ):
            for value in ("staff", True, None, ["staff"]):
                with self.subTest(path=path, value=value):
                    response = self.client.post(path, body | {"role": value}, status=400)
                    self.assertFields({"role": "is not a known field"}, response)
        self.assertEqual(0, User.select().where(User.role == "staff").count())


class StaffCommandTest(CommittedApiTestCase):
    """``shop staff``."""

    def shop(self, *arguments):
        """Run the command and return its status and what it printed on both streams."""
        return call_shop(*arguments, SHOP_DATABASE_URL=run_database_url())

    def log_in(self, user):
        """Return the headers of a new token for `user`."""
        response = self.client.post("/users/login", {"email": user.email, "password": user.password}, status=200)
        return {"Authorization": f"Bearer {response.json['token']}"}

    def test_change_of_role_takes_effect_at_the_next_login(self):
        ada, other = UserFactory.create(email="ada@example.com"), UserFactory.create()
        self.assertEqual((0, "", ""), self.shop("staff", "list"))
        before = self.log_in(ada)

        status, out, _ = self.shop("staff", "add", " ADA@example.com ")
        self.assertEqual((0, "shop: ada@example.com is staff from the next login on\n"), (status, out))
        self.client.get(f"/users/{other.id}", status=404, **before)
        during = self.log_in(ada)
        self.client.get(f"/users/{other.id}", status=200, **during)
        self.assertEqual((0, f"ada@example.com  {ada.name}\n", ""), self.shop("staff", "list"))

        self.assertEqual(0, self.shop("staff", "remove", "ada@example.com")[0])
        self.client.get(f"/users/{other.id}", status=404, **self.log_in(ada))
        self.assertEqual((0, "", ""), self.shop("staff", "list"))

    def test_staff_are_listed_by_address(self):
        for name in ("carol", "ada", "bob"):
            UserFactory.create("staff", name=name, email=f"{name}@example.com")
        listed = "".join(f"{name}@example.com  {name}\n" for name in ("ada", "bob", "carol"))
        self.assertEqual((0, listed, ""), self.shop("staff", "list"))

    def test_unknown_address_prints_one_sentence(self):
        for action in ("add", "remove"):
            expected = (2, "", "shop: no account has the e-mail address nobody@example.com\n")
            self.assertEqual(expected, self.shop("staff", action, "nobody@example.com"))
