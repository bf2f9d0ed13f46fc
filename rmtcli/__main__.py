"""``python -m rmtcli``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, whose modules Python would import before all others
    from rmtcli.cli.main import main

    main()
