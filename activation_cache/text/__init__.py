"""Documents, retries, and packing into blocks of tokens."""
