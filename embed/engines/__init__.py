"""Where vectors are computed: this machine or a Ray cluster."""
