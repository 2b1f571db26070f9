"""`python -m repro`: the command line."""

import signal
import sys


def main() -> None:
    """Run the command and leave with its exit code; a request to terminate is an interrupt."""
    from repro.cli import main

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    main()
