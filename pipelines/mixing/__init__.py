"""What a mixer is made of: weights, the fused and the unfused route, and the choice between them."""
