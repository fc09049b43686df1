"""What a Mac is and has: questions to its tools, and the shape of the answers."""
