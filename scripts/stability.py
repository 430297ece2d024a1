"""Which features reappear over seeds: `featureloom stability`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("stability")
