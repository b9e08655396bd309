"""Storage backends: what a logical unit keeps its blocks in."""
