"""The shipped job on NVFlare: its recipe, what the server and the sites run of it, its options, and its simulation."""
