"""What the command line does with adapters; each module adds its commands to the parser."""
