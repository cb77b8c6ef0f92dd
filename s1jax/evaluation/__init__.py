"""What a model answered, and whether it is right: extraction, grading, and what follows from it."""
