"""The stores of a vault's objects: a directory or a bucket, behind one small interface."""
