"""One account for each e-mail address, whatever the locale of the database.

`lower()` of PostgreSQL follows it: in Turkish `I` does not become `i`, and in C only ASCII has small letters.
"""

from psycopg2 import sql

from shop.demo.factories import UserFactory
from shop.domain import accounts
from shop.domain.models import LoginFailures, User
from shop.ids import email_key
from shop.storage import migrations
from tests.harness.postgres import (
    current_url,
    databases,
    drop,
    empty,
    point_at,
    setUpModule,
    tearDownModule,
)
from tests.support.cases import DomainTestCase, make_client
from tests.support.statements import statements

# Each address with another spelling of it.
SPELLINGS = {
    "info@example.com": "INFO@example.com",
    "\u00e9va@example.com": "\u00c9va@example.com",
    "zo\u00eb@example.com": "ZOE\u0308@example.com",
    "stra\u00dfe@example.com": "STRASSE@example.com",
}


class LocaleTest(DomainTestCase):
    """The service on databases of several locales."""

    def serving(self, locale):
        """Return a client of the service on an empty database of a locale."""
        made = empty("locale")
        self.addCleanup(drop, made)
        name = sql.Identifier(made.name)
        databases().execute(sql.SQL("DROP DATABASE {}").format(name))
        databases().execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 " + locale).format(name))
        migrations.migrate(made.url)
        self.addCleanup(point_at, current_url())
        point_at(made.url)
        return make_client()

    def hold(self, client):
        """Fail unless both spellings of each address are one account."""
        for email, other in SPELLINGS.items():
            with self.subTest(email):
                body = UserFactory.body(email=email)
                client.post("/users", body)
                client.post("/users", body | {"email": other}, status=409)
                credentials = {"email": other, "password": body["password"]}
                shown = client.post("/users/login", credentials, status=200).json
                self.assertEqual(email, shown["email"])
                for spelling in (email, other):
                    client.post("/users/login", {"email": spelling, "password": "wrong"}, status=401)
                self.assertEqual(2, LoginFailures.get().failures)
                client.post("/users/login", credentials, status=200)
                self.assertEqual(0, LoginFailures.select().count())
                self.assertEqual(email, accounts.set_role(other, "staff").email)
        self.assertEqual(len(SPELLINGS), User.select().where(User.role == "staff").count())

    def test_c(self):
        self.hold(self.serving("LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'UTF8'"))

    def test_turkish_where_the_server_has_icu(self):
        if databases().execute("SELECT 1 FROM pg_collation WHERE collname = 'tr-x-icu'"):
            self.hold(self.serving("LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' ENCODING 'UTF8'"))
        else:
            # The embedded one has no ICU. What holds without it: nothing is left to the server.
            self.assertEqual([], [name for name, each in statements().items() if "lower(" in each.sql.lower()])


class KeyTest(DomainTestCase):
    """`email_key` itself."""

    def test_spellings_of_one_address_have_one_key_which_is_its_own_key(self):
        for email, other in SPELLINGS.items():
            with self.subTest(email):
                self.assertEqual(email_key(email), email_key(other))
                self.assertEqual(email_key(email), email_key(email_key(email)))

    def test_other_addresses_have_other_keys(self):
        addresses = ("info@example.com", "\u0131nfo@example.com", "inf\u00f6@example.com", "info@example.org")
        self.assertEqual(len(addresses), len({email_key(address) for address in addresses}))

    def test_a_factory_s_user_has_the_key_of_the_address(self):
        self.assertEqual("ada@example.com", UserFactory.build(email="Ada@example.com").email_key)
