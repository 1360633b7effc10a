"""``python -m arraystore`` is the command ``arraystore``."""

import sys

from arraystore.cli import main

sys.exit(main())
