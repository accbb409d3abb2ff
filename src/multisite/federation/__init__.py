"""What talks to NVFlare: provisioning policy, the node process, the job, and the client script."""
