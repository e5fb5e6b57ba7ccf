"""A dataset folder, pictures and CLIP; fills the cache. The only room that imports open_clip and PIL for images."""
