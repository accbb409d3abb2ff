"""The main process of a server's or a site's container: its kit, readiness and stop, its jobs' processes, resources and logs."""
