"""Measure a dictionary on held-out text: `featureloom evaluate`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("evaluate")
