"""CLIP and head as one module, its batches, and explanations; no HTTP."""
