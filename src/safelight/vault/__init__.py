"""The vault keeps sealed images: a store of immutable objects, and chains of records on top. See docs/vault.md."""
