"""The application for any WSGI server, with settings from the environment: ``shop.wsgi:app``.

It logs as `shop serve` does, but serves no metrics: the parent process of `shop serve` does that.
"""

import logging

from shop.app import create_app
from shop.serving import logs
from shop.serving.observer import RequestObserver
from shop.serving.proxies import Proxies
from shop.settings import Settings, unused_variables

settings = Settings.load()
app = create_app(
    settings,
    observer=RequestObserver(logs.configure(settings), None, Proxies(settings.trusted_proxies), settings.slow_query_ms),
)
for sentence in unused_variables():
    logging.getLogger(__name__).warning(sentence)
