"""How messages and blobs travel: channels, keys, blob transfer."""
