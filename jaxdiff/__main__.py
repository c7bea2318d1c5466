"""``python -m jaxdiff`` is the command ``jaxdiff``."""

import sys

from jaxdiff.app.main import main

sys.exit(main())
