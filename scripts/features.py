"""What every feature of a dictionary responds to: `featureloom features`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("features")
