"""`shop.security.tokens` and `shop.security.passwords`: what verifies, what does not, and the work that it takes."""

import contextlib
import hmac
import json
import os
import signal
import sys
import threading
import time
import unittest
import warnings
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from unittest import mock

import jwt
from hypothesis import given, settings, strategies

from shop.errors import InvalidToken, ServiceUnavailable
from shop.security.passwords import NICENESS, Passwords
from shop.security.tokens import Actor, Tokens

KEY, OLD_KEY = "k" * 32, "o" * 32
ADA = Actor("0199e0c1-0000-7000-8000-000000000001", "customer")


def tokens(key=KEY, *fallbacks, age=timedelta(0)):
    """Return a `Tokens` whose clock is `age` behind."""
    return Tokens(key, fallbacks, lifetime=3600, clock=lambda: datetime.now(UTC) - age)


def actor(number):
    """Return a customer whose id has this number."""
    return Actor(f"0199e0c1-0000-7000-8000-{number:012}", "customer")


class TokensTest(unittest.TestCase):
    """Issuing and verifying."""

    def test_a_token_names_its_actor(self):
        self.assertEqual(ADA, tokens().verify(tokens().issue(ADA)))

    def test_a_former_key_still_verifies_but_no_longer_signs(self):
        rotated = tokens(KEY, OLD_KEY)
        self.assertEqual(ADA, rotated.verify(tokens(OLD_KEY).issue(ADA)))
        with self.assertRaises(InvalidToken):
            tokens(OLD_KEY).verify(rotated.issue(ADA))

    def test_a_token_of_an_instance_whose_clock_is_ahead_verifies(self):
        self.assertEqual(ADA, tokens().verify(tokens(age=timedelta(seconds=-30)).issue(ADA)))

    def test_only_the_role_staff_is_staff(self):
        self.assertEqual([False, True], [Actor(ADA.user_id, role).is_staff for role in ("customer", "staff")])

    def test_token_is_valid_for_exactly_its_lifetime(self):
        now = datetime(2026, 3, 1, tzinfo=UTC)
        token = Tokens(KEY, (), lifetime=60, clock=lambda: now).issue(ADA)
        for seconds, is_valid in ((59, True), (60, False), (61, False)):
            later = Tokens(KEY, (), lifetime=60, clock=lambda seconds=seconds: now + timedelta(seconds=seconds))
            with self.subTest(seconds), contextlib.nullcontext() if is_valid else self.assertRaises(InvalidToken):
                later.verify(token)

    def test_token_that_is_not_ours_is_rejected(self):
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
            "a header that nests": f"{urlsafe_b64encode(b'[' * 100_000).decode()}.{payload}.{signature}",
        }
        for name, token in bad.items():
            with self.subTest(name), self.assertRaises(InvalidToken):
                tokens().verify(token)


