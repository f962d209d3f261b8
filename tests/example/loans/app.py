"""The API of the library."""

import secrets
from datetime import UTC, datetime
from typing import Any

import falcon
from peewee import IntegrityError

from loans.models import Book, Loan, Member, connect_to, database


class Connection:
    """Peewee's recipe for Falcon: each request takes a connection from the pool and gives it back."""

    def process_request(self, request: Any, response: Any) -> None:
        """Connect."""
        database.connect()

    def process_response(self, request: Any, response: Any, resource: Any, succeeded: bool) -> None:
        """Give the connection back."""
        if not database.is_closed():
            database.close()


class Members:
    """``/members``."""

    def on_post(self, request: Any, response: Any) -> None:
        """Join the library."""
        member = Member.create(name=_field(request, "name"), key=secrets.token_hex(16))
        response.status = 201
        response.media = {"id": member.id, "name": member.name, "key": member.key}


class MemberLoans:
    """``/members/{member_id}/loans``."""

    def on_get(self, request: Any, response: Any, member_id: int) -> None:
        """Show what a member has."""
        if _member(request).id != member_id:
            raise falcon.HTTPForbidden
        found = Loan.select().where(Loan.member == member_id, Loan.returned_at.is_null()).order_by(Loan.id)
        response.media = {"loans": [_shown(loan) for loan in found]}


class Loans:
    """``/loans``."""

    def on_post(self, request: Any, response: Any) -> None:
        """Borrow a book."""
        member = _member(request)
        book = Book.get_or_none(Book.id == _field(request, "book"))
        if book is None:
            raise falcon.HTTPNotFound
        try:
            with database.atomic():
                loan = Loan.create(book=book, member=member, lent_at=datetime.now(UTC))
        except IntegrityError:
            raise falcon.HTTPConflict(description="somebody has this book") from None
        response.status = 201
        response.media = _shown(loan)


class Return:
    """``/loans/{loan_id}/return``."""

    def on_post(self, request: Any, response: Any, loan_id: int) -> None:
        """Bring a book back."""
        member = _member(request)
        with database.atomic():
            mine = Loan.select().where(Loan.id == loan_id, Loan.member == member, Loan.returned_at.is_null())
            loan = mine.for_update().first()
            if loan is None:
                raise falcon.HTTPNotFound
            loan.returned_at = datetime.now(UTC)
            loan.save()
        response.media = _shown(loan)


def create_app(url: str) -> Any:
    """Return the WSGI application on the database at `url`."""
    connect_to(url)
    app = falcon.App(middleware=[Connection()])
    app.add_route("/members", Members())
    app.add_route("/members/{member_id:int}/loans", MemberLoans())
    app.add_route("/loans", Loans())
    app.add_route("/loans/{loan_id:int}/return", Return())
    return app


def _field(request: Any, name: str) -> Any:
    document = request.get_media()
    if not isinstance(document, dict) or not document.get(name):
        raise falcon.HTTPBadRequest(description=f"{name} is required")
    return document[name]


def _member(request: Any) -> Member:
    member = Member.get_or_none(Member.key == request.get_header("X-Api-Key", default=""))
    if member is None:
        raise falcon.HTTPUnauthorized
    return member


def _shown(loan: Loan) -> dict[str, Any]:
    return {"id": loan.id, "book": loan.book_id, "member": loan.member_id, "returned": loan.returned_at is not None}
