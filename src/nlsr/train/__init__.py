"""Training: recipes, pairs of images, and the loop. Needs the extra `train` (Lightning) for the loop only."""
