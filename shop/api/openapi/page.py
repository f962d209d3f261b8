"""``/openapi.json``, ``/docs`` and what the page is made of: the API describes itself, without a network."""

import gzip
import re
from collections.abc import Callable
from functools import cache, cached_property
from importlib import resources
from typing import Any

import falcon

from shop import errors, exactjson
from shop.api.context import Request
from shop.api.openapi import documents
from shop.api.operations import Success, operation

# The page runs its own scripts and asks this server; nothing else, and nobody may put it into a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# `gzip` among the codings that are accepted, and not with a weight of nothing (RFC 9110, section 12.5.3).
_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:,|$|;(?!\s*q=0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE)
# By the name in the path: the package it is in, the name there, its media type.
ASSETS = {
    "docs.js": ("shop.api.openapi", "assets/docs.js", "text/javascript"),
    "swagger-ui.js": ("offapi", "swagger_bundle.js", "text/javascript"),
    "swagger-ui.css": ("offapi", "swagger_style.css", "text/css"),
}
DESCRIPTION = Success(200, "The description, OpenAPI 3.1", documents.Description)
PAGE = Success(200, "The page", None, ("Content-Security-Policy", "Referrer-Policy"), media_types=("text/html",))
ASSET = Success(200, "The script or style sheet", None, media_types=("text/javascript", "text/css"))


class Description:
    """``/openapi.json``

    Args:
        describe: Returns the description. It is made for the first who asks: making it takes a good part of a start,
            and most processes are never asked.
    """

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe

    @cached_property
    def _text(self) -> bytes:
        return exactjson.dumps(self._describe())

    @operation("describeApi", "Return this description", success=DESCRIPTION, is_public=True)
    def on_get(self, _request: Request, response: falcon.Response) -> None:
        """Return the description."""
        response.data = self._text


class Page:
    """``/docs``"""

    @operation("readDocs", "Return a page that shows this document and sends requests", success=PAGE, is_public=True)
    def on_get(self, request: Request, response: falcon.Response) -> None:
        """Return the page."""
        response.set_header("Content-Security-Policy", POLICY)
        response.set_header("Referrer-Policy", "no-referrer")
        _send(request, response, "shop.api.openapi", "assets/docs.html", "text/html; charset=utf-8")


class Asset:
    """``/docs/{asset}``"""

    @operation("readDocsAsset", "Return a part of the page", success=ASSET, errors=(errors.NotFound,), is_public=True)
    def on_get(self, request: Request, response: falcon.Response, asset: str) -> None:
        """Return a script or a style sheet of the page."""
        if asset not in ASSETS:
            raise errors.NotFound
        _send(request, response, *ASSETS[asset])


def _send(request: Request, response: falcon.Response, package: str, name: str, media_type: str) -> None:
    accepts_gzip = bool(_GZIP.search(request.get_header("Accept-Encoding") or ""))
    plain, packed = _file(package, name)
    response.data = packed if accepts_gzip else plain
    response.content_type = media_type
    response.vary = ["Accept-Encoding"]
    response.cache_control = ["max-age=3600"]
    if accepts_gzip:
        response.set_header("Content-Encoding", "gzip")


@cache
def _file(package: str, name: str) -> tuple[bytes, bytes]:
    """Return a file of a package, as it is and compressed: 1.6 MB of script become 0.4 MB."""
    plain = resources.files(package).joinpath(name).read_bytes()
    return plain, gzip.compress(plain, mtime=0)
