"""Vector stores on disk: keys, spec, segments, manifest, lock, compaction."""
