"""Flows: what users do from their first request to the last response. The report lists the docstrings."""

from decimal import Decimal

from shop.demo.factories import OrderFactory, UserFactory
from shop.domain.models import Order
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase


class FlowTest(ApiTestCase):
    """The flows of a customer."""

    def register_and_log_in(self, **overrides):
        """Return a new user as the API shows it, and the headers that the user's requests carry."""
        body = UserFactory.body(**overrides)
        user = self.client.post("/users", body).json
        login = self.client.post("/users/login", {"email": body["email"], "password": body["password"]}, status=200)
        return user, {"Authorization": f"Bearer {login.json['token']}"}

    def test_register_log_in_place_an_order_read_it_back(self):
        """A user registers, logs in, places an order and reads it back."""
        user, headers = self.register_and_log_in(name="Ada Lovelace", email="ada@example.com")
        body = {
            "userId": user["id"],
            "items": [
                {"productId": "tea-1", "name": "Tea", "price": Decimal("29.99"), "quantity": 2},
                {"productId": "pot-1", "name": "Pot", "price": Decimal("49.99"), "quantity": 1},
            ],
            "shippingAddress": {"street": "1 Main St", "city": "London"},
        }
        placed = self.client.post("/orders", body, **headers)
        read = self.client.get(placed.headers["Location"], **headers).json
        owner = {"id": user["id"], "name": "Ada Lovelace", "email": "ada@example.com"}
        self.assertEqual(placed.json | {"user": owner}, read)
        self.assertEqual((109.97, "confirmed"), (read["total"], read["status"]))

    def test_duplicate_email_is_409_and_the_first_account_still_works(self):
        """A second registration with the same e-mail address gets a 409, and the first account still works."""
        body = UserFactory.body()
        self.client.post("/users", body)
        response = self.client.post("/users", body | {"password": "another password"}, status=409)
        self.assertProblem(response, 409, "EMAIL_EXISTS", "Email already registered")
        self.client.post("/users/login", {"email": body["email"], "password": body["password"]}, status=200)

    def test_wrong_password_gets_no_token_and_the_right_one_does(self):
        """A wrong password gets no token, and the right password still gets one."""
        body = UserFactory.body()
        self.client.post("/users", body)
        wrong = self.client.post("/users/login", {"email": body["email"], "password": "wrong password"}, status=401)
        self.assertProblem(wrong, 401, "INVALID_CREDENTIALS", "Invalid credentials")
        self.client.post("/users/login", {"email": body["email"], "password": body["password"]}, status=200)

    def test_malformed_uuid_is_404_for_users_and_orders(self):
        """A malformed id gets the same 404 as an unknown user or order."""
        _, headers = self.register_and_log_in()
        user = self.client.get("/users/not-a-uuid", status=404, **headers)
        self.assertProblem(user, 404, "USER_NOT_FOUND", "User not found")
        order = self.client.get("/orders/not-a-uuid", status=404, **headers)
        self.assertProblem(order, 404, "ORDER_NOT_FOUND", "Order not found")

    def test_empty_item_list_places_no_order(self):
        """An order without items gets a 400 and is not stored."""
        user, headers = self.register_and_log_in()
        body = {"userId": user["id"], "items": [], "shippingAddress": {"street": "1 Main St"}}
        response = self.client.post("/orders", body, status=400, **headers)
        self.assertProblem(response, 400, "VALIDATION_ERROR")
        self.assertIn("at least one item", response.json["error"])
        self.assertEqual(0, Order.select().count())

    def test_total_of_several_items_is_exact(self):
        """The total of ten items at 0.10 is exactly 1.00."""
        user, headers = self.register_and_log_in()
        items = [OrderFactory.item(price=Decimal("0.10"), quantity=1) for _ in range(10)]
        body = {"userId": user["id"], "items": items, "shippingAddress": {"street": "1 Main St"}}
        self.assertIn('"total":1.00,', self.client.post("/orders", body, **headers).text)

    def test_order_of_a_user_who_was_just_deleted_is_404(self):
        """A user who was deleted after logging in cannot place an order."""
        user = UserFactory.create()
        self.client.post("/orders", OrderFactory.body(user), user=user)
        Order.delete().execute()
        user.delete_instance()
        response = self.client.post("/orders", OrderFactory.body(user), user=user, status=404)
        self.assertProblem(response, 404, "USER_NOT_FOUND", "User not found")
        self.assertEqual(0, Order.select().count())
