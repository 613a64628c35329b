"""`python -m triptych`: the console command, for launchers that want a module."""

import sys

from triptych.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
