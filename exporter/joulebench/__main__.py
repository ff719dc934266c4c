"""The entry point of the ``joulebench`` command and of ``python -m joulebench``."""

from __future__ import annotations

import sys

from joulebench import __version__


def main() -> int:
    """Print the version at once, without loading any command; leave everything else to ``joulebench.cli``."""
    if sys.argv[1:] == ["--version"]:
        print(f"joulebench {__version__}")  # noqa: T201
        return 0
    from joulebench import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
