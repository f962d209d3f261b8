"""docs/settings.md, made from `Settings`: ``python -m tests.support.settings_page > docs/settings.md``."""

import ast
import inspect
from itertools import pairwise

from shop.settings import PREFIX, Settings

_ABOVE = """# Settings

The service reads its settings from environment variables. `shop serve --help` lists the options that override some
of them. `shop serve` logs a warning for a `SHOP_…` variable that is no setting, and names the closest one. Variables
that Kubernetes sets for a Service named `shop` are ignored.

This page is generated: `python -m tests.support.settings_page > docs/settings.md`.

| variable | default | meaning |
|---|---|---|
"""
_BELOW = """
## Settings of the tests

| variable | meaning |
|---|---|
| `SHOP_TEST_DATABASE_URL` | a PostgreSQL server to use, with a role that may create databases |
| `SHOP_TEST_SERVER` | `url`, `container` or `embedded`: force one of them |
| `SHOP_TEST_IMAGE` | the image of the container, `postgres:18-alpine` by default |
| `SHOP_TEST_SEED` | the seed of the factories, to repeat a run |
"""


def render() -> str:
    """Return the page as Markdown."""
    meanings = _meanings()
    rows = []
    for name, field in Settings.model_fields.items():
        default = f"`{field.default}`" if field.default not in (None, ()) else "none"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {meanings[name]} |")
    return _ABOVE + "\n".join(rows) + "\n" + _BELOW


def _meanings() -> dict[str, str]:
    """Return the text below each field of `Settings`. pydantic could read it too, but at each start of the service."""
    (settings,) = ast.parse(inspect.getsource(Settings)).body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(settings.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


if __name__ == "__main__":
    print(render(), end="")
