"""The same service without what makes it fast, for gunicorn: ``gunicorn benchmark.baseline:app``."""

from benchmark import without

for trick in without.TRICKS.values():
    trick()

# What has been taken out is taken out of modules that are imported only now.
from shop.app import create_app  # noqa: E402
from shop.settings import Settings  # noqa: E402

app = create_app(Settings.load())
