"""The commands of `featureloom`, a module each. scripts/ has the same ones for a checkout."""