class ClaimsTest(unittest.TestCase):
    """Tokens that are signed with our key, as a leaked key or another program that shares it would sign them."""

    def setUp(self):
        now = int(datetime.now(UTC).timestamp())
        self.good = {"sub": ADA.user_id, "role": "customer", "iat": now, "exp": now + 60}

    def sign(self, payload, header=b'{"alg":"HS256","typ":"JWT"}'):
        """Return a token of JSON texts that no library has looked at."""
        text = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
        signature = hmac.digest(KEY.encode(), text, "sha256")
        return b".".join((text, urlsafe_b64encode(signature).rstrip(b"="))).decode()

    def with_claim(self, name, value):
        """Return a token with one claim of its own, given as JSON text."""
        others = json.dumps({other: value for other, value in self.good.items() if other != name})
        return self.sign(f'{others[:-1]}, "{name}": {value}}}'.encode())

    def test_a_time_that_is_no_moment_is_refused(self):
        values = (
            "1e30",
            "1" + "0" * 30,
            "-1" + "0" * 30,
            "9" * 5000,
            "NaN",
            "Infinity",
            "-Infinity",
            '"2100"',
            '"4102444800"',
            "[]",
            "[4102444800]",
            "{}",
            "true",
            "null",
            "253402300800",  # the year 10000
        )
        for claim in ("exp", "iat", "nbf"):
            for value in values:
                with self.subTest(claim=claim, value=value[:40]), self.assertRaises(InvalidToken):
                    tokens().verify(self.with_claim(claim, value))

    def test_a_token_that_has_expired_or_is_not_valid_yet_is_refused(self):
        for claim, value in (("exp", "0"), ("exp", "-1"), ("exp", "-62135596801"), ("nbf", "253402300799")):
            with self.subTest(claim=claim, value=value), self.assertRaises(InvalidToken):
                tokens().verify(self.with_claim(claim, value))

    def test_token_is_valid_from_the_second_of_its_nbf(self):
        for seconds, is_valid in ((-1, False), (0, True), (1, True)):
            now = datetime.fromtimestamp(self.good["iat"] + 30 + seconds, UTC)
            clocked = Tokens(KEY, (), lifetime=60, clock=lambda now=now: now)
            with self.subTest(seconds), contextlib.nullcontext() if is_valid else self.assertRaises(InvalidToken):
                clocked.verify(self.with_claim("nbf", str(self.good["iat"] + 30)))

    def test_moments_with_a_fraction_and_a_past_nbf_are_accepted(self):
        for claim, value in (("exp", "4102444800.5"), ("iat", "-1"), ("iat", "0.25"), ("nbf", "0")):
            with self.subTest(claim=claim, value=value):
                self.assertEqual(ADA, tokens().verify(self.with_claim(claim, value)))

    def test_a_subject_that_is_no_id_is_refused(self):
        for value in ('"ada"', '""', "7", "null", "[]", "{}", f'"{ADA.user_id}\\u0000"', f'"{{{ADA.user_id}}}"'):
            with self.subTest(value), self.assertRaises(InvalidToken):
                tokens().verify(self.with_claim("sub", value))

    def test_a_role_that_is_unknown_is_refused(self):
        for value in ('"admin"', '"d"', '"z"', '"STAFF"', '""', "null", "[]", '["staff"]', "{}", "true"):
            with self.subTest(value), self.assertRaises(InvalidToken):
                tokens().verify(self.with_claim("role", value))

    def test_json_of_any_other_shape_is_refused(self):
        payload, deep = json.dumps(self.good).encode(), b"[" * 50_000 + b"]" * 50_000
        tokens_of = {
            "payload that is no object": self.sign(b"[]"),
            "payload that is no JSON": self.sign(b"{"),
            "payload that is empty": self.sign(b""),
            "payload that is not UTF-8": self.sign(b'{"sub": "\xff"}'),
            "payload that nests": self.sign(deep),
            "claim that nests": self.with_claim("aud", deep.decode()),
            "audience": self.with_claim("aud", '"another service"'),
            "header that is no object": self.sign(payload, b"[]"),
            "header that nests": self.sign(payload, deep),
            "header with an algorithm that is a list": self.sign(payload, b'{"alg":["HS256"]}'),
            "header with a huge number": self.sign(payload, b'{"alg":"HS256","kid":' + b"9" * 5000 + b"}"),
            "header with a critical extension": self.sign(payload, b'{"alg":"HS256","crit":["exp"]}'),
            "header with a critical extension of no name": self.sign(payload, b'{"alg":"HS256","crit":[{}]}'),
            "header with a detached payload": self.sign(payload, b'{"alg":"HS256","b64":false,"crit":["b64"]}'),
        }
        for name, token in tokens_of.items():
            with self.subTest(name), self.assertRaises(InvalidToken):
                tokens().verify(token)

    json_values = strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
        lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
        max_leaves=5,
    )

    # Without a database of examples: it would be a folder in the checkout.
    @settings(max_examples=60, deadline=None, database=None)
    @given(
        header=strategies.dictionaries(
            strategies.sampled_from(["typ", "kid", "crit", "b64", "alg"]), json_values, max_size=1
        ),
        claims=strategies.dictionaries(
            strategies.sampled_from(["sub", "role", "iat", "exp", "nbf", "aud", "iss", "jti"]), json_values, max_size=2
        ),
    )
    def test_no_token_raises_anything_but_a_refusal(self, header, claims):
        token = self.sign(
            json.dumps(self.good | claims, ensure_ascii=True).encode(), json.dumps({"alg": "HS256"} | header).encode()
        )
        with contextlib.suppress(InvalidToken):
            tokens().verify(token)


