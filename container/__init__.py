"""What goes into the images, and `make image-check`, which builds and tries them without a container engine."""
