"""The Hugging Face hub: published releases by name, downloads, model cards, uploads."""