class RememberedTest(unittest.TestCase):
    """Verified tokens are remembered, and nothing else is."""

    def setUp(self):
        self.now = datetime.now(UTC)
        self.tokens = Tokens(KEY, (), lifetime=3600, clock=lambda: self.now)
        self.decode = self.enterContext(mock.patch.object(jwt, "decode", wraps=jwt.decode))

    def test_a_token_is_checked_once(self):
        token = self.tokens.issue(ADA)
        self.assertEqual([ADA] * 3, [self.tokens.verify(token) for _ in range(3)])
        self.assertEqual(1, self.decode.call_count)

    def test_a_token_is_not_remembered_past_its_time(self):
        token = self.tokens.issue(ADA)
        self.tokens.verify(token)
        self.now += timedelta(seconds=3599)
        self.assertEqual(ADA, self.tokens.verify(token))
        self.now += timedelta(seconds=1)
        for _ in range(2):
            with self.assertRaises(InvalidToken):
                self.tokens.verify(token)
        self.assertEqual({}, self.tokens._cache)

    def test_a_token_is_good_until_the_second_in_which_it_expires(self):
        self.now = self.now.replace(microsecond=0)
        token = self.tokens.issue(ADA)
        self.tokens.verify(token)
        self.now += timedelta(seconds=3600)
        self.assertIsNone(self.tokens.recall(token))

    def test_changed_copy_of_a_cached_token_is_rejected(self):
        token = self.tokens.issue(ADA)
        self.tokens.verify(token)
        for changed in (token[:-1], token + "A", token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), token.upper()):
            with self.subTest(changed[-4:]), self.assertRaises(InvalidToken):
                self.tokens.verify(changed)

    def test_a_refusal_is_not_remembered(self):
        forged = tokens(OLD_KEY).issue(ADA)
        for _ in range(2):
            with self.assertRaises(InvalidToken):
                self.tokens.verify(forged)
        self.assertEqual(2, self.decode.call_count)
        self.assertEqual({}, self.tokens._cache)

    def test_other_keys_remember_nothing_of_these(self):
        token = self.tokens.issue(ADA)
        self.tokens.verify(token)
        with self.assertRaises(InvalidToken):
            tokens(OLD_KEY).verify(token)

    def test_no_more_than_so_many_are_remembered_and_the_oldest_goes_first(self):
        issued = [self.tokens.issue(actor(number)) for number in range(4)]
        with mock.patch("shop.security.tokens.CACHE_SIZE", 3):
            for token in issued:
                self.tokens.verify(token)
        self.assertEqual(issued[1:], list(self.tokens._cache))

    def test_cache_keeps_its_size_when_many_tokens_are_verified(self):
        with mock.patch("shop.security.tokens.CACHE_SIZE", 300):
            for number in range(302):
                self.tokens.verify(self.tokens.issue(actor(number)))
        self.assertEqual(300, len(self.tokens._cache))

    def test_threads_that_verify_at_once_keep_the_bound(self):
        class Slow(dict):
            """One in which others get ahead while something is taken out."""

            def pop(self, *arguments):
                time.sleep(0.001)
                return super().pop(*arguments)

        self.tokens._cache = Slow()
        issued = [self.tokens.issue(actor(number)) for number in range(60)]
        with mock.patch("shop.security.tokens.CACHE_SIZE", 5), ThreadPoolExecutor(8) as threads:
            actors = list(threads.map(self.tokens.verify, issued * 3))
        self.assertEqual([actor(number) for number in range(60)] * 3, actors)
        self.assertLessEqual(len(self.tokens._cache), 5)


class PasswordsTest(unittest.TestCase):
    """Hashing and verifying."""

    def setUp(self):
        self.passwords = Passwords(time_cost=1, memory_cost=8, parallelism=1, slots=1)

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
        dummy, real = (call.args[0] for call in argon2.verify.call_args_list)
        self.assertEqual(dummy.split("$")[:4], real.split("$")[:4], "the parameters are the same")

    def test_a_hash_that_is_no_hash_verifies_nothing(self):
        self.assertFalse(self.passwords.verify("!", "!"))

    def test_other_parameters_ask_for_a_rehash(self):
        hashed = self.passwords.hash("secret1")
        self.assertFalse(self.passwords.needs_rehash(hashed))
        self.assertTrue(Passwords(time_cost=2, memory_cost=8, parallelism=1, slots=1).needs_rehash(hashed))

    def test_without_a_free_slot_a_request_is_rejected_at_once(self):
        with self.passwords.slot():
            with self.assertRaises(ServiceUnavailable) as refused, self.passwords.slot():
                self.fail("there was a slot")
            self.assertIn("Retry-After", refused.exception.headers)
        with self.assertRaises(InvalidToken), self.passwords.slot():
            raise InvalidToken
        with self.passwords.slot():
            self.assertTrue(self.passwords.verify(self.passwords.hash("secret1"), "secret1"))

    def test_one_thread_hashes_and_yields_to_the_others(self):
        seen = []

        def hash_and_look(*_):
            seen.append((threading.current_thread(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
            return "hash"

        argon2 = mock.Mock(hash=hash_and_look)
        with mock.patch.object(self.passwords, "_argon2", argon2), ThreadPoolExecutor(3) as threads:
            self.assertEqual(["hash"] * 3, list(threads.map(self.passwords.hash, ["a", "b", "c"])))
        self.assertEqual(1, len(set(seen)), seen)
        if sys.platform == "linux":
            # 19 is the lowest priority there is.
            self.assertEqual(min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, 19), seen[0][1])

    def test_a_process_that_was_forked_hashes_with_a_thread_of_its_own(self):
        with warnings.catch_warnings():
            # Python warns of forking a process that has threads; this is the reason why.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if self.passwords.verify(self.passwords.hash("secret1"), "secret1") else 1)
        self.assertEqual(0, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
