"""The application for any WSGI server, its settings from the environment: ``shop.wsgi:app``."""

from shop.app import create_app
from shop.settings import Settings

app = create_app(Settings.load())
