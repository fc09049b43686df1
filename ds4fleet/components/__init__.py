"""What we put on a Mac, one file per thing."""
