"""What README quotes: programs that measure, to be run by anybody."""
