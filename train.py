"""Train k-means from a configuration: the command line of the package."""

try:
    from kmeans_module.__main__ import main
except ModuleNotFoundError as error:
    raise SystemExit(
        f"train.py: {error.name} is not installed here; `make train` makes .venv, whose "
        "interpreter is .venv/bin/python"
    ) from None

if __name__ == "__main__":
    main()
