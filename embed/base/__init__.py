"""What every sub-room uses: errors, text, threads, JSON lines."""
