"""The networks: text, images and sound, each one's configuration and modules in a file of its own."""
