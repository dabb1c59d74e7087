"""Where sealed images are kept: a store of immutable objects, and chains of records above it. See docs/vault.md."""
