"""Startup kits: made from project.yml, with the policy that is written into them, and read by their participants."""
