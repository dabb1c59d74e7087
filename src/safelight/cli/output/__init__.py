"""What a person sees: the console reporter, progress, tables."""
