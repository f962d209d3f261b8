"""The resources of ``/openapi.json``, ``/docs`` and ``/docs/{asset}``; the page loads nothing from other servers."""

import gzip
import re
from collections.abc import Callable
from functools import cache, cached_property
from importlib import resources
from typing import Any

import falcon

from shop import errors, exactjson
from shop.api.context import Request
from shop.api.operations import Success, operation
from shop.api.response_schemas import OpenApi

# The page may run its own scripts and call this server, nothing else. No site may put it into a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Matches an Accept-Encoding with `gzip`, unless its weight is 0 (RFC 9110, section 12.5.3).
_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:,|$|;(?!\s*q=0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE)
# The name in the path, and the file's package, path in the package and media type.
ASSETS = {
    "docs.js": ("shop.api.openapi", "assets/docs.js", "text/javascript"),
    "swagger-ui.js": ("offapi", "swagger_bundle.js", "text/javascript"),
    "swagger-ui.css": ("offapi", "swagger_style.css", "text/css"),
}
PAGE = Success(200, "The page", None, ("Content-Security-Policy", "Referrer-Policy"), media_types=("text/html",))
ASSET = Success(200, "The script or style sheet", None, media_types=("text/javascript", "text/css"))


class OpenApiResource:
    """``/openapi.json``.

    Args:
        build: Returns the OpenAPI document. It is called at the first request: it takes a large part of a process's
            start, and most processes get no such request.
    """

    def __init__(self, build: Callable[[], dict[str, Any]]) -> None:
        self._build = build

    @cached_property
    def _text(self) -> bytes:
        return exactjson.dumps(self._build())

    @operation("describeApi", success=Success(200, "The OpenAPI 3.1 document", OpenApi), is_public=True)
    def on_get(self, _request: Request, response: falcon.Response) -> None:
        """Return this document."""
        response.data = self._text


class DocsResource:
    """``/docs``."""

    @operation("readDocs", success=PAGE, is_public=True)
    def on_get(self, request: Request, response: falcon.Response) -> None:
        """Return a page that shows this document and sends requests."""
        response.set_header("Content-Security-Policy", POLICY)
        response.set_header("Referrer-Policy", "no-referrer")
        _send(request, response, "shop.api.openapi", "assets/docs.html", "text/html; charset=utf-8")


class DocsAssetResource:
    """``/docs/{asset}``."""

    @operation("readDocsAsset", success=ASSET, errors=(errors.NotFound,), is_public=True)
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
    """Return a file of a package, uncompressed and compressed: gzip makes 0.4 MB of 1.6 MB of scripts."""
    plain = resources.files(package).joinpath(name).read_bytes()
    return plain, gzip.compress(plain, mtime=0)
