"""``GET /users/{id}/orders``: newest first, page by page, and nothing skipped or repeated on the way."""

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

from shop.demo.factories import LATEST, OrderFactory, UserFactory
from shop.domain.models import Order
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, make_client

NOBODY = "0199e0c1-0000-7000-8000-000000000001"


class HistoryTest(ApiTestCase):
    """Pages of a user's orders."""

    def setUp(self):
        super().setUp()
        self.user = UserFactory.create()
        self.path = f"/users/{self.user.id}/orders"

    def page(self, query="", user=None, status=200):
        """Ask for a page."""
        return self.client.get(f"{self.path}{query}", user=user or self.user, status=status)

    def walk(self, query="?limit=3"):
        """Return the pages from the first to the last, following the links."""
        pages = [self.page(query)]
        while "Link" in pages[-1].headers:
            target = self.link(pages[-1])
            self.assertEqual(parse_qs(urlsplit(target).query)["cursor"], [pages[-1].json["nextCursor"]])
            pages.append(self.client.get(target, user=self.user))
            self.assertLess(len(pages), 50, "the walk does not end")
        self.assertIsNone(pages[-1].json["nextCursor"])
        return [page.json["orders"] for page in pages]

    def link(self, page):
        """Return the target of a page's link to the next."""
        self.assertRegex(page.headers["Link"], r"^<[^>]+>; rel=next$|^<[^>]+>; rel=\"next\"$")
        return page.headers["Link"].split(">")[0].removeprefix("<")

    def test_user_without_orders_has_an_empty_history(self):
        page = self.page()
        self.assertEqual({"orders": [], "nextCursor": None}, page.json)
        self.assertNotIn("Link", page.headers)

    def test_orders_come_newest_first_in_their_usual_shape(self):
        OrderFactory.create_batch(5, user=self.user)
        OrderFactory.create_batch(2)
        (orders,) = self.walk("")
        newest_first = Order.select().where(Order.user == self.user).order_by(Order.created_at.desc())
        self.assertEqual([str(order.id) for order in newest_first], [order["id"] for order in orders])
        for order in orders:
            alone = self.client.get(f"/orders/{order['id']}", user=self.user).json
            del alone["user"]
            self.assertEqual(alone, order)

    def test_pages_have_no_gaps_and_no_duplicates(self):
        OrderFactory.create_batch(10, user=self.user)
        whole = self.page("?limit=100").json["orders"]
        for limit, sizes in ((1, [1] * 10), (3, [3, 3, 3, 1]), (5, [5, 5]), (9, [9, 1]), (10, [10]), (100, [10])):
            with self.subTest(limit):
                pages = self.walk(f"?limit={limit}")
                self.assertEqual(sizes, [len(page) for page in pages])
                self.assertEqual(whole, [order for page in pages for order in page])

    def test_default_page_has_twenty_orders(self):
        OrderFactory.create_batch(21, user=self.user)
        self.assertEqual([20, 1], [len(page) for page in self.walk("")])

    def test_orders_with_equal_times_are_not_skipped_or_repeated(self):
        OrderFactory.create_batch(7, user=self.user, created_at=LATEST)
        seen = [order["id"] for page in self.walk("?limit=2") for order in page]
        self.assertEqual(7, len(set(seen)))
        self.assertEqual(sorted(seen, reverse=True), seen)

    def test_new_orders_do_not_shift_the_pages(self):
        OrderFactory.create_batch(6, user=self.user)
        before = [order["id"] for page in self.walk("?limit=2") for order in page]
        seen, target = [], f"{self.path}?limit=2"
        while target:
            page = self.client.get(target, user=self.user)
            seen += [order["id"] for order in page.json["orders"]]
            self.client.post("/orders", OrderFactory.body(self.user), user=self.user)
            target = self.link(page) if "Link" in page.headers else None
        self.assertEqual(before, seen)

    def test_status_filters_every_page(self):
        for status in ("pending", "shipped", "cancelled"):
            OrderFactory.create_batch(3, status, user=self.user)
        pages = self.walk("?limit=2&status=shipped")
        self.assertEqual([2, 1], [len(page) for page in pages])
        self.assertEqual({"shipped"}, {order["status"] for page in pages for order in page})
        self.assertEqual([[]], self.walk("?status=delivered"))

    def test_staff_reads_any_history_and_unknown_user_is_404(self):
        staff = UserFactory.create("staff")
        order = OrderFactory.create(user=self.user)
        self.assertEqual([str(order.id)], [shown["id"] for shown in self.page(user=staff).json["orders"]])
        response = self.client.get(f"/users/{NOBODY}/orders", user=staff, status=404)
        self.assertProblem(response, 404, "USER_NOT_FOUND", "User not found")

    def test_foreign_unknown_and_malformed_id_get_the_same_404(self):
        other = OrderFactory.create().user
        answers = set()
        for user_id in (other.id, NOBODY, "not-an-id"):
            path = f"/users/{user_id}/orders"
            response = self.client.get(path, user=self.user, status=404, X_Request_ID="same")
            self.assertProblem(response, 404, "USER_NOT_FOUND", "User not found")
            answers.add((response.body, str(sorted(response.headers.items()))))
        self.assertEqual(1, len(answers), "the same 404, to the byte")

    def test_history_is_401_without_a_token(self):
        self.assertProblem(self.client.get(self.path, status=401), 401, "UNAUTHORIZED")

    def test_history_of_a_deleted_user_is_404(self):
        self.user.delete_instance()
        self.assertProblem(self.page(status=404), 404, "USER_NOT_FOUND")

    def test_limit_out_of_range_is_refused(self):
        for limit in ("0", "101", "-1", "1.5", "1e1", "ten", "", "0x10", "%00", "1000000000000", "\u0661"):
            with self.subTest(limit):
                response = self.page(f"?limit={limit}", status=400)
                self.assertProblem(response, 400, "VALIDATION_ERROR", "limit must be a whole number from 1 to 100")

    def test_all_invalid_query_parameters_are_reported_together(self):
        response = self.page("?status=lost&limit=1&limit=2&sort=asc", status=400)
        self.assertProblem(response, 400, "VALIDATION_ERROR")
        self.assertFields(
            {
                "status": "must be one of pending, confirmed, shipped, delivered, cancelled",
                "limit": "must be given once",
                "sort": "is not a known field",
            },
            response,
        )

    def test_cursor_of_another_list_is_refused(self):
        other = UserFactory.create()
        for user in (self.user, other):
            OrderFactory.create_batch(2, "shipped", user=user)
        own = self.page("?limit=1").json["nextCursor"]
        filtered = self.page("?limit=1&status=shipped").json["nextCursor"]
        foreign = self.client.get(f"/users/{other.id}/orders?limit=1", user=other).json["nextCursor"]
        elsewhere = make_client(secret_key="another service's key, which is long enough")
        forged = elsewhere.get(f"{self.path}?limit=1", user=self.user).json["nextCursor"]
        for query in (
            f"?cursor={foreign}",
            f"?cursor={filtered}",
            f"?cursor={own}&status=shipped",
            f"?cursor={filtered}&status=pending",
            f"?cursor={forged}",
            f"?cursor={own[:-4]}AAAA",
            f"?cursor={own[:-1]}",
            f"?cursor={own}%00",
            "?cursor=",
            "?cursor=x",
            "?cursor=%ff",
            f"?cursor={'A' * 10_000}",
        ):
            with self.subTest(query[:60]):
                response = self.page(query, status=400)
                fault = "must be the nextCursor of a page of this list"
                self.assertProblem(response, 400, "VALIDATION_ERROR", f"cursor {fault}")
                self.assertFields({"cursor": fault}, response)

    def test_cursor_stays_valid_after_key_rotation_and_another_limit(self):
        OrderFactory.create_batch(3, user=self.user)
        former = make_client(secret_key="the former key and long enough with its 32 bytes")
        rotated = make_client(secret_key_fallbacks="the former key and long enough with its 32 bytes")
        cursor = former.get(f"{self.path}?limit=1", user=self.user).json["nextCursor"]
        rest = rotated.get(f"{self.path}?limit=50&cursor={cursor}", user=self.user).json
        self.assertEqual((2, None), (len(rest["orders"]), rest["nextCursor"]))

    def test_cursor_is_valid_for_its_user_id_in_any_case(self):
        OrderFactory.create_batch(2, user=self.user)
        cursor = self.page("?limit=1").json["nextCursor"]
        upper = f"/users/{str(self.user.id).upper()}/orders?cursor={cursor}"
        self.assertEqual(1, len(self.client.get(upper, user=self.user).json["orders"]))

    def test_page_of_any_size_is_one_query(self):
        OrderFactory.create_batch(50, user=self.user)
        for query in ("?limit=1", "?limit=50", "?status=shipped", "?limit=100"):
            with self.subTest(query), self.assertQueries(1):
                self.page(query)

    def test_cursor_keeps_microseconds(self):
        for microseconds in range(4):
            OrderFactory.create(user=self.user, created_at=LATEST + timedelta(microseconds=microseconds))
        self.assertEqual([1, 1, 1, 1], [len(page) for page in self.walk("?limit=1")])
