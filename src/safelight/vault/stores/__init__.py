"""Where the vault keeps its objects: a directory or a bucket, behind one small interface."""
