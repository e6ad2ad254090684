"""`python -m ccm` is `ccm`."""

import sys

from ccm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
