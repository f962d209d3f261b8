"""`shop.demo.factories` with a database: batches of any size."""

from unittest import mock

from shop.demo import factories
from shop.demo.factories import UserFactory
from shop.domain.models import User
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase

LARGEST_STATEMENT = 65_535  # parameters, in PostgreSQL's protocol


class BatchTest(ApiTestCase):
    """Rows that are inserted together."""

    def test_a_large_batch_is_several_statements_and_one_transaction(self):
        with mock.patch.object(factories, "ROWS_AT_ONCE", 10), self.assertQueries(3):
            users = UserFactory.create_batch(25)
        self.assertEqual({str(user.id) for user in users}, {str(user.id) for user in User.select()})

    def test_no_statement_of_a_batch_has_more_parameters_than_allowed(self):
        for model in (User, factories.Order):
            self.assertLess(factories.ROWS_AT_ONCE * len(model._meta.fields), LARGEST_STATEMENT)
