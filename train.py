"""Train k-means from a configuration: the command line of the package."""

from kmeans_module.cli import main

if __name__ == "__main__":
    main()
