"""``python -m shop`` is the ``shop`` command."""

import sys

from shop.cli import main

sys.exit(main())
