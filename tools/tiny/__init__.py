"""Tiny language models made on the spot: two that tell a story (shipped in `demo/`) and random ones for tests."""
