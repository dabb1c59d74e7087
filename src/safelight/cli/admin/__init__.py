"""An operator's commands: users, the cluster's keys and leader, the vault. They need the keyring."""
