"""`shop.demo.factories`: values are unique, repeatable, and varied by traits and overrides."""

import unittest
from decimal import Decimal

from shop.demo.factories import OrderFactory, UserFactory, source


class FactoryTest(unittest.TestCase):
    """Building without a database."""

    def setUp(self):
        source.reseed("unit")

    def test_one_seed_gives_the_same_values_again(self):
        def values():
            source.reseed("again")
            user, order = UserFactory.build(), OrderFactory.build()
            return user.id, user.name, user.email, user.created_at, order.id, order.items, order.shipping_address

        self.assertEqual(values(), values())

    def test_another_seed_gives_other_values(self):
        first = UserFactory.build().name, OrderFactory.build().items
        source.reseed("another")
        self.assertNotEqual(first, (UserFactory.build().name, OrderFactory.build().items))

    def test_addresses_and_ids_are_unique(self):
        users = [UserFactory.build() for _ in range(2000)]
        self.assertEqual(2000, len({user.email for user in users}))
        self.assertEqual(2000, len({user.id for user in users}))

    def test_overrides_win_over_traits_and_traits_over_defaults(self):
        self.assertEqual("staff", UserFactory.build("staff").role)
        self.assertEqual("customer", UserFactory.build("staff", role="customer").role)
        self.assertEqual(100, len(OrderFactory.build("large").items))
        both = OrderFactory.build("large", "shipped")
        self.assertEqual((100, "shipped"), (len(both.items), both.status))

    def test_an_unknown_trait_is_refused_by_name(self):
        with self.assertRaisesRegex(ValueError, r"UserFactory has no trait \['stafff'\]"):
            UserFactory.build("stafff")

    def test_a_misspelt_value_is_refused_by_name(self):
        for factory in (UserFactory, OrderFactory):
            with self.assertRaisesRegex(TypeError, rf"{factory.__name__} has no value \['emial'\]; it has .*'id'"):
                factory.build(emial="ada@example.com")

    def test_the_total_is_that_of_the_items(self):
        items = [
            OrderFactory.item(price=Decimal("29.99"), quantity=2),
            OrderFactory.item(price=Decimal("49.99"), quantity=1),
        ]
        self.assertEqual(Decimal("109.97"), OrderFactory.build(items=items).total)

    def test_ids_are_version_7_and_sort_by_creation(self):
        orders = sorted((OrderFactory.build() for _ in range(100)), key=lambda order: order.created_at)
        self.assertEqual([o.id for o in orders], sorted(o.id for o in orders))
        self.assertEqual({7}, {order.id.version for order in orders})
