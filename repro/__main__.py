"""`python -m repro`: the command line."""

import sys


def main() -> None:
    """Run the command and leave with its exit code."""
    from repro.cli import main

    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    main()
