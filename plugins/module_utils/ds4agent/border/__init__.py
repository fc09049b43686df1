"""What comes from outside: read with limits of bytes and time, shown without doing anything."""
