"""``POST /users``, ``POST /users/login`` and ``GET /users/{id}``: successes and errors."""

import re
from datetime import UTC, datetime, timedelta
from unittest import mock

from shop import exactjson
from shop.demo.factories import PASSWORD, UserFactory
from shop.domain.models import User
from shop.security.passwords import Passwords
from tests.harness.postgres import setUpModule, tearDownModule
from tests.support.cases import ApiTestCase, make_client, rfc3339

NOBODY = "0199e0c1-0000-7000-8000-000000000001"


class RegistrationTest(ApiTestCase):
    """``POST /users``."""

    def test_registered_user_is_returned_and_stored_with_location(self):
        before = datetime.now(UTC)
        body = UserFactory.body(name="Ada Lovelace", email="ada@example.com")
        response = self.client.post("/users", body)
        user = User.get(User.email == "ada@example.com")
        self.assertUserShown(user, response.json)
        self.assertEqual(f"/users/{user.id}", response.headers["Location"])
        self.assertEqual("application/json", response.content_type)
        self.assertEqual(("Ada Lovelace", "customer", 7), (user.name, user.role, user.id.version))
        self.assertTrue(before <= user.created_at <= datetime.now(UTC))

    def test_password_is_stored_only_as_an_argon2id_hash(self):
        user_id = self.client.post("/users", UserFactory.body(password="pa55word")).json["id"]
        stored = User.get_by_id(user_id).password_hash
        self.assertRegex(stored, r"^\$argon2id\$")
        self.assertNotIn("pa55word", stored)

    def test_absent_null_and_empty_fields_are_all_listed_as_missing(self):
        for body in ({}, {"name": None, "email": None, "password": None}, {"name": "", "email": " ", "password": ""}):
            with self.subTest(body):
                response = self.client.post("/users", body, status=400)
                self.assertProblem(response, 400, "MISSING_FIELDS", "name, email and password are required")
                self.assertFields(dict.fromkeys(("name", "email", "password"), "is required"), response)

    def test_single_missing_field_is_named_in_the_singular(self):
        body = UserFactory.body()
        del body["email"]
        response = self.client.post("/users", body, status=400)
        self.assertProblem(response, 400, "MISSING_FIELDS", "email is required")

    def test_request_without_body_misses_every_field(self):
        response = self.client.request("POST", "/users", status=400)
        self.assertProblem(response, 400, "MISSING_FIELDS", "name, email and password are required")

    def test_missing_and_invalid_fields_are_reported_together(self):
        response = self.client.post("/users", {"name": "A", "password": "12345", "role": "staff"}, status=400)
        self.assertProblem(response, 400, "MISSING_FIELDS", "email is required")
        self.assertFields(
            {
                "name": "must have at least 2 characters",
                "email": "is required",
                "password": "must have at least 6 characters",
                "role": "is not a known field",
            },
            response,
        )

    def test_value_one_step_over_each_limit_is_refused(self):
        for field, value, fault in (
            ("name", "A", "must have at least 2 characters"),
            ("name", "A" * 101, "must have at most 100 characters"),
            ("name", " A ", "must have at least 2 characters"),
            ("name", 17, "must be a string"),
            ("name", "A\0da", "must not contain the character NUL"),
            ("email", "ada", "must be a valid e-mail address"),
            ("email", "ada@", "must be a valid e-mail address"),
            ("email", "ada@example", "must be a valid e-mail address"),
            ("email", "ada@@example.com", "must be a valid e-mail address"),
            ("email", f"{'a' * 65}@example.com", "must be a valid e-mail address"),
            ("email", ["ada@example.com"], "must be a string"),
            ("password", "12345", "must have at least 6 characters"),
            ("password", "x" * 256, "must have at most 255 characters"),
            ("password", "secret\0", "must not contain the character NUL"),
            ("password", 123456, "must be a string"),
            ("role", "staff", "is not a known field"),
        ):
            with self.subTest(field=field, value=value):
                response = self.client.post("/users", UserFactory.body(**{field: value}), status=400)
                self.assertProblem(response, 400, "VALIDATION_ERROR", f"{field} {fault}")
                self.assertFields({field: fault}, response)
        self.assertEqual(0, User.select().count(), "nothing was written")

    def test_value_at_each_limit_is_accepted(self):
        for limits in (
            {"name": "Al", "password": "123456"},
            {"name": "é" * 100, "password": "ü" * 255},
            {"email": f"{'a' * 64}@{'b' * 63}.{'c' * 63}.example.com"},
            {"email": "o'hara+shop@xn--bcher-kva.example"},
        ):
            with self.subTest(limits):
                self.client.post("/users", UserFactory.body(**limits))

    def test_name_is_trimmed_and_composed(self):
        shown = self.client.post("/users", UserFactory.body(name="  Rene\u0301e ")).json
        self.assertEqual("Ren\u00e9e", shown["name"])

    def test_address_is_trimmed_composed_and_its_domain_lowercased(self):
        shown = self.client.post("/users", UserFactory.body(email=" Zoe\u0308@EXAMPLE.Com ")).json
        self.assertEqual("Zo\u00eb@example.com", shown["email"])

    def test_registered_address_is_409_in_any_case_and_composition(self):
        UserFactory.create(email="zo\u00eb@example.com")
        for email in (
            "zo\u00eb@example.com",
            "ZO\u00cb@Example.COM",
            "zoe\u0308@example.com",
            " zo\u00eb@example.com ",
        ):
            with self.subTest(email):
                response = self.client.post("/users", UserFactory.body(email=email), status=409)
                self.assertProblem(response, 409, "EMAIL_EXISTS", "Email already registered")
        self.assertEqual(1, User.select().count())

    def test_very_many_faults_are_cut_and_counted(self):
        body = UserFactory.body() | {f"unknown{number}": 1 for number in range(1900)}
        response = self.client.post("/users", body, status=400)
        self.assertEqual(501, len(response.json["errors"]))
        self.assertEqual({"field": "body", "error": "has 1400 more faults"}, response.json["errors"][-1])

    def test_long_name_of_an_unknown_field_is_cut(self):
        response = self.client.post("/users", UserFactory.body() | {"x" * 1000: 1}, status=400)
        self.assertFields({"x" * 100: "is not a known field"}, response)

    def test_unprintable_name_of_an_unknown_field_is_escaped(self):
        for name, shown in (("", '""'), ("\u202eeman", "\\u202eeman"), ("a\nb", "a\\u000ab")):
            with self.subTest(shown):
                response = self.client.post("/users", UserFactory.body() | {name: 1}, status=400)
                self.assertFields({shown: "is not a known field"}, response)


