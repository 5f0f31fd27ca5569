"""Measurements of the studio itself: `pigment bench studio`."""
