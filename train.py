"""Train k-means from a configuration: the command line of the package."""

from kmeans_module.__main__ import main

if __name__ == "__main__":
    main()
