"""``python -m arraystore`` is the command ``arraystore``."""

import sys

from arraystore.cli.commands import main

sys.exit(main())
