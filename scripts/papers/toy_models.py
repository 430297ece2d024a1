"""Reproduce Toy Models of Superposition: `featureloom papers toy-models`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("papers", "toy-models")
