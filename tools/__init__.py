"""Development tools: they draw the pictures and the samples that are checked in. Nothing imports them but tests."""
