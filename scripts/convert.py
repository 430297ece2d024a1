"""Write a dictionary in the layout of another project: `featureloom convert`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("convert")
