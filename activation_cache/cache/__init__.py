"""Activations on disk or in object storage: shards and a manifest, with checksums."""
