"""What runs in the admin container: a service that keeps a session with the server, and the command line that uses it."""
