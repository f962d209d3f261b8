"""docs/settings.md, made from `Settings`: ``python -m tests.support.settings_page > docs/settings.md``."""

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
    rows = []
    for name, field in Settings.model_fields.items():
        default = f"`{field.default}`" if field.default not in (None, ()) else "none"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return _ABOVE + "\n".join(rows) + "\n" + _BELOW


if __name__ == "__main__":
    print(render(), end="")
