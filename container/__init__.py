"""Package lists of the container images, and their build and test without Docker (`make image-check`)."""
