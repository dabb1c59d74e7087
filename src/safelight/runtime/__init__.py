"""What the standard library lacks: atomic files, sendfile, TLS contexts, signals, descriptors."""
