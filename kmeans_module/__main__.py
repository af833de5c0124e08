"""``python -m kmeans_module``: the command line, also where its libraries cannot be imported."""

from __future__ import annotations

import sys

from kmeans_module.usage import answer


def main() -> None:
    """Run the command line of the process; see :func:`kmeans_module.cli.main`."""
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt:  # cli.main sees those that come later
        sys.stderr.write("kmeans: interrupted\n")
        sys.exit(130)


def _run(args: list[str]) -> None:
    said = answer(args)
    if said is not None:  # at once: to import Lightning takes seconds
        sys.stdout.write(said)
        return
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write("kmeans: loading PyTorch and Lightning\n")
    try:
        from kmeans_module.cli import main as run
    except OSError as error:  # torchmetrics looks for a folder of temporary files when imported
        sys.exit(f"kmeans: {error}")
    run()


if __name__ == "__main__":
    main()
