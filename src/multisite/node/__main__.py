"""`python -m multisite.node`: a server's or a site's container, until it ends."""

import sys

from multisite.node.main import main

if __name__ == "__main__":
    sys.exit(main())
