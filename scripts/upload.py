"""Publish a dictionary on the Hugging Face hub: `featureloom upload`, from a checkout."""

from featureloom import main

if __name__ == "__main__":
    main("upload")
