"""Run the command ``arraystore`` as ``python -m arraystore``."""

import sys

from arraystore.cli.commands import main

sys.exit(main())
