"""Print the sites of a model and what holds at them: `featureloom models`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("models")
