"""`python -m unsay` is the command `unsay`."""

import sys

from unsay.cli import main

if __name__ == "__main__":
    sys.exit(main())
