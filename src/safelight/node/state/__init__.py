"""What a node keeps: the data directory, the keyring file, users, the vault, its log."""
