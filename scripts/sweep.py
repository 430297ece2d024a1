"""Train a grid of dictionaries on one stream: `featureloom sweep`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("sweep")
