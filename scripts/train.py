"""Train a dictionary, evaluate it, and write a report: `featureloom train`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("train")
