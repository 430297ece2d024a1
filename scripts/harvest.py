"""Fill an activation cache, or check one: `featureloom harvest`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("harvest")
