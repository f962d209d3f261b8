"""The library's API."""

from loans.models import Loan, Member, database
from tests import factories
from tests.harness.cases import ApiTestCase, CommittedApiTestCase, LiveServerTestCase
from tests.harness.postgres import setUpModule, tearDownModule


class MembersTest(ApiTestCase):
    """Joining."""

    def test_a_member_who_joins_is_stored(self):
        shown = self.client.post("/members", {"name": "Ada"}).json
        self.assertEqual(("Ada", shown["key"]), Member.select(Member.name, Member.key).tuples().get())

    def test_a_name_is_required(self):
        self.client.post("/members", {}, status=400)
        self.assertEqual(0, Member.select().count())

    def test_a_key_belongs_to_one_member(self):
        factories.member(key="same")
        with self.assertRaisesRegex(Exception, "unique"):
            factories.member(key="same")
        self.assertEqual(1, Member.select().count())


class LoansTest(ApiTestCase):
    """Borrowing and returning."""

    @classmethod
    def setUpTestData(cls):
        cls.ada, cls.ben = factories.member(), factories.member()
        cls.book = factories.book()

    def borrow(self, member, status=201):
        return self.client.post("/loans", {"book": self.book.id}, user=member, status=status)

    def test_a_book_that_nobody_has_can_be_borrowed(self):
        loan = self.borrow(self.ada).json
        self.assertEqual({"id": loan["id"], "book": self.book.id, "member": self.ada.id, "returned": False}, loan)

    def test_a_book_that_somebody_has_cannot(self):
        self.borrow(self.ada)
        self.borrow(self.ben, status=409)
        self.assertEqual([self.ada.id], [loan.member_id for loan in Loan.select()])

    def test_a_book_that_was_returned_can_be_borrowed_again(self):
        loan = self.borrow(self.ada).json
        self.client.post(f"/loans/{loan['id']}/return", {}, user=self.ada, status=200)
        self.borrow(self.ben)

    def test_only_the_borrower_returns_a_book(self):
        loan = self.borrow(self.ada).json
        self.client.post(f"/loans/{loan['id']}/return", {}, user=self.ben, status=404)
        self.assertIsNone(Loan.get().returned_at)

    def test_without_a_key_nothing_is_borrowed(self):
        self.client.post("/loans", {"book": self.book.id}, status=401)

    def test_a_book_that_is_not_there_is_not_found(self):
        self.client.post("/loans", {"book": self.book.id + 1}, user=self.ada, status=404)

    def test_a_member_sees_only_their_own_loans(self):
        self.borrow(self.ada)
        shown = self.client.get(f"/members/{self.ada.id}/loans", user=self.ada).json
        self.assertEqual([self.book.id], [loan["book"] for loan in shown["loans"]])
        self.client.get(f"/members/{self.ada.id}/loans", user=self.ben, status=403)

    def test_looking_at_loans_takes_two_statements(self):
        with self.assertQueries(2):
            self.client.get(f"/members/{self.ada.id}/loans", user=self.ada)

    def test_a_block_that_fails_is_rolled_back_and_the_test_goes_on(self):
        with self.assertRaises(ZeroDivisionError), database.atomic():
            factories.member()
            _ = 1 / 0
        self.assertEqual(2, Member.select().count())


class RaceTest(CommittedApiTestCase):
    """Real commits, and a connection for each thread."""

    def test_if_two_members_borrow_a_book_at_once_one_gets_it(self):
        book, members = factories.book(), [factories.member(), factories.member()]
        responses = self.at_once(
            *(
                lambda member=member: self.client.post("/loans", {"book": book.id}, user=member, status="*")
                for member in members
            )
        )
        self.assertEqual([201, 409], sorted(response.status_int for response in responses))


class ServerTest(LiveServerTestCase):
    """The real server."""

    @classmethod
    def setUpTestData(cls):
        cls.ada = factories.member()

    def test_it_serves_over_tcp(self):
        answer = self.connection.request("GET", f"/members/{self.ada.id}/loans", X_Api_Key=self.ada.key)
        self.assertEqual((200, {"loans": []}), (answer.status, answer.json))
