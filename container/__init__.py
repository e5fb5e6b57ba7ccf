"""Package lists of the container images, and `make image-check`, which builds and tests them without Docker."""
