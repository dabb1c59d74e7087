"""The client library: one user's session with the cluster. It never imports the terminal."""
