"""`shop.tokens` and `shop.passwords`: what verifies, what does not, and the work that it takes."""

import unittest
from datetime import UTC, datetime, timedelta
from unittest import mock

import jwt

from shop.errors import InvalidToken
from shop.passwords import Passwords
from shop.tokens import Actor, Tokens

KEY, OLD_KEY = "k" * 32, "o" * 32
ADA = Actor("0199e0c1-0000-7000-8000-000000000001", "customer")


def tokens(key=KEY, *fallbacks, age=timedelta(0)):
    """Return a `Tokens` whose clock is `age` behind."""
    return Tokens(key, fallbacks, lifetime=3600, clock=lambda: datetime.now(UTC) - age)


class TokensTest(unittest.TestCase):
    """Issuing and verifying."""

    def test_a_token_names_its_actor(self):
        self.assertEqual(ADA, tokens().verify(tokens().issue(ADA)))

    def test_a_former_key_still_verifies_but_no_longer_signs(self):
        rotated = tokens(KEY, OLD_KEY)
        self.assertEqual(ADA, rotated.verify(tokens(OLD_KEY).issue(ADA)))
        with self.assertRaises(InvalidToken):
            tokens(OLD_KEY).verify(rotated.issue(ADA))

    def test_what_is_not_a_token_of_ours_is_refused(self):
        claims = {
            "sub": ADA.user_id,
            "role": "staff",
            "iat": datetime.now(UTC),
            "exp": datetime.now(UTC) + timedelta(1),
        }
        header, payload, signature = tokens().issue(ADA).split(".")
        bad = {
            "no token": "nonsense",
            "another key": tokens(OLD_KEY).issue(ADA),
            "expired": tokens(age=timedelta(seconds=3601)).issue(ADA),
            "unsigned": jwt.encode(claims, None, "none"),
            "another algorithm": jwt.encode(claims, "k" * 64, "HS512"),
            "no expiry": jwt.encode({k: v for k, v in claims.items() if k != "exp"}, KEY, "HS256"),
            "no subject": jwt.encode({k: v for k, v in claims.items() if k != "sub"}, KEY, "HS256"),
            "no role": jwt.encode({k: v for k, v in claims.items() if k != "role"}, KEY, "HS256"),
            "payload changed": f"{header}.{payload[:-4]}AAAA.{signature}",
            "signature missing": f"{header}.{payload}.",
        }
        for name, token in bad.items():
            with self.subTest(name), self.assertRaises(InvalidToken):
                tokens().verify(token)


class PasswordsTest(unittest.TestCase):
    """Hashing and verifying."""

    def setUp(self):
        self.passwords = Passwords(time_cost=1, memory_cost=8, parallelism=1)

    def test_only_the_password_itself_verifies(self):
        hashed = self.passwords.hash("secret1")
        self.assertTrue(self.passwords.verify(hashed, "secret1"))
        self.assertFalse(self.passwords.verify(hashed, "secret2"))

    def test_the_hash_is_argon2id_with_the_given_parameters(self):
        self.assertRegex(self.passwords.hash("secret1"), r"^\$argon2id\$v=19\$m=8,t=1,p=1\$")

    def test_a_password_is_one_however_its_accents_are_composed(self):
        self.assertTrue(self.passwords.verify(self.passwords.hash("caf\u00e9 noir"), "cafe\u0301 noir"))

    def test_an_unknown_account_takes_the_same_work_and_never_verifies(self):
        with mock.patch.object(self.passwords, "_argon2", wraps=self.passwords._argon2) as argon2:
            self.assertFalse(self.passwords.verify(None, "nobody's password"))
            self.assertFalse(self.passwords.verify(self.passwords.hash("secret1"), "wrong"))
        self.assertEqual(2, argon2.verify.call_count)
        nobodys, somebodys = (call.args[0] for call in argon2.verify.call_args_list)
        self.assertEqual(nobodys.split("$")[:4], somebodys.split("$")[:4], "the parameters are the same")

    def test_a_hash_that_is_no_hash_verifies_nothing(self):
        self.assertFalse(self.passwords.verify("!", "!"))

    def test_other_parameters_ask_for_a_rehash(self):
        hashed = self.passwords.hash("secret1")
        self.assertFalse(self.passwords.needs_rehash(hashed))
        self.assertTrue(Passwords(time_cost=2, memory_cost=8, parallelism=1).needs_rehash(hashed))