class LoginTest(ApiTestCase):
    """``POST /users/login``."""

    def test_login_returns_the_user_and_a_valid_token(self):
        user = UserFactory.create()
        response = self.client.post("/users/login", {"email": user.email, "password": user.password}, status=200)
        token = response.json["token"]
        self.assertEqual(
            {
                "id": str(user.id),
                "name": user.name,
                "email": user.email,
                "token": token,
                "tokenType": "Bearer",
                "expiresIn": 3600,
            },
            response.json,
        )
        self.assertEqual("no-store", response.headers["Cache-Control"])
        shown = self.client.get(f"/users/{user.id}", Authorization=f"Bearer {token}")
        self.assertUserShown(user, shown.json)

    def test_login_address_may_have_any_case(self):
        user = UserFactory.create(email="ada@example.com")
        self.client.post("/users/login", {"email": "ADA@Example.com", "password": user.password}, status=200)

    def test_unknown_address_and_wrong_password_get_the_same_response(self):
        user = UserFactory.create()
        answers = []
        for email, password in (
            (user.email, "wrong password"),
            ("nobody@example.com", PASSWORD),
            ("not an address", PASSWORD),
            (user.email, user.password + " "),
            (user.email, "x" * 300),
        ):
            with self.subTest(email=email, password=password):
                response = self.client.post("/users/login", {"email": email, "password": password}, status=401)
                self.assertProblem(response, 401, "INVALID_CREDENTIALS", "Invalid credentials")
                self.assertEqual("Bearer", response.headers["WWW-Authenticate"])
                answers.append(re.sub(rb'"requestId":"[^"]+"', b"", response.body))
        self.assertEqual(1, len(set(answers)))

    def test_missing_fields_are_listed(self):
        response = self.client.post("/users/login", {"password": ""}, status=400)
        self.assertProblem(response, 400, "MISSING_FIELDS", "email and password are required")

    def test_fields_of_the_wrong_type_are_refused(self):
        response = self.client.post("/users/login", {"email": 5, "password": ["x"], "remember": True}, status=400)
        self.assertProblem(response, 400, "VALIDATION_ERROR")
        self.assertFields(
            {"email": "must be a string", "password": "must be a string", "remember": "is not a known field"}, response
        )

    def test_hash_with_old_parameters_is_replaced_at_login(self):
        user = UserFactory.create()
        client = make_client(argon2_time_cost=2)
        client.post("/users/login", {"email": user.email, "password": user.password}, status=200)
        replaced = User.get_by_id(user.id).password_hash
        self.assertIn("t=2", replaced)
        client.post("/users/login", {"email": user.email, "password": user.password}, status=200)
        self.assertEqual(replaced, User.get_by_id(user.id).password_hash, "a current hash stays")

    def test_rehash_changes_only_the_account_that_logs_in(self):
        user = UserFactory.create()
        other = UserFactory.create(password_hash=user.password_hash)
        client = make_client(argon2_time_cost=2)
        client.post("/users/login", {"email": user.email, "password": user.password}, status=200)
        self.assertEqual(user.password_hash, User.get_by_id(other.id).password_hash)

    def test_rehash_does_not_replace_a_hash_that_has_changed_meanwhile(self):
        user = UserFactory.create()
        client = make_client(argon2_time_cost=2)

        def change_password(*_):
            User.update(password_hash="the hash of a new password").where(User.id == user.id).execute()
            return "the hash of the old password, with new parameters"

        with mock.patch.object(Passwords, "hash", change_password):
            client.post("/users/login", {"email": user.email, "password": user.password}, status=200)
        self.assertEqual("the hash of a new password", User.get_by_id(user.id).password_hash)

    def test_wrong_password_does_not_replace_the_hash(self):
        user = UserFactory.create()
        make_client(argon2_time_cost=2).post("/users/login", {"email": user.email, "password": "wrong"}, status=401)
        self.assertEqual(user.password_hash, User.get_by_id(user.id).password_hash)


