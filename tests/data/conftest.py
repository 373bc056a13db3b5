"""What pytest leaves alone here."""

# TFDS registers a builder when its module is imported, and refuses the second import that collecting doctests makes.
collect_ignore = ["tiny_shapes.py"]
