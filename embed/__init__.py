"""Read data sets and pictures, run CLIP over them and fill the cache. The only room that imports open_clip."""