class UserItemTest(ApiTestCase):
    """``GET /users/{id}``."""

    def test_user_is_shown_to_that_user_and_to_staff(self):
        user = UserFactory.create()
        for reader in (user, UserFactory.create("staff")):
            self.assertUserShown(user, self.client.get(f"/users/{user.id}", user=reader).json)

    def test_upper_case_id_is_the_same_id(self):
        user = UserFactory.create()
        self.assertUserShown(user, self.client.get(f"/users/{str(user.id).upper()}", user=user).json)

    def test_foreign_unknown_and_malformed_id_get_the_same_404(self):
        reader, other = UserFactory.create_batch(2)
        answers = set()
        for user_id in (other.id, NOBODY, "not-an-id", "1", f"{{{reader.id}}}", f"{reader.id}0", "%00", "%F0%28"):
            with self.subTest(user_id):
                response = self.client.get(f"/users/{user_id}", user=reader, status=404, X_Request_ID="same")
                self.assertProblem(response, 404, "USER_NOT_FOUND", "User not found")
                answers.add((response.body, str(sorted(response.headers.items()))))
        self.assertEqual(1, len(answers), "the same 404, to the byte")

    def test_unknown_user_is_404_for_staff(self):
        response = self.client.get(f"/users/{NOBODY}", user=UserFactory.create("staff"), status=404)
        self.assertProblem(response, 404, "USER_NOT_FOUND", "User not found")

    def test_deleted_user_is_404_for_a_valid_token(self):
        user = UserFactory.create()
        user.delete_instance()
        self.assertProblem(self.client.get(f"/users/{user.id}", user=user, status=404), 404, "USER_NOT_FOUND")


