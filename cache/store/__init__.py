"""Vectors of one feature spec on disk: keys, spec, segments, manifest, lock, compaction."""
