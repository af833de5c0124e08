"""``python -m kmeans_module``: the command line, also where its libraries cannot be imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of the process; see :func:`kmeans_module.cli.main`."""
    try:
        from kmeans_module.cli import main as run
    except OSError as error:  # torchmetrics looks for a folder of temporary files when imported
        sys.exit(f"kmeans: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("kmeans: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