class TokenTest(ApiTestCase):
    """Bearer tokens: which are accepted, and how others are refused."""

    def test_missing_token_gets_a_challenge_without_error_code(self):
        user = UserFactory.create()
        for headers in ({}, {"Authorization": ""}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
            with self.subTest(headers):
                response = self.client.get(f"/users/{user.id}", status=401, **headers)
                self.assertProblem(response, 401, "UNAUTHORIZED", "A bearer token is required")
                self.assertEqual("Bearer", response.headers["WWW-Authenticate"])

    def test_unverifiable_token_gets_invalid_token(self):
        user = UserFactory.create()
        late = make_client(clock=lambda: datetime.now(UTC) - timedelta(seconds=3601))
        foreign = make_client(secret_key="another key that is also long enough, of 32 bytes and more")
        for name, token in {
            "nonsense": "nonsense",
            "malformed": "=",
            "expired": late.token(user),
            "signed with another key": foreign.token(user),
        }.items():
            with self.subTest(name):
                response = self.client.get(f"/users/{user.id}", status=401, Authorization=f"Bearer {token}")
                self.assertProblem(response, 401, "UNAUTHORIZED", "The bearer token is invalid or has expired")
                self.assertEqual('Bearer error="invalid_token"', response.headers["WWW-Authenticate"])

    def test_header_with_more_than_a_token_is_invalid(self):
        user = UserFactory.create()
        token = self.client.token(user)
        for sent in (f"Bearer {token} {token}", f"Bearer {token}, Basic YTpi", f"bearer {token}\u00e9"):
            with self.subTest(sent):
                response = self.client.get(f"/users/{user.id}", status=401, Authorization=sent)
                self.assertProblem(response, 401, "UNAUTHORIZED")

    def test_bearer_scheme_may_have_any_case(self):
        user = UserFactory.create()
        self.client.get(f"/users/{user.id}", Authorization=f"bearer {self.client.token(user)}")

    def test_token_stays_valid_after_key_rotation(self):
        user = UserFactory.create()
        token = make_client(secret_key="the former key and long enough with its 32 bytes").token(user)
        rotated = make_client(secret_key_fallbacks="the former key and long enough with its 32 bytes")
        rotated.get(f"/users/{user.id}", Authorization=f"Bearer {token}")

    def test_times_are_rfc_3339_utc_with_microseconds_even_if_zero(self):
        user = UserFactory.create(created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        shown = self.client.get(f"/users/{user.id}", user=user).json["createdAt"]
        self.assertEqual("2026-01-02T03:04:05.000000Z", shown)
        self.assertEqual(rfc3339(user.created_at), shown)


class NeverInARegistrationTest(ApiTestCase):
    """Passwords and hashes in responses."""

    def test_no_response_has_the_password_or_its_hash(self):
        body = UserFactory.body(password="do not repeat me")
        registered = self.client.post("/users", body)
        user = User.get_by_id(registered.json["id"])
        login = self.client.post("/users/login", {"email": body["email"], "password": body["password"]}, status=200)
        shown = self.client.get(f"/users/{user.id}", user=user)
        refused = self.client.post("/users", body | {"name": "A"}, status=400)
        for response in (registered, login, shown, refused):
            self.assertNotIn(b"do not repeat me", response.body)
            self.assertNotIn(user.password_hash.encode(), response.body)
            self.assertNotIn(exactjson.dumps(user.password_hash), response.body)
