"""Torrents and magnet links: another source for a key."""
