"""What a training has reached, in figures."""
